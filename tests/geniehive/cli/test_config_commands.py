"""`geniehive config` and `geniehive version`."""

import json

import pytest
import yaml

from geniehive.cli.config_commands import flatten, masked
from tests.geniehive.cli.harness import geniehive


def test_check_says_that_an_example_is_good():
    result = geniehive("config", "check", "examples/single.yaml")
    assert result.returncode == 0
    assert result.stdout.startswith("examples/single.yaml: good (1 services, 8 roles)")


def test_check_finds_a_cycle_in_the_roles(tmp_path):
    (tmp_path / "roles.yaml").write_text("roles: [{role_id: a, routing_policy: {fallback_roles: [a]}}]")
    (tmp_path / "c.yaml").write_text("roles_path: roles.yaml")
    result = geniehive("config", "check", tmp_path / "c.yaml")
    assert result.returncode == 2
    assert "a → a" in result.stderr


def test_show_prints_a_config_that_can_be_used_again(tmp_path):
    result = geniehive("config", "show", "examples/node-vllm.yaml", GENIEHIVE_NODE__STATUS_PORT="9")
    assert yaml.safe_load(result.stdout)["node"]["status_port"] == 9
    (tmp_path / "again.yaml").write_text(result.stdout)
    assert geniehive("config", "check", tmp_path / "again.yaml").returncode == 0


def test_show_origin_tells_file_variable_and_default():
    result = geniehive(
        "config", "show", "examples/single.yaml", "--origin", "-o", "json", GENIEHIVE_NODE__TRUST_TIER="shared"
    )
    origins = {key: entry["origin"] for key, entry in json.loads(result.stdout).items()}
    assert origins["gateway.port"] == "examples/single.yaml:3"
    assert origins["node.trust_tier"] == "GENIEHIVE_NODE__TRUST_TIER"
    assert origins["gateway.workers"] == "default"
    assert origins["services[0].assets[0].family"].startswith("examples/single.yaml:")
    table = geniehive("config", "show", "examples/single.yaml", "--origin").stdout
    assert table.splitlines()[0].split() == ["KEY", "VALUE", "ORIGIN"]


def test_secrets_are_masked(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text(
        "auth: {client_api_keys: [s3cret], node_api_keys: [s3cret], admin_api_keys: [s3cret]}\n"
        "control_plane: {node_api_key: s3cret}\n"
        "storage: {url: 'postgresql+asyncpg://user:s3cret@db/x'}\n"
        "services: [{service_id: a, endpoint: 'http://h', api_key: s3cret, kind: chat,\n"
        "  runtime: {launcher: managed, command: [x], env: {TOKEN: s3cret}}}]\n"
    )
    for arguments in ((), ("--origin",), ("-o", "json"), ("--origin", "-o", "json")):
        text = geniehive("config", "show", path, *arguments).stdout
        assert "s3cret" not in text
        assert "***" in text
        assert "user:***@db" in text


def test_masking_leaves_the_rest_alone():
    assert masked({"max_tokens": 5, "api_key": "", "url": "http://h:1/x"}) == {
        "max_tokens": 5,
        "api_key": "",
        "url": "http://h:1/x",
    }
    assert flatten({"a": {"b": [1, {"c": 2}]}, "d": {}}) == [("a.b[0]", 1), ("a.b[1].c", 2), ("d", {})]


@pytest.mark.parametrize("arguments", [("nonsense",), ("ps", "-o", "xml"), ("load",), ("up", "--port", "70000")])
def test_wrong_usage_is_code_2(arguments):
    result = geniehive(*arguments)
    assert result.returncode == 2
    assert "Traceback" not in result.stderr


def test_version_tells_the_dependencies_too():
    from geniehive import __version__

    assert geniehive("version").stdout == f"geniehive {__version__}\n"
    facts = json.loads(geniehive("version", "-o", "json").stdout)
    assert facts["geniehive"] == __version__
    assert facts["aiohttp"]


@pytest.mark.parametrize(("compiled", "told"), [(True, "compiled"), (False, "python")])
def test_version_tells_whether_the_relay_is_compiled(monkeypatch, capsys, compiled, told):
    from geniehive.cli.options import Output
    from geniehive.cli.version import version

    monkeypatch.setattr("geniehive.relay.lane.COMPILED", compiled)
    version(Output.JSON)
    assert json.loads(capsys.readouterr().out)["relay"] == told
    version(Output.WIDE)
    assert f"relay {told}\n" in capsys.readouterr().out


def test_help_loads_no_component():
    import subprocess
    import sys

    code = (
        "import sys, geniehive.cli.commands\n"
        "print([m for m in ('grpc', 'aiohttp', 'sqlalchemy', 'rich', 'asyncio', 'controlplane') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
