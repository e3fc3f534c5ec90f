"""NodeService over real gRPC, with nodes spoken by hand."""

from __future__ import annotations

import asyncio
import math

import grpc
import pytest

from controlplane import events as ev
from controlplane.leases import LeaseTerms
from geniehive.resources import Command, CommandKind, CommandState, HealthStatus, LeaseState, Service
from geniehive.v1 import node_service_pb2 as pb
from geniehive.v1 import resources_pb2
from tests.controlplane.plane import MemoryStore, Node, plane, running_loop, served, until

CHAT = Service(service_id="atlas/chat", host_id="atlas")


def state(**observed: object) -> pb.ServiceState:
    return pb.ServiceState(
        service_id="atlas/chat",
        health=resources_pb2.Health(status=resources_pb2.HEALTH_STATUS_HEALTHY),
        observed=resources_pb2.Observed(**observed),
    )


async def test_a_hello_is_welcomed_stored_and_shown() -> None:
    store = MemoryStore()
    async with plane(store, epoch=9, terms=LeaseTerms(ttl_s=15, heartbeat_interval_s=5)) as (loop, channel):
        welcome = (await Node(channel).hello(CHAT)).welcome
        assert welcome.session_id
        assert (welcome.protocol_version, welcome.lease_ttl_ms) == (1, 15_000)
        assert (welcome.heartbeat_interval_ms, welcome.epoch) == (5_000, 9)
        assert "atlas/chat" in loop.snapshot.services
        assert (ev.Kind.SERVICE, "atlas/chat") in store.kept


async def test_a_heartbeat_is_acked_and_applied() -> None:
    async with plane() as (loop, channel):
        node = Node(channel)
        await node.hello(CHAT)
        assert (await node.heartbeat(1, state(running=2))).ack.sequence == 1
        assert (await node.heartbeat(2, state(running=2))).ack.sequence == 2
        assert loop.snapshot.services["atlas/chat"].health.status is HealthStatus.HEALTHY
        await until(lambda: loop.snapshot.services["atlas/chat"].observed.running == 2)


async def test_nonsense_in_metrics_is_unknown_and_the_node_stays() -> None:
    async with plane() as (loop, channel):
        node = Node(channel)
        await node.hello(CHAT)
        nonsense = state(running=2, kv_cache_usage=math.nan, ttft_seconds=-1.0, vram_used_bytes=2**63)
        assert (await node.heartbeat(1, nonsense)).HasField("ack")
        await until(lambda: loop.snapshot.services["atlas/chat"].observed.running == 2)
        observed = loop.snapshot.services["atlas/chat"].observed
        assert (observed.kv_cache_usage, observed.ttft_seconds, observed.vram_used_bytes) == (None, None, None)


async def test_a_session_that_is_not_known_is_asked_for_a_hello_on_the_same_stream() -> None:
    async with plane() as (_, channel):
        node = Node(channel)
        node.session_id = "from before the control plane restarted"
        assert (await node.heartbeat(4)).reject.reason == pb.REJECT_REASON_UNKNOWN_SESSION
        assert (await node.hello(CHAT)).HasField("welcome")
        assert (await node.heartbeat(1)).ack.sequence == 1


async def test_a_message_with_another_session_than_its_streams_does_not_count() -> None:
    async with plane() as (loop, channel):
        node = Node(channel)
        await node.hello(CHAT)
        node.session_id = "another"
        assert (await node.heartbeat(1, state())).reject.reason == pb.REJECT_REASON_UNKNOWN_SESSION
        assert loop.snapshot.services["atlas/chat"].health.status is HealthStatus.UNKNOWN


async def test_a_forgotten_host_is_asked_for_a_hello_and_registers_again() -> None:
    async with plane(terms=LeaseTerms(ttl_s=0.5, grace_s=9)) as (loop, channel):
        node = Node(channel)
        await node.hello(CHAT)
        await until(lambda: loop.snapshot.hosts["atlas"].lease is LeaseState.STALE)
        await loop.ask(ev.ForgetRequested(host_id="atlas"))
        assert (await node.heartbeat(1)).reject.reason == pb.REJECT_REASON_UNKNOWN_SESSION
        assert (await node.hello(CHAT)).HasField("welcome")
        assert "atlas/chat" in loop.snapshot.services


@pytest.mark.parametrize(
    "payload",
    [
        {},
        {"command_result": pb.CommandResult(command_id="c1")},
        {"inventory": pb.Inventory(services=[resources_pb2.Service()])},
    ],
)
async def test_a_message_that_makes_no_sense_is_refused_and_the_stream_stays(payload: dict) -> None:
    async with plane() as (_, channel):
        node = Node(channel)
        await node.hello()
        await node.say(**payload)
        reject = (await node.hear()).reject
        assert reject.reason == pb.REJECT_REASON_INVALID
        assert reject.message
        assert (await node.heartbeat(1)).ack.sequence == 1


async def test_a_message_without_a_host_is_refused() -> None:
    async with plane() as (_, channel):
        node = Node(channel, host_id="")
        assert (await node.hello()).reject.reason == pb.REJECT_REASON_INVALID


async def test_a_later_agent_fences_the_earlier_one_whose_stream_ends() -> None:
    async with plane() as (_, channel):
        old, new = Node(channel, boot_epoch=10), Node(channel, boot_epoch=20)
        await old.hello()
        assert (await new.hello()).HasField("welcome")
        assert (await old.hear()).reject.reason == pb.REJECT_REASON_FENCED
        assert await old.hear() is grpc.aio.EOF
        assert (await new.heartbeat(1)).ack.sequence == 1


async def test_an_earlier_agent_is_fenced_while_the_later_one_lives() -> None:
    async with plane() as (loop, channel):
        new, old = Node(channel, boot_epoch=20), Node(channel, boot_epoch=10)
        await new.hello()
        assert (await old.hello()).reject.reason == pb.REJECT_REASON_FENCED
        assert await old.hear() is grpc.aio.EOF
        assert loop.snapshot.hosts["atlas"].boot_epoch == 20
        new.call.cancel()
        third = Node(channel, boot_epoch=10)
        while not (await third.hello()).HasField("welcome"):  # until the end of the later stream is seen
            third = Node(channel, boot_epoch=10)


async def test_a_command_goes_down_its_result_comes_up_and_a_repeat_changes_nothing() -> None:
    store = MemoryStore()
    async with plane(store) as (loop, channel):
        node = Node(channel)
        await node.hello(CHAT)
        wanted = Command(command_id="c1", host_id="atlas", kind=CommandKind.LOAD, service_id="atlas/chat", asset_id="m")
        for _ in range(2):
            await loop.ask(ev.CommandRequested(command=wanted))
        sent = (await node.hear()).command
        assert (sent.command_id, sent.load.asset_id) == ("c1", "m")
        done = pb.CommandResult(command_id="c1", state=pb.COMMAND_RESULT_STATE_SUCCEEDED, message="loaded")
        for _ in range(2):
            await node.say(command_result=done)
        assert (await node.heartbeat(1)).ack.sequence == 1  # and no second command before it
        assert [(one.state, one.message) for one in loop.commands] == [(CommandState.SUCCEEDED, "loaded")]
        assert store.kept[ev.Kind.COMMAND, "c1"].state is CommandState.SUCCEEDED


async def test_an_unfinished_command_is_sent_again_after_a_reconnect_unless_the_node_has_it() -> None:
    async with plane() as (loop, channel):
        node = Node(channel)
        await node.hello()
        for key in ("c1", "c2"):
            await loop.ask(
                ev.CommandRequested(command=Command(command_id=key, host_id="atlas", kind=CommandKind.PROBE))
            )
            await node.hear()
        node.call.cancel()
        again = Node(channel)
        await again.hello(open_ids=["c1"])
        assert (await again.hear()).command.command_id == "c2"
        assert (await again.heartbeat(1)).HasField("ack")
        assert [one.state for one in loop.commands] == [CommandState.ACCEPTED, CommandState.SENDING]


async def test_the_same_agent_on_a_new_stream_is_not_fenced() -> None:
    async with plane() as (_, channel):
        half_open, again = Node(channel), Node(channel)
        await half_open.hello()
        assert (await again.hello()).HasField("welcome")
        assert await half_open.hear() is grpc.aio.EOF


async def test_a_node_that_says_nothing_loses_its_stream() -> None:
    async with plane(terms=LeaseTerms(ttl_s=0.1, grace_s=1)) as (_, channel):
        node = Node(channel)
        await node.call.wait_for_connection()
        assert await node.hear() is grpc.aio.EOF


async def test_a_node_that_does_not_read_loses_its_stream_and_the_loop_goes_on() -> None:
    async with (
        running_loop() as loop,
        served(loop, outbox_limit=4) as address,
        grpc.aio.insecure_channel(address) as channel,
    ):
        node, other = Node(channel), Node(channel, host_id="borea")
        await node.hello()
        await other.hello()
        words = "x" * 200_000
        asks = 0
        while loop._links.keys() - {other.session_id}:
            asks += 1
            wanted = Command(command_id=f"c{asks}", host_id="atlas", kind=CommandKind.LOAD, asset_id=words)
            await loop.ask(ev.CommandRequested(command=wanted))
            assert asks < 1000
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await all_of(node)
        assert error.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert (await other.heartbeat(1)).ack.sequence == 1


async def all_of(node: Node) -> None:
    while await node.hear() is not grpc.aio.EOF:
        pass


async def test_every_stream_that_ends_leaves_nothing_behind() -> None:
    async with plane() as (loop, channel):
        closing, cancelling, silent = Node(channel), Node(channel, "borea"), Node(channel, "cetus")
        await closing.hello()
        await cancelling.hello()
        await silent.call.wait_for_connection()
        await until(lambda: len(loop._links) == 3)
        await closing.call.done_writing()
        cancelling.call.cancel()
        silent.call.cancel()
        await until(lambda: not loop._links)
        assert loop.snapshot.hosts["atlas"].lease is LeaseState.UP  # the lease decides, not the stream


async def test_nodes_are_told_when_the_control_plane_stops() -> None:
    async with plane() as (loop, channel):
        node = Node(channel)
        await node.hello()
        loop.close()
        assert (await node.hear()).reject.reason == pb.REJECT_REASON_NOT_SERVING
        assert await node.hear() is grpc.aio.EOF


async def test_many_nodes_register_at_once() -> None:
    async with plane() as (loop, channel):
        nodes = [Node(channel, f"h{number}") for number in range(50)]
        answers = await asyncio.gather(*(node.hello() for node in nodes))
        assert all(one.HasField("welcome") for one in answers)
        assert len(loop.snapshot.hosts) == 50
