"""The whole agent against the real control plane, with real engines."""

import asyncio
import logging
import os
import signal
import sys
from contextlib import asynccontextmanager

import psutil
import pytest
from aiohttp import web
from msgspec.structs import replace

from controlplane import app as control_app
from geniehive import dial
from geniehive.config import (
    AuthConfig,
    Config,
    ControlConfig,
    ControlPlaneConfig,
    NodeConfig,
    RuntimeConfig,
    ServiceConfig,
    StorageConfig,
)
from geniehive.errors import ConfigError, Conflict
from geniehive.resources import Asset, Operation
from geniehive.v1 import cluster_service_pb2 as pb
from geniehive.v1 import cluster_service_pb2_grpc
from geniehive.v1 import resources_pb2 as res
from nodeagent import app
from nodeagent.embedded.options import EngineOptions
from tests.engine_fixture import running_engine
from tests.nodeagent.peers import OPENAI, http_server
from tests.ports import free_port

DEADLINE_S = 30.0


@pytest.fixture
def config(tmp_path):
    address = f"127.0.0.1:{free_port()}"
    return Config(
        control=ControlConfig(listen=address, lease_ttl_s=2, lease_grace_s=5, heartbeat_interval_s=0.5),
        control_plane=ControlPlaneConfig(address=address),
        storage=StorageConfig(url=f"sqlite+aiosqlite:///{tmp_path}/g.sqlite3"),
        node=NodeConfig(host_id="atlas", status_port=0, discover=False, state_dir=str(tmp_path)),
    )


@asynccontextmanager
async def daemon(run, config):
    """Run a daemon until the block ends; what it said when it was ready."""
    stop, told = asyncio.Event(), asyncio.get_running_loop().create_future()
    task = asyncio.create_task(run(config, stop=stop, ready=told.set_result))
    try:
        await asyncio.wait({task, told}, return_when=asyncio.FIRST_COMPLETED)
        yield told.result() if told.done() else await task
    finally:
        stop.set()
        await task


@asynccontextmanager
async def operator(config, **keys):
    async with dial.control_channel([config.control.listen]) as channel:
        yield cluster_service_pb2_grpc.ClusterServiceStub(channel), dial.metadata(**keys)


async def until(check, deadline_s=DEADLINE_S):
    """Poll an async check until it is truthy; what it returned."""
    async with asyncio.timeout(deadline_s):
        while not (found := await check()):
            await asyncio.sleep(0.02)
        return found


async def services(stub):
    return {one.service_id: one for one in (await stub.ListServices(pb.ListServicesRequest())).services}


def health_is(stub, service_id, status):
    async def check():
        found = (await services(stub)).get(service_id)
        return found if found is not None and found.health.status == status else None

    return check


def chat(endpoint, **fields):
    return ServiceConfig(service_id="atlas/chat", endpoint=endpoint, discover_protocol="auto", **fields)


async def test_a_real_llama_cpp_is_announced_with_what_it_serves_and_does(config, llama_server):
    known = Asset(asset_id=llama_server.model, aliases=("house-model",), loaded=False)
    config = replace(config, services=(chat(llama_server.base_url, assets=(known,)),))
    async with daemon(control_app.run, config), operator(config) as (stub, _), daemon(app.run, config) as ready:
        assert str(ready).startswith("http://127.0.0.1:")
        found = await until(health_is(stub, "atlas/chat", res.HEALTH_STATUS_HEALTHY))
        (host,) = (await stub.ListHosts(pb.ListHostsRequest())).hosts
    assert (found.protocol, found.endpoint, found.reachable) == ("llamacpp", llama_server.base_url, True)
    asset = found.assets[0]
    assert (asset.asset_id, list(asset.aliases), asset.loaded) == (llama_server.model, ["house-model"], True)
    assert found.observed.slots > 0
    assert (host.host_id, host.lease) == ("atlas", res.LEASE_STATE_UP)
    assert host.facts.ram_total_bytes > host.observed.ram_available_bytes > 0


async def test_an_engine_that_nobody_named_is_found_before_the_first_hello(config):
    port = free_port()
    config = replace(config, node=replace(config.node, discover=True, discover_ports=(port,)))
    async with (
        daemon(control_app.run, config),
        operator(config) as (stub, _),
        http_server(OPENAI, port),
        daemon(app.run, config) as ready,
    ):
        assert ready.services == (f"atlas/openai-{port}",)
        found = await until(health_is(stub, f"atlas/openai-{port}", res.HEALTH_STATUS_HEALTHY))
    assert found.discovered
    assert [asset.asset_id for asset in found.assets] == ["m"]


async def test_genie_hives_own_ports_are_never_taken_for_engines(config):
    port = free_port()
    gateway = replace(config.gateway, port=port)
    config = replace(config, gateway=gateway, node=replace(config.node, discover=True, discover_ports=(port,)))
    async with http_server(OPENAI, port), daemon(app.run, config) as ready:
        assert ready.services == ()


async def test_kill_9_of_an_engine_makes_its_service_unhealthy(config, tmp_path):
    with running_engine(EngineOptions(cache_dir=tmp_path)) as engine:
        config = replace(config, services=(chat(engine.base_url),))
        async with daemon(control_app.run, config), operator(config) as (stub, _), daemon(app.run, config):
            await until(health_is(stub, "atlas/chat", res.HEALTH_STATUS_HEALTHY))
            os.kill(engine.pid, signal.SIGKILL)
            found = await until(health_is(stub, "atlas/chat", res.HEALTH_STATUS_UNHEALTHY))
    assert "refused the connection" in found.health.reason
    assert [asset.HasField("loaded") for asset in found.assets] == [False]


async def test_the_node_registers_again_by_itself_when_the_control_plane_is_back(config):
    async with http_server(OPENAI) as endpoint:
        config = replace(config, services=(chat(endpoint),))
        async with daemon(app.run, config):
            for _ in range(2):
                async with daemon(control_app.run, config), operator(config) as (stub, _):
                    await until(health_is(stub, "atlas/chat", res.HEALTH_STATUS_HEALTHY))


async def test_a_later_agent_for_the_same_host_fences_the_earlier_one(config, tmp_path):
    async with daemon(control_app.run, config), operator(config) as (stub, _):
        stop, told = asyncio.Event(), asyncio.Event()
        first = asyncio.create_task(app.run(config, stop=stop, ready=lambda _: told.set()))
        await told.wait()
        await until(lambda: hosts_up(stub))
        async with daemon(app.run, config):
            with pytest.raises(Conflict, match=r"another agent speaks for host 'atlas'"):
                async with asyncio.timeout(DEADLINE_S):
                    await first


async def hosts_up(stub):
    return (await stub.GetCluster(pb.GetClusterRequest())).hosts_up


async def test_a_managed_engine_is_started_restarted_after_a_crash_and_ended_with_the_agent(config):
    managed = ServiceConfig(
        service_id="atlas/own",
        discover_protocol="auto",
        runtime=RuntimeConfig(engine="llama.cpp", launcher="managed"),
    )
    config = replace(config, services=(managed,))
    async with daemon(control_app.run, config), operator(config) as (stub, _):
        async with daemon(app.run, config):
            found = await until(health_is(stub, "atlas/own", res.HEALTH_STATUS_HEALTHY))
            assert found.runtime.launcher == "managed"
            killed = listener(found.endpoint)
            os.kill(killed, signal.SIGKILL)

            async def another():
                return listener(found.endpoint) not in {None, killed}

            await until(another)
            await until(health_is(stub, "atlas/own", res.HEALTH_STATUS_HEALTHY))
        found = await until(health_is(stub, "atlas/own", res.HEALTH_STATUS_UNHEALTHY))
        assert found.health.reason == "the engine was stopped"
        with pytest.raises(OSError):  # noqa: PT011 - refused, whatever the words
            await asyncio.open_connection(*found.endpoint.removeprefix("http://").split(":"))


def listener(endpoint):
    """The process that listens at an endpoint of this host, if any."""
    port = int(endpoint.rpartition(":")[2])
    return next(
        (
            one.pid
            for one in psutil.net_connections("tcp")
            if one.status == psutil.CONN_LISTEN and one.laddr.port == port and one.pid
        ),
        None,
    )


GATED = """
echo $$ >pid
while [ ! -e gate ]; do sleep 0.02; done
rm gate
exec "$0" -m http.server --bind 127.0.0.1 "$1"
"""


async def test_while_a_managed_engine_starts_it_is_loading_and_says_how_it_ended_before(config, tmp_path):
    """Nothing here is there for a moment alone: the engine is ready when the test opens its gate."""
    port = free_port()
    managed = ServiceConfig(
        service_id="atlas/gated",
        endpoint=f"http://127.0.0.1:{port}",
        runtime=RuntimeConfig(
            launcher="managed", command=("/bin/sh", "-c", GATED, sys.executable, str(port)), cwd=str(tmp_path)
        ),
    )
    config = replace(config, services=(managed,))
    async with daemon(control_app.run, config), operator(config) as (stub, _), daemon(app.run, config):
        found = await until(health_is(stub, "atlas/gated", res.HEALTH_STATUS_LOADING))
        assert found.health.reason == "the engine is starting"
        (tmp_path / "gate").touch()
        await until(health_is(stub, "atlas/gated", res.HEALTH_STATUS_HEALTHY))
        os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)
        found = await until(health_is(stub, "atlas/gated", res.HEALTH_STATUS_LOADING))
        assert found.health.reason == "the engine is starting again; before, it was killed by SIGKILL"
        (tmp_path / "gate").touch()
        await until(health_is(stub, "atlas/gated", res.HEALTH_STATUS_HEALTHY))


async def test_what_an_engine_says_of_its_end_is_for_operators_and_not_for_clients(config):
    command = ("/bin/sh", "-c", "echo 'model file is missing' >&2; exit 3")
    managed = ServiceConfig(
        service_id="atlas/broken",
        endpoint=f"http://127.0.0.1:{free_port()}",
        discover_protocol="auto",
        runtime=RuntimeConfig(launcher="managed", command=command),
    )
    config = replace(config, services=(managed,))
    async with daemon(control_app.run, config), operator(config) as (stub, _), daemon(app.run, config):
        found = await until(health_is(stub, "atlas/broken", res.HEALTH_STATUS_UNHEALTHY))
        while not found.notes:  # they come with the inventory, right behind the heartbeat
            found = await until(health_is(stub, "atlas/broken", res.HEALTH_STATUS_UNHEALTHY))
    assert list(found.notes) == ["the engine last said: model file is missing"]
    assert found.health.reason == "the engine exited with status 3; it is being restarted"


async def test_commands_are_acknowledged_done_and_reported(config):
    asked = []

    async def router(request):
        asked.append(request.path.rpartition("/")[2])
        return web.json_response({"success": True})

    async def models(_):
        loaded = asked[-1:] == ["load"]
        entry = {
            "id": "m",
            "object": "model",
            "owned_by": "llamacpp",
            "status": {"value": "loaded" if loaded else "unloaded"},
        }
        return web.json_response({"object": "list", "data": [entry]})

    props = {"build_info": "b1", "role": "router", "default_generation_settings": None, "total_slots": 0}
    routes = {"/health": {"status": "ok"}, "/props": props, "/models": models, "/v1/models": models}
    routes |= {"/models/load": router, "/models/unload": router}
    async with http_server(routes) as endpoint:
        config = replace(
            config, services=(ServiceConfig(service_id="atlas/chat", endpoint=endpoint, discover_protocol="llamacpp"),)
        )
        async with daemon(control_app.run, config), operator(config) as (stub, _), daemon(app.run, config):
            await until(health_is(stub, "atlas/chat", res.HEALTH_STATUS_HEALTHY))
            order = pb.LoadModelRequest(service_id="atlas/chat", asset_id="m")
            record = await ended(stub, (await stub.LoadModel(order)).command)
            assert (record.state, record.message) == (pb.COMMAND_STATE_SUCCEEDED, "m is in memory")
            assert (await services(stub))["atlas/chat"].assets[0].loaded
            probe = await stub.ProbeService(pb.ProbeServiceRequest(service_id="atlas/chat"))
            record = await ended(stub, probe.command)
            assert (record.state, record.message) == (pb.COMMAND_STATE_SUCCEEDED, "atlas/chat is healthy")
            order = pb.UnloadModelRequest(service_id="atlas/chat", asset_id="m", command_id="once")
            await ended(stub, (await stub.UnloadModel(order)).command)
            assert (await stub.UnloadModel(order)).command.state == pb.COMMAND_STATE_SUCCEEDED
            assert asked == ["load", "unload"]


async def test_a_load_that_the_engine_cannot_do_fails_with_the_fix(config):
    async with http_server(OPENAI) as endpoint:
        config = replace(config, services=(chat(endpoint),))
        async with daemon(control_app.run, config), operator(config) as (stub, _), daemon(app.run, config):
            await until(health_is(stub, "atlas/chat", res.HEALTH_STATUS_HEALTHY))
            order = pb.LoadModelRequest(service_id="atlas/chat", asset_id="m")
            record = await ended(stub, (await stub.LoadModel(order)).command)
    assert record.state == pb.COMMAND_STATE_FAILED
    assert "start or stop the engine's own process" in record.message


async def ended(stub, command):
    async def check():
        found = (await stub.GetCommand(pb.GetCommandRequest(command_id=command.command_id))).command
        return found if found.state in {pb.COMMAND_STATE_SUCCEEDED, pb.COMMAND_STATE_FAILED} else None

    return await until(check)


async def test_a_wrong_key_is_one_clear_line_and_the_agent_goes_on(config, caplog):
    caplog.set_level(logging.INFO)
    config = replace(config, auth=AuthConfig(node_api_keys=("right",), admin_api_keys=("admin",)))
    wrong = replace(config, control_plane=replace(config.control_plane, node_api_key="wrong"))

    async def said():
        return [one.getMessage() for one in caplog.records if one.name == "nodeagent.session"]

    async with daemon(control_app.run, config), daemon(app.run, wrong):
        (line, *more) = await until(said)
        assert "control_plane.node_api_key" in line
        assert not more


async def test_a_status_port_in_use_ends_the_agent_with_one_clear_line(config):
    async with http_server({}) as url:
        taken = replace(config, node=replace(config.node, status_port=int(url.rpartition(":")[2])))
        with pytest.raises(ConfigError, match=r"node\.status_port"):
            await app.run(taken, stop=asyncio.Event(), ready=lambda _: None)


async def test_whisper_and_manifest_services_are_announced_with_their_operations(config, tmp_path):
    manifest = tmp_path / "models.json"
    manifest.write_text('{"models": [{"id": "whisperx-large-v3", "operations": ["transcription"]}]}')
    async with http_server({}) as endpoint:
        service = ServiceConfig(
            service_id="atlas/whisper",
            endpoint=endpoint,
            kind=Operation.TRANSCRIPTION,
            discover_protocol="manifest",
            manifest=str(manifest),
        )
        config = replace(config, services=(service,))
        async with daemon(control_app.run, config), operator(config) as (stub, _), daemon(app.run, config):
            found = await until(health_is(stub, "atlas/whisper", res.HEALTH_STATUS_HEALTHY))
    assert [asset.asset_id for asset in found.assets] == ["whisperx-large-v3"]
    assert list(found.operations) == [res.OPERATION_TRANSCRIPTION]
