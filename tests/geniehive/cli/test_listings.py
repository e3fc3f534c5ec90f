"""The listing commands and orders, against a real control plane with one host that a test announces."""

import json

import pytest
import yaml

from geniehive.resources import (
    Asset,
    Gpu,
    GpuObserved,
    Health,
    HealthStatus,
    Host,
    HostFacts,
    HostObserved,
    Observed,
    Operation,
    Runtime,
    Service,
)
from tests.geniehive.cli.harness import daemon, geniehive, node

HOST = Host(
    host_id="atlas",
    display_name="Atlas",
    labels={"room": "attic"},
    trust_tier="trusted",
    facts=HostFacts(os="Linux", cpu_count=8, ram_total_bytes=64 * 2**30, gpus=(Gpu(index=0, vram_total_bytes=2**34),)),
)
SEEN = HostObserved(ram_available_bytes=32 * 2**30, gpus=(GpuObserved(index=0, vram_used_bytes=2**33),))
SERVICES = (
    Service(
        service_id="atlas/chat",
        host_id="atlas",
        operations=(Operation.CHAT,),
        endpoint="http://127.0.0.1:9",
        runtime=Runtime(engine="llama.cpp"),
        health=Health(status=HealthStatus.HEALTHY),
        observed=Observed(running=2),
        assets=(
            Asset(asset_id="qwen3-8b", aliases=("qwen",), loaded=True, context_size=32768, family="qwen3"),
            Asset(asset_id="[red]x\x1b[31m", loaded=False),
        ),
    ),
    Service(
        service_id="atlas/whisper",
        host_id="atlas",
        operations=(Operation.TRANSCRIPTION,),
        endpoint="http://127.0.0.1:10",
        health=Health(status=HealthStatus.UNHEALTHY, reason="connection refused"),
        assets=(Asset(asset_id="whisper-large"),),
    ),
)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cluster")
    (folder / "roles.yaml").write_text("roles: [{role_id: fast, routing_policy: {assets: [qwen3-8b]}}]")
    config = folder / "control.yaml"
    config.write_text(
        f"control: {{listen: '127.0.0.1:0', lease_ttl_s: 600}}\n"
        f"storage: {{url: 'sqlite+aiosqlite:///{folder}/db.sqlite3'}}\n"
        f"auth: {{node_api_keys: [node-key], admin_api_keys: [admin-key]}}\n"
        f"roles_path: roles.yaml\n"
    )
    with daemon("control", "--config", config) as control, node(control.where, HOST, SERVICES, SEEN, "node-key"):
        yield {"GENIEHIVE_CONFIG": str(config), "GENIEHIVE_CONTROL_PLANE__ADDRESS": control.where}


def rows(text):
    """A table as dicts; columns are found by where their names begin."""
    lines = text.rstrip("\n").split("\n")
    names = [name for name in lines[0].split("   ") if name]
    names = [name.strip() for name in names if name.strip()]
    starts = [lines[0].index(name) for name in names]
    ends = [*starts[1:], None]
    return [
        {name: line[start:end].strip() for name, start, end in zip(names, starts, ends, strict=True)}
        for line in lines[1:]
    ]


def test_ps_lists_what_is_in_memory(cluster):
    (row,) = rows(geniehive("ps", **cluster).stdout)
    assert row["MODEL"] == "qwen3-8b"
    assert row["RUNNING"] == "2"
    assert row["CONTEXT"] == "32k"
    everything = rows(geniehive("ps", "--all", **cluster).stdout)
    assert len(everything) == 3


def test_what_is_unknown_is_a_dash_and_never_zero(cluster):
    (row,) = rows(geniehive("ps", **cluster).stdout)
    assert row["WAITING"] == row["TOK/S"] == row["VRAM"] == "-"
    listed = {row["MODEL"]: row for row in rows(geniehive("models", **cluster).stdout)}
    assert listed["whisper-large"]["LOADED"] == "-/1"
    assert listed["qwen3-8b"]["LOADED"] == "1/1"


def test_nodes_shows_hosts(cluster):
    (row,) = rows(geniehive("nodes", **cluster).stdout)
    assert row["HOST"] == "atlas"
    assert row["STATUS"] == "up"
    assert row["SERVICES"] == "1/2"
    assert row["RAM FREE"] == "32Gi/64Gi"
    assert row["VRAM"] == "8.0Gi/16Gi"
    assert row["CPU"] == "-"
    (wide,) = rows(geniehive("nodes", "-o", "wide", **cluster).stdout)
    assert wide["LABELS"] == "room=attic"


def test_services_say_how_they_are_and_why(cluster):
    listed = {row["SERVICE"]: row for row in rows(geniehive("services", "-o", "wide", **cluster).stdout)}
    assert listed["atlas/chat"]["HEALTH"] == "healthy"
    assert listed["atlas/whisper"]["REASON"] == "connection refused"
    assert rows(geniehive("services", "--host", "atlas", **cluster).stdout)
    assert geniehive("services", "--host", "nobody", **cluster).stdout == ""


def test_json_and_yaml_have_every_field(cluster):
    as_json = json.loads(geniehive("services", "-o", "json", **cluster).stdout)
    as_yaml = yaml.safe_load(geniehive("services", "-o", "yaml", **cluster).stdout)
    assert as_json == as_yaml
    chat = next(service for service in as_json if service["service_id"] == "atlas/chat")
    assert chat["health"] == {"status": "healthy", "reason": ""}
    assert chat["observed"]["running"] == 2
    assert chat["observed"]["waiting"] is None
    models = json.loads(geniehive("models", "-o", "json", **cluster).stdout)
    assert {model["asset_id"] for model in models} >= {"qwen3-8b", "whisper-large"}


def test_a_model_with_an_odd_name_cannot_write_on_the_terminal(cluster):
    text = geniehive("models", **cluster).stdout
    assert "\x1b" not in text
    assert "[red]x" in text


def test_roles_are_listed(cluster):
    (row,) = rows(geniehive("roles", "-o", "wide", **cluster).stdout)
    assert row["ROLE"] == "fast"
    assert row["NEEDS"] == "qwen3-8b"


def test_route_resolve_says_where_a_name_leads(cluster):
    result = geniehive("route", "resolve", "qwen", **cluster)
    assert "qwen: matched as alias" in result.stdout
    assert "atlas/chat" in result.stdout
    document = json.loads(geniehive("route", "resolve", "fast", "-o", "json", **cluster).stdout)
    assert document["match"] == "role"
    assert document["candidates"][0]["asset_id"] == "qwen3-8b"


def test_route_resolve_of_nothing_names_near_misses(cluster):
    result = geniehive("route", "resolve", "qwen3-8c", **cluster)
    assert result.returncode == 5
    assert "qwen3-8b" in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_an_order_is_followed_to_its_end(cluster):
    result = geniehive("load", "atlas/chat", "qwen3-8b", **cluster)
    assert result.returncode == 0, result.stderr
    (row,) = rows(result.stdout)
    assert (row["KIND"], row["STATE"], row["MESSAGE"]) == ("load", "succeeded", "done")
    assert row in [{**one, "AGE": row["AGE"]} for one in rows(geniehive("commands", **cluster).stdout)]


def test_a_host_is_drained_and_resumed(cluster):
    assert "draining" in geniehive("drain", "atlas", **cluster).stdout
    (row,) = rows(geniehive("nodes", **cluster).stdout)
    assert row["STATUS"] == "up,draining"
    assert "available" in geniehive("resume", "atlas", **cluster).stdout
    assert geniehive("drain", "nobody", **cluster).returncode == 5


def test_a_node_key_reads_but_gives_no_orders(cluster):
    environ = {
        "GENIEHIVE_CONTROL_PLANE__ADDRESS": cluster["GENIEHIVE_CONTROL_PLANE__ADDRESS"],
        "GENIEHIVE_CONTROL_PLANE__NODE_API_KEY": "node-key",
    }
    assert geniehive("nodes", **environ).returncode == 0
    result = geniehive("drain", "atlas", **environ)
    assert result.returncode == 4
    assert "GENIEHIVE_API_KEY" in result.stderr
    assert geniehive("resume", "atlas", GENIEHIVE_API_KEY="admin-key", **environ).returncode == 0


@pytest.mark.parametrize("key", ["", "wrong"])
def test_without_a_good_key_one_line_says_what_to_do(cluster, key):
    address = cluster["GENIEHIVE_CONTROL_PLANE__ADDRESS"]
    result = geniehive("ps", "--control", address, GENIEHIVE_API_KEY=key)
    assert result.returncode == 4
    assert len(result.stderr.splitlines()) == 1
    assert "--config" in result.stderr


def test_an_unreachable_control_plane_gets_one_line(unused_port):
    result = geniehive("ps", "--control", f"127.0.0.1:{unused_port}")
    assert result.returncode == 3
    assert result.stdout == ""
    assert len(result.stderr.splitlines()) == 1
    assert "geniehive up" in result.stderr
    assert f"127.0.0.1:{unused_port}" in result.stderr
