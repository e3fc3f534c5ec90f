from __future__ import annotations

import asyncio
import signal
import socket
import subprocess
import sys

import grpc
import msgspec
import pytest

from geniehive.config import ControlConfig
from geniehive.errors import ConfigError, StoreError
from geniehive.v1 import cluster_service_pb2 as pb
from geniehive.v1 import node_service_pb2, resources_pb2
from tests.controlplane.edge import DEADLINE_S, Node, config_for, running, until

ROLES = """
roles:
  - role_id: coder
    description: writes programs
    routing_policy: {preferred_families: [qwen3]}
"""


async def started_in_vain(config):
    async with running(config):
        pytest.fail("it started")


async def test_the_registry_survives_a_restart_and_the_term_grows(tmp_path):
    async with running(config_for(tmp_path)) as control:
        await Node(control.channel).hello()
        first = await control.cluster.GetCluster(pb.GetClusterRequest())
    async with running(config_for(tmp_path)) as control:
        second = await control.cluster.GetCluster(pb.GetClusterRequest())
        service = (await control.cluster.GetService(pb.GetServiceRequest(service_id="atlas/chat"))).service
        host = (await control.cluster.GetHost(pb.GetHostRequest(host_id="atlas"))).host
    assert second.epoch > first.epoch
    assert (second.hosts_up, second.services_total) == (1, 1)  # a fresh lease: a restart empties no routes
    assert service.assets[0].asset_id == "qwen3-8b"
    assert not host.HasField("heartbeat_age_seconds")


async def test_a_port_in_use_stops_the_start_with_one_line(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(ConfigError, match=f"cannot listen on {listen}: the port is in use"):
            await started_in_vain(config_for(tmp_path, control=ControlConfig(listen=listen)))
    assert list(tmp_path.iterdir()) == []


async def test_a_damaged_database_stops_the_start_with_one_line(tmp_path):
    (tmp_path / "hive.sqlite3").write_bytes(b"not a database" * 1000)
    with pytest.raises(StoreError, match="restore a backup"):
        await started_in_vain(config_for(tmp_path))


async def test_roles_come_from_the_file_and_go_with_it(tmp_path):
    path = tmp_path / "roles.yaml"
    path.write_text(ROLES)
    async with running(config_for(tmp_path, roles_path=str(path))) as control:
        role = (await control.cluster.GetRole(pb.GetRoleRequest(role_id="coder"))).role
        assert role.description == "writes programs"
    path.write_text(ROLES.replace("coder", "author"))
    async with running(config_for(tmp_path, roles_path=str(path))) as control:
        assert [role.role_id for role in (await control.cluster.ListRoles(pb.ListRolesRequest())).roles] == ["author"]
    async with running(config_for(tmp_path)) as control:
        assert not (await control.cluster.ListRoles(pb.ListRolesRequest())).roles


async def test_roles_with_a_cycle_stop_the_start_with_one_line(tmp_path):
    path = tmp_path / "roles.yaml"
    path.write_text(
        "roles:\n"
        "  - {role_id: a, routing_policy: {fallback_roles: [b]}}\n"
        "  - {role_id: b, routing_policy: {fallback_roles: [a]}}\n"
    )
    with pytest.raises(ConfigError, match="a → b → a") as raised:
        await started_in_vain(config_for(tmp_path, roles_path=str(path)))
    assert "\n" not in raised.value.message


async def test_stopping_tells_nodes_to_reconnect_and_ends(tmp_path):
    async with running(config_for(tmp_path)) as control:
        node = Node(control.channel)
        await node.hello()
        watch = control.cluster.WatchEvents(pb.WatchEventsRequest())
        await watch.initial_metadata()
        control.stop.set()
        assert (await node.read()).reject.reason == node_service_pb2.REJECT_REASON_NOT_SERVING
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await watch.read()
        assert raised.value.code() is grpc.StatusCode.UNAVAILABLE
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", int(control.address.rpartition(":")[2])))


async def test_stopping_with_a_stuck_stream_ends_within_the_grace(tmp_path, monkeypatch):
    monkeypatch.setattr("controlplane.app.GRACE_S", 0.1)
    async with running(config_for(tmp_path)) as control:
        health = control.channel.unary_stream("/grpc.health.v1.Health/Watch")(b"")
        await health.read()
    assert control.task.done()


async def test_a_loop_that_fails_ends_the_program_rather_than_serving_on(tmp_path, monkeypatch):
    monkeypatch.setattr("controlplane.app.GRACE_S", 0.1)
    with pytest.RaisesGroup(pytest.RaisesGroup(ZeroDivisionError)):
        async with running(config_for(tmp_path)) as control:
            monkeypatch.setattr("controlplane.loop.ControlLoop._read_some", lambda self, tasks: 1 / 0)
            async with asyncio.timeout(DEADLINE_S):
                await asyncio.wait({control.task})


PROGRAM = """
import asyncio, sys, msgspec
from controlplane import app
from geniehive.config import Config

config = msgspec.json.decode(sys.argv[1], type=Config)
asyncio.run(app.run(config, stop=asyncio.Event(), ready=lambda address: print(address, flush=True)))
"""


async def test_after_kill_9_the_next_one_knows_what_was_acknowledged_and_the_node_registers_again(tmp_path):
    config = config_for(tmp_path)
    encoded = msgspec.json.encode(config).decode()
    process = subprocess.Popen([sys.executable, "-c", PROGRAM, encoded], stdout=subprocess.PIPE, text=True)
    try:
        from geniehive.dial import control_channel

        async with control_channel([process.stdout.readline().strip()]) as channel:
            node = Node(channel)
            before = await node.hello()  # the Welcome is the acknowledgement
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
    async with running(config) as control:
        host = (await control.cluster.GetHost(pb.GetHostRequest(host_id="atlas"))).host
        assert host.lease == resources_pb2.LEASE_STATE_UP
        again = Node(control.channel)
        welcome = await again.hello()
        assert welcome.epoch > before.epoch
        await again.send(heartbeat=node_service_pb2.Heartbeat(sequence=1))
        assert (await again.read()).ack.sequence == 1

        async def heard():
            return (await control.cluster.GetHost(pb.GetHostRequest(host_id="atlas"))).host.HasField(
                "heartbeat_age_seconds"
            )

        await until(heard)
        again.close()


def test_nothing_slow_is_imported_before_it_is_needed():
    program = "import sys, controlplane.auth, controlplane.events; assert 'sqlalchemy' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True)
