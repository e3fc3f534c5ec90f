"""The session against a real gRPC server that answers as told."""

import asyncio
import logging
from contextlib import asynccontextmanager

import grpc

from geniehive.clock import SystemClock
from geniehive.resources import Health, HealthStatus, Host, Service
from geniehive.v1 import node_service_pb2 as pb
from nodeagent import events as ev
from nodeagent.agent import Agent, SessionState
from nodeagent.loop import NodeLoop
from nodeagent.session import Dialling, Ending, Session, event_of, message_of, trouble
from tests.nodeagent.peers import ScriptedControlPlane, eventually, reject, serving, welcome, well_behaved
from tests.ports import free_port

HOST = Host(host_id="atlas", boot_epoch=7)
CHAT = Service(service_id="atlas/chat", host_id="atlas", health=Health(status=HealthStatus.HEALTHY))


@asynccontextmanager
async def running(*addresses, node_key="", dice=0.5):
    """A loop and a session; what a test sees is the loop."""
    loop = NodeLoop(Agent(HOST), SystemClock())

    async def prepare():
        return

    dialling = Dialling(addresses=addresses, node_key=node_key, host_id="atlas", boot_epoch=7, prepare=prepare)
    session = Session(dialling, loop.offer, dice=lambda: dice)
    loop.post(ev.Looked(CHAT))
    tasks = [
        asyncio.create_task(loop.run(session, lambda command: loop.post(ev.CommandEnded(command.command_id)))),
        asyncio.create_task(session.run()),
    ]
    try:
        yield loop
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def test_a_session_says_hello_then_heartbeats_that_count_up_with_key_and_ids():
    control = ScriptedControlPlane(well_behaved)
    async with serving(control) as address, running(address, node_key="sesame"):
        await eventually(lambda: len(control.said("heartbeat")) >= 3)
    hello = control.received[0]
    assert (hello.host_id, hello.boot_epoch, hello.session_id) == ("atlas", 7, "")
    assert (hello.hello.protocol_version, hello.hello.services[0].service_id) == (1, "atlas/chat")
    assert [beat.heartbeat.sequence for beat in control.said("heartbeat")[:3]] == [1, 2, 3]
    assert {beat.session_id for beat in control.said("heartbeat")} == {"s"}
    assert control.metadata[0]["x-geniehive-node-key"] == "sesame"


async def test_health_that_changes_is_told_ahead_of_the_schedule():
    control = ScriptedControlPlane(
        lambda m: [welcome(interval_ms=60_000, ttl_ms=200_000)] if m.HasField("hello") else []
    )
    async with serving(control) as address, running(address) as loop:
        await eventually(lambda: control.said("heartbeat"))
        dead = Health(status=HealthStatus.UNHEALTHY, reason="refused")
        loop.post(ev.Looked(Service(service_id="atlas/chat", host_id="atlas", health=dead)))
        beat = (await eventually(lambda: control.said("heartbeat")[1:]))[0]
    assert beat.heartbeat.services[0].health.reason == "refused"


async def test_an_unknown_session_is_answered_by_a_hello_on_the_same_stream():
    def answer(message):
        if message.HasField("hello"):
            return [welcome(f"s{len(control.said('hello'))}")]
        return [reject(pb.REJECT_REASON_UNKNOWN_SESSION)] if message.session_id == "s1" else []

    control = ScriptedControlPlane(answer)
    async with serving(control) as address, running(address):
        beat = await eventually(lambda: [one for one in control.said("heartbeat") if one.session_id == "s2"])
    assert beat[0].heartbeat.sequence == 1
    assert control.streams == 1


async def test_a_control_plane_that_comes_back_is_greeted_again():
    port = free_port()
    async with running(f"127.0.0.1:{port}", dice=1.0) as loop:
        for _ in range(2):
            control = ScriptedControlPlane(well_behaved)
            async with serving(control, port):
                await eventually(lambda: loop.view.state is SessionState.WELCOMED)
            await eventually(lambda: loop.view.state is not SessionState.WELCOMED)


def test_several_tries_to_reconnect_fit_into_a_short_lease():
    dialling = Dialling(addresses=("a:1",), node_key="", host_id="atlas", boot_epoch=7, prepare=asyncio.Event().wait)
    session = Session(dialling, lambda event: asyncio.sleep(0))
    caps = []
    for ttl_ms in (3000, 60_000):
        session._welcomed_at = 0.0
        session._note_welcome("a:1", pb.Welcome(lease_ttl_ms=ttl_ms))
        caps.append(session._backoff_cap_s)
    assert caps == [0.75, 2.0]


async def test_one_that_does_not_serve_is_left_for_the_next_address():
    away = ScriptedControlPlane(lambda _: [reject(pb.REJECT_REASON_NOT_SERVING, "standby")])
    leader = ScriptedControlPlane(well_behaved)
    async with serving(away) as first, serving(leader) as second, running(first, second):
        await eventually(lambda: leader.said("heartbeat"))
    assert away.streams >= 1


async def test_a_slow_handshake_is_waited_for():
    """A connection that takes 400 ms to be accepted by HTTP/2, as over a bad radio link, is no failure."""
    control = ScriptedControlPlane(well_behaved)
    async with serving(control) as address:
        host, port = address.split(":")

        async with slow_proxy(host, int(port)) as slow, running(slow) as loop:
            await eventually(lambda: loop.view.state is SessionState.WELCOMED)


@asynccontextmanager
async def slow_proxy(host, port):
    """Passes bytes on, the first ones after 400 ms."""
    tasks = set()

    async def pass_on(reader, writer):
        await asyncio.sleep(0.4)
        up_reader, up_writer = await asyncio.open_connection(host, port)
        await asyncio.gather(pump(reader, up_writer), pump(up_reader, writer))

    def accept(reader, writer):
        tasks.add(asyncio.create_task(pass_on(reader, writer)))

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    try:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def pump(reader, writer):
    try:
        while chunk := await reader.read(65536):
            writer.write(chunk)
            await writer.drain()
    except OSError:
        pass
    finally:
        writer.close()


async def test_trouble_is_said_once_not_at_every_try(caplog):
    caplog.set_level(logging.INFO)
    addresses = [f"127.0.0.1:{free_port()}" for _ in range(2)]

    def said():
        return [record.getMessage() for record in caplog.records if record.name == "nodeagent.session"]

    async with running(*addresses, dice=0.0):
        await eventually(lambda: len(said()) >= 2)
        await asyncio.sleep(0.3)  # time for many tries more
    lines = said()
    assert len(lines) == 2
    for address, line in zip(addresses, lines, strict=True):
        assert address in line
        assert "control_plane.address" in line


def test_a_refused_key_names_the_setting():
    ending = Ending(code=grpc.StatusCode.UNAUTHENTICATED, words="no", welcomed_s=None)
    assert "control_plane.node_api_key" in trouble("h:1", ending)


def test_another_server_is_told_apart_from_a_control_plane():
    ending = Ending(code=grpc.StatusCode.UNIMPLEMENTED, words="", welcomed_s=None)
    assert "no GenieHive control plane" in trouble("h:1", ending)


async def test_a_command_that_this_version_does_not_know_fails_with_words():
    def answer(message):
        unknown = pb.ControlMessage(session_id="s")
        unknown.command.command_id = "c9"
        return [welcome(), unknown] if message.HasField("hello") else []

    control = ScriptedControlPlane(answer)
    async with serving(control) as address, running(address):
        (result, *_) = await eventually(lambda: control.said("command_result"))
    assert result.command_result.command_id == "c9"
    assert result.command_result.state == pb.COMMAND_RESULT_STATE_FAILED


def test_messages_of_a_later_version_are_ignored():
    assert event_of(pb.ControlMessage(session_id="s"), "atlas") is None


def test_an_empty_inventory_is_still_an_inventory():
    assert message_of(ev.SendInventory("s", ()), "atlas", 7).WhichOneof("payload") == "inventory"
