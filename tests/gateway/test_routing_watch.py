"""The view follows a real Watch stream."""

import asyncio
import contextlib

import grpc.aio

from gateway.inflight import InFlight
from gateway.routing_watch import RoutingWatch
from gateway.view import RoutingView
from geniehive import codec
from geniehive.resources import HostObserved, Observed, Snapshot, SnapshotDelta
from geniehive.v1 import routing_service_pb2 as pb
from geniehive.v1 import routing_service_pb2_grpc as rpc
from tests.geniehive.routing.fleet import host, service


class ControlPlane(rpc.RoutingServiceServicer):
    """A scripted control plane: what is put in `updates` is sent, what gateways say is kept."""

    def __init__(self):
        self.updates = asyncio.Queue()
        self.heard = asyncio.Queue()
        self.keys = []

    async def Watch(self, requests, context):
        self.keys.append(dict(context.invocation_metadata()).get("x-geniehive-node-key"))
        reader = asyncio.ensure_future(self._read(requests))
        try:
            while (update := await self.updates.get()) is not None:
                yield update
        finally:
            reader.cancel()

    async def _read(self, requests):
        async for message in requests:
            self.heard.put_nowait(message)


def snapshot(revision=1, epoch=1, **services):
    shape = Snapshot(epoch=epoch, revision=revision, hosts={"h1": host()}, services=services)
    return pb.RoutingUpdate(epoch=epoch, revision=revision, snapshot=codec.snapshot_to_pb(shape))


def delta(base, revision, epoch=1, **fields):
    change = SnapshotDelta(base_revision=base, **fields)
    return pb.RoutingUpdate(epoch=epoch, revision=revision, delta=codec.delta_to_pb(change))


async def until(condition, seconds=30.0):
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.002)


@contextlib.asynccontextmanager
async def watching(**options):
    plane, server = ControlPlane(), grpc.aio.server()
    rpc.add_RoutingServiceServicer_to_server(plane, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    view, in_flight = RoutingView(), InFlight(asyncio.get_running_loop().time)
    watch = RoutingWatch([f"127.0.0.1:{port}"], "node-key", "g1", view, in_flight, dice=lambda: 0.1, **options)
    task = asyncio.ensure_future(watch.run())
    try:
        yield plane, view, in_flight
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await server.stop(None)


async def test_measurements_that_nobody_renews_count_as_unknown_after_a_while():
    async with watching(stale_after_s=0.3) as (plane, view, _):
        plane.updates.put_nowait(snapshot(1, a=service("a")))
        measured = pb.ServiceObserved(service_id="a", observed=codec.observed_to_pb(Observed(running=3)))
        plane.updates.put_nowait(pb.RoutingUpdate(epoch=1, revision=1, observed=pb.ObservedBatch(services=[measured])))
        await until(lambda: view.table and view.table.observed["a"].running == 3)
        await asyncio.sleep(0.4)
        assert view.table.observed["a"].running == 3, "a control plane that is there tells what moved"
        plane.updates.put_nowait(None)
        await until(lambda: view.stale and view.table.observed["a"] == Observed())
        assert list(shape(view).services) == ["a"]
        plane.updates.put_nowait(snapshot(1, a=service("a")))
        await until(lambda: view.connected)


def shape(view):
    return view.table.shape if view.table else Snapshot()


async def test_a_snapshot_then_deltas_then_measurements():
    async with watching() as (plane, view, _):
        plane.updates.put_nowait(snapshot(1, a=service("a")))
        plane.updates.put_nowait(delta(1, 2, services=(service("b"),)))
        measured = pb.ServiceObserved(service_id="a", observed=codec.observed_to_pb(Observed(running=3)))
        batch = pb.ObservedBatch(services=[measured])
        plane.updates.put_nowait(pb.RoutingUpdate(epoch=1, revision=2, observed=batch))
        await until(lambda: view.table and view.table.observed.get("a") == Observed(running=3))
        assert sorted(shape(view).services) == ["a", "b"]
        assert view.connected
        assert plane.keys == ["node-key"]


async def test_measurements_survive_a_change_of_shape():
    async with watching() as (plane, view, _):
        plane.updates.put_nowait(snapshot(1, a=service("a")))
        measured = pb.ServiceObserved(service_id="a", observed=codec.observed_to_pb(Observed(running=3)))
        full = HostObserved(cpu_utilization=0.5)
        hosts = [pb.HostMeasured(host_id="h1", observed=codec.host_observed_to_pb(full))]
        batch = pb.ObservedBatch(services=[measured], hosts=hosts)
        plane.updates.put_nowait(pb.RoutingUpdate(epoch=1, revision=1, observed=batch))
        for revision, name in ((2, "b"), (3, "c")):
            plane.updates.put_nowait(delta(revision - 1, revision, services=(service(name),)))
        await until(lambda: shape(view).revision == 3)
        assert view.table.observed["a"] == Observed(running=3)
        assert view.table.snapshot.hosts["h1"].observed == full


async def test_the_view_stays_and_is_stale_when_the_stream_ends_and_heals_by_itself():
    async with watching() as (plane, view, _):
        plane.updates.put_nowait(snapshot(1, a=service("a")))
        await until(lambda: view.connected)
        plane.updates.put_nowait(None)
        await until(lambda: view.stale)
        assert "a" in shape(view).services
        plane.updates.put_nowait(snapshot(1, epoch=2, b=service("b")))
        await until(lambda: "b" in shape(view).services)
        assert not view.stale


async def test_a_delta_that_does_not_follow_makes_it_start_over():
    async with watching() as (plane, view, _):
        plane.updates.put_nowait(snapshot(1, a=service("a")))
        plane.updates.put_nowait(delta(7, 8, services=(service("b"),)))
        await until(lambda: len(plane.keys) == 2)
        plane.updates.put_nowait(snapshot(9, c=service("c")))
        await until(lambda: shape(view).revision == 9)


async def test_an_update_of_an_older_term_is_ignored():
    async with watching() as (plane, view, _):
        plane.updates.put_nowait(snapshot(1, epoch=5, a=service("a")))
        plane.updates.put_nowait(snapshot(9, epoch=4, b=service("b")))
        plane.updates.put_nowait(delta(1, 2, epoch=5, services=(service("c"),)))
        await until(lambda: shape(view).revision == 2)
        assert sorted(shape(view).services) == ["a", "c"]


async def test_what_the_worker_sees_is_reported():
    async with watching() as (plane, _, in_flight):
        plane.updates.put_nowait(snapshot(1, a=service("a")))
        hello = await asyncio.wait_for(plane.heard.get(), 20)
        assert (hello.gateway_id, hello.hello.protocol_version) == ("g1", 1)
        with in_flight.guard("a"):
            await _reported(plane, 1)
        await _reported(plane, None)


async def _reported(plane, count):
    """Wait until a report says that `count` requests are open at a; None stands for no entry."""
    async with asyncio.timeout(20):
        while True:
            message = await plane.heard.get()
            if message.WhichOneof("payload") == "report":
                counts = {each.service_id: each.in_flight for each in message.report.services}
                if counts.get("a") == count:
                    return
