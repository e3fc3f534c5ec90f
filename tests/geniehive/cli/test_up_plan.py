"""What `up` makes of a config."""

import importlib.util

import pytest

from geniehive.cli import up_plan, up_text
from geniehive.config_load import load_config
from geniehive.resources import Asset, Health, HealthStatus, Operation, Service
from tests.ports import free_run


@pytest.fixture
def plan(tmp_path):
    def plan(text="", port=0, **environ):
        path = tmp_path / "c.yaml"
        path.write_text(text)
        return up_plan.make_plan(load_config(path, environ), port=port, state_dir=tmp_path / "s", environ={})

    return plan


def test_state_goes_where_it_is_asked_for_unless_the_config_says_otherwise(plan, tmp_path):
    made = plan()
    assert made.config.storage.url == f"sqlite+aiosqlite:///{tmp_path}/s/geniehive.sqlite3"
    assert made.config.node.state_dir == str(tmp_path / "s")
    kept = plan("storage: {url: 'sqlite+aiosqlite:///x.db'}\nnode: {state_dir: y}").config
    assert (kept.storage.url, kept.node.state_dir) == ("sqlite+aiosqlite:///x.db", "y")


def test_everybody_dials_this_control_plane_with_its_first_node_key(plan):
    config = plan("control_plane: {address: 'far:1'}\nauth: {node_api_keys: [n]}").config
    assert config.control_plane.targets == (config.control.listen,)
    assert config.control_plane.node_api_key == "n"


def test_our_own_ports_are_not_taken_for_engines(plan, unused_port):
    text = f"gateway: {{port: {unused_port}}}\nnode: {{discover_ports: [{unused_port}, 11434]}}"
    config = plan(text, port=None, GENIEHIVE_CONTROL__LISTEN="127.0.0.1:0", GENIEHIVE_NODE__STATUS_PORT="0").config
    assert config.node.discover_ports == (11434,)


def test_ports_follow_the_one_that_is_given(plan):
    first = free_run(3)
    config = plan(port=first).config
    assert config.gateway.port == first
    assert config.control.listen == f"127.0.0.1:{first + 1}"
    assert config.node.status_port == first + 2


def test_the_embedded_service_gets_an_id_of_its_own(plan, tmp_path):
    made = plan("node: {host_id: h}\nservices: [{service_id: h/embedded, endpoint: 'http://h:1'}]")
    more = up_plan.with_embedded(made, tmp_path / "m.gguf").config.services
    assert [service.service_id for service in more] == ["h/embedded", "h/embedded1"]
    assert more[1].runtime.launcher == "managed"
    assert more[1].runtime.model == str(tmp_path / "m.gguf")


def test_the_embedded_engine_needs_no_more_than_the_extra_installs(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object() if name == "xllamacpp" else None)
    assert up_plan.embedded_installed()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert not up_plan.embedded_installed()


def test_the_derived_config_is_read_back_as_it_was(plan, tmp_path):
    config = up_plan.with_embedded(plan("auth: {client_api_keys: [k]}"), None).config
    path = tmp_path / "derived.json"
    path.write_text("old")
    up_plan.write_config(config, path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert load_config(path, {}).config == config


def test_children_do_not_apply_our_variables_again():
    environ = {"GENIEHIVE_GATEWAY__PORT": "1", "GENIEHIVE_ROLES_PATH": "x", "NOTIFY_SOCKET": "y", "HOME": "/h"}
    assert up_plan.child_environ(environ) == {"HOME": "/h"}


def test_state_has_its_place_in_the_home():
    assert str(up_plan.default_state_dir(None, {"HOME": "/h"})) == "/h/.local/state/geniehive/up"
    assert str(up_plan.default_state_dir(9000, {"XDG_STATE_HOME": "/x"})) == "/x/geniehive/up-9000"


def service(operation, asset_id, loaded=None):
    return Service(
        service_id="s", host_id="h", operations=(operation,), health=Health(status=HealthStatus.HEALTHY),
        assets=(Asset(asset_id=asset_id, loaded=loaded),),
    )  # fmt: skip


def test_the_curl_is_for_what_there_is():
    embed, chat = service(Operation.EMBEDDINGS, "e"), service(Operation.CHAT, "it's")
    url = "http://127.0.0.1:8800"
    assert "/v1/embeddings" in up_text.curl(url, up_text.serving([embed]), with_key=False)
    command = up_text.curl(url, up_text.serving([embed, chat]), with_key=False)
    assert "/v1/chat/completions" in command
    assert """it'"'"'s""" in command
    speech = up_text.serving([service(Operation.TRANSCRIPTION, "w")])
    assert up_text.curl(url, speech, with_key=True).startswith(f"curl -s {url}/v1/models -H ")


def test_models_in_memory_come_first():
    cold, warm = service(Operation.CHAT, "cold"), service(Operation.CHAT, "warm", loaded=True)
    assert [asset.asset_id for _, asset in up_text.serving([cold, warm])] == ["warm", "cold"]
