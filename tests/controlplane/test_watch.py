"""RoutingService over real gRPC, with gateways spoken by hand."""

from __future__ import annotations

import grpc
import pytest

from controlplane import events as ev
from controlplane import feeds, watch
from geniehive import codec
from geniehive.clock import ManualClock
from geniehive.resources import HealthStatus, Role, Service
from geniehive.routing.apply import apply_delta
from geniehive.v1 import node_service_pb2 as node_pb
from geniehive.v1 import resources_pb2
from geniehive.v1 import routing_service_pb2 as pb
from tests.controlplane.plane import Gateway, Node, plane, until

CHAT = Service(service_id="chat", host_id="atlas")


def healthy(**observed: object) -> node_pb.ServiceState:
    return node_pb.ServiceState(
        service_id="chat",
        health=resources_pb2.Health(status=resources_pb2.HEALTH_STATUS_HEALTHY),
        observed=resources_pb2.Observed(**observed),
    )


async def test_the_whole_snapshot_comes_first_and_deltas_lead_to_what_the_control_plane_has() -> None:
    async with plane(epoch=3) as (loop, channel):
        await loop.ask(ev.RolesLoaded(roles=(Role(role_id="coder"),)))
        gateway = Gateway(channel)
        first = await gateway.hello()
        assert (first.epoch, first.revision, first.WhichOneof("payload")) == (3, 2, "snapshot")
        snapshot = codec.snapshot_from_pb(first.snapshot)
        assert list(snapshot.roles) == ["coder"]
        await Node(channel).hello(CHAT)
        update = await gateway.hear_until(lambda one: one.HasField("delta"))
        snapshot = apply_delta(snapshot, codec.delta_from_pb(update.delta), update.revision)
        assert snapshot == loop.snapshot


async def test_a_heartbeat_that_changes_health_is_pushed_without_a_tick() -> None:
    async with plane(clock=ManualClock()) as (_, channel):  # a clock that stands still: no Tick ever comes
        node, gateway = Node(channel), Gateway(channel)
        await node.hello(CHAT)
        await gateway.hello()
        await node.heartbeat(1, healthy())
        update = await gateway.hear_until(lambda one: one.HasField("delta"))
        assert codec.delta_from_pb(update.delta).services[0].health.status is HealthStatus.HEALTHY


async def test_measurements_come_in_a_batch_that_leaves_the_revision() -> None:
    async with plane() as (loop, channel):
        node, gateway = Node(channel), Gateway(channel)
        await node.hello(CHAT)
        await node.heartbeat(1, healthy())
        await gateway.hello()
        revision = loop.snapshot.revision
        await node.heartbeat(2, healthy(running=3, waiting=1))
        update = await gateway.hear_until(lambda one: one.HasField("observed"))
        assert update.revision == revision
        (measured,) = update.observed.services
        assert (measured.service_id, measured.observed.running, measured.observed.waiting) == ("chat", 3, 1)
        assert not measured.observed.HasField("slots")


async def test_gateways_see_what_others_have_open_until_those_are_gone() -> None:
    async with plane() as (loop, channel):
        await Node(channel).hello(CHAT)
        one, two = Gateway(channel, "one"), Gateway(channel, "two")
        await one.hello()
        await two.hello()
        await one.report(chat=2)
        await two.report(chat=5)
        await until(lambda: loop.snapshot.services["chat"].observed.in_flight == 7)
        assert loop.gateways == 2
        two.call.cancel()
        await until(lambda: loop.snapshot.services["chat"].observed.in_flight == 2)
        await one.call.done_writing()
        await until(lambda: loop.snapshot.services["chat"].observed.in_flight == 0)
        assert loop.gateways == 0
        await until(lambda: not loop._feeds)


async def test_a_stream_without_a_hello_is_refused() -> None:
    async with plane() as (_, channel):
        gateway = Gateway(channel, gateway_id="")
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await gateway.hello()
        assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_stream_that_says_nothing_is_ended(monkeypatch) -> None:
    monkeypatch.setattr(watch, "HELLO_S", 0.05)
    async with plane() as (_, channel):
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await Gateway(channel).hear()
        assert error.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


async def test_a_gateway_of_no_common_protocol_is_refused() -> None:
    async with plane() as (_, channel):
        gateway = Gateway(channel)
        await gateway.call.write(pb.GatewayMessage(gateway_id="gw", hello=pb.GatewayHello()))
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await gateway.hear()
        assert error.value.code() is grpc.StatusCode.FAILED_PRECONDITION


async def test_a_slow_gateway_gets_the_newest_snapshot_instead_of_an_endless_queue(monkeypatch) -> None:
    monkeypatch.setattr(feeds.RoutingFeed.__init__, "__defaults__", (4,))
    async with plane() as (loop, channel):
        gateway = Gateway(channel)
        await gateway.hello()
        words = "x" * 100_000
        rounds = 200
        for number in range(rounds):
            await loop.ask(ev.RolesLoaded(roles=(Role(role_id="coder", description=f"{number}{words}"),)))
        await until(lambda: loop.snapshot.revision == rounds + 1)
        heard, revisions = [], 0
        while revisions != loop.snapshot.revision:
            update = await gateway.hear()
            heard.append(update.WhichOneof("payload"))
            revisions = update.revision
        assert "snapshot" in heard
        assert len(heard) < rounds


async def test_gateways_streams_end_when_the_control_plane_stops() -> None:
    async with plane() as (loop, channel):
        gateway = Gateway(channel)
        await gateway.hello()
        loop.close()
        assert await gateway.hear() is grpc.aio.EOF
