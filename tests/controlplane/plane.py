"""A control plane for tests: the real loop and gRPC edges over a store in memory that can be held up or broken."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import grpc
import pytest

from controlplane import events as ev
from controlplane.cluster import ClusterState
from controlplane.endpoint_guard import EndpointGuard
from controlplane.endpoint_policy import EndpointPolicy
from controlplane.leases import LeaseTerms
from controlplane.loop import ControlLoop
from controlplane.node_sessions import NodeSessions
from controlplane.watch import RoutingWatch
from geniehive import codec
from geniehive.clock import Clock, ManualClock, SystemClock
from geniehive.errors import StoreError
from geniehive.resources import AuditEntry, Host, Service
from geniehive.v1 import node_service_pb2 as node_pb
from geniehive.v1 import node_service_pb2_grpc as node_grpc
from geniehive.v1 import routing_service_pb2 as routing_pb
from geniehive.v1 import routing_service_pb2_grpc as routing_grpc

DEADLINE_S = 30.0


class MemoryStore:
    """Keeps changes in dicts. `open` lets writes through; `broken` makes them fail."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.open.set()
        self.broken = False
        self.writes: list[tuple[ev.Change, ...]] = []
        self.kept: dict[tuple[ev.Kind, str], object] = {}
        self.begun = asyncio.Event()
        self.audit: list[AuditEntry] = []

    async def apply(self, changes: Sequence[ev.Change]) -> None:
        self.begun.set()
        await self.open.wait()
        if self.broken:
            raise StoreError("database or disk is full")
        self.writes.append(tuple(changes))
        for change in changes:
            if isinstance(change, ev.Append):
                self.audit.append(change.entry)
            elif isinstance(change, ev.Put):
                self.kept[change.kind, change.key] = change.resource
            else:
                self.kept.pop((change.kind, change.key), None)

    def registry(self) -> ev.Registry:
        def of(kind: ev.Kind) -> list:
            return [one for (its, _), one in self.kept.items() if its is kind]

        return ev.Registry(
            of(ev.Kind.HOST), of(ev.Kind.SERVICE), of(ev.Kind.ROLE), of(ev.Kind.COMMAND), (), of(ev.Kind.ACCESS_KEY)
        )


class Link:
    """A node's stream that only remembers."""

    def __init__(self) -> None:
        self.sent: list[ev.ToNode] = []
        self.ended: str | None = None

    def send(self, message: ev.ToNode) -> None:
        self.sent.append(message)

    def end(self, reason: str) -> None:
        self.ended = reason


async def until(holds: Callable[[], object], why: str = "") -> None:
    """Give other tasks turns until something holds."""
    async with asyncio.timeout(DEADLINE_S):
        while not holds():
            await asyncio.sleep(0.001)


@asynccontextmanager
async def running_loop(
    store: MemoryStore | None = None, clock: Clock | None = None, terms: LeaseTerms | None = None, epoch: int = 1
) -> AsyncIterator[ControlLoop]:
    store, clock = store or MemoryStore(), clock or SystemClock()
    now = ev.Instant(clock.monotonic(), clock.unix_ms())
    state = ClusterState(terms or LeaseTerms(), epoch, store.registry(), now)
    loop = ControlLoop(state, store, clock)
    async with asyncio.TaskGroup() as tasks:
        with pytest.MonkeyPatch.context() as patch:
            if isinstance(clock, ManualClock):  # the machine's own pauses do not count: its time is not the test's
                patch.setattr("controlplane.loop.PAUSE_S", math.inf)
            tasks.create_task(loop.run())
            try:
                yield loop
            finally:
                loop.close()


@asynccontextmanager
async def served(loop: ControlLoop, address: str = "127.0.0.1:0", outbox_limit: int = 256) -> AsyncIterator[str]:
    """A gRPC server on a free port; its address."""
    server = grpc.aio.server()
    node_grpc.add_NodeServiceServicer_to_server(
        NodeSessions(loop, EndpointGuard(EndpointPolicy()), outbox_limit=outbox_limit), server
    )
    routing_grpc.add_RoutingServiceServicer_to_server(RoutingWatch(loop), server)
    port = server.add_insecure_port(address)
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(0)


@asynccontextmanager
async def plane(store: MemoryStore | None = None, **options) -> AsyncIterator[tuple[ControlLoop, grpc.aio.Channel]]:
    """A running control plane and a channel to it."""
    async with (
        running_loop(store, **options) as loop,
        served(loop) as address,
        grpc.aio.insecure_channel(address) as channel,
    ):
        yield loop, channel


class Node:
    """A node agent's side of `Connect`, spoken by hand."""

    def __init__(self, channel: grpc.aio.Channel, host_id: str = "atlas", boot_epoch: int = 1) -> None:
        self.host_id, self.boot_epoch, self.session_id = host_id, boot_epoch, ""
        self.call = node_grpc.NodeServiceStub(channel).Connect()

    async def say(self, **payload: object) -> None:
        await self.call.write(
            node_pb.NodeMessage(host_id=self.host_id, boot_epoch=self.boot_epoch, session_id=self.session_id, **payload)
        )

    async def hear(self) -> node_pb.ControlMessage:
        async with asyncio.timeout(DEADLINE_S):
            return await self.call.read()

    async def hello(self, *services: Service, open_ids: Sequence[str] = ()) -> node_pb.ControlMessage:
        await self.say(
            hello=node_pb.Hello(
                protocol_version=1,
                host=codec.host_to_pb(Host(host_id=self.host_id)),
                services=[codec.service_to_pb(one) for one in services],
                open_command_ids=open_ids,
            )
        )
        answer = await self.hear()
        if answer.HasField("welcome"):
            self.session_id = answer.welcome.session_id
        return answer

    async def heartbeat(self, sequence: int, *states: node_pb.ServiceState) -> node_pb.ControlMessage:
        await self.say(heartbeat=node_pb.Heartbeat(sequence=sequence, services=states))
        return await self.hear()


class Gateway:
    """A gateway worker's side of `Watch`, spoken by hand."""

    def __init__(self, channel: grpc.aio.Channel, gateway_id: str = "gw") -> None:
        self.gateway_id = gateway_id
        self.call = routing_grpc.RoutingServiceStub(channel).Watch()

    async def hello(self) -> routing_pb.RoutingUpdate:
        await self.call.write(
            routing_pb.GatewayMessage(
                gateway_id=self.gateway_id, hello=routing_pb.GatewayHello(protocol_version=1, version="test")
            )
        )
        return await self.hear()

    async def report(self, **in_flight: int) -> None:
        services = [routing_pb.ServiceTraffic(service_id=key, in_flight=n) for key, n in in_flight.items()]
        report = routing_pb.GatewayReport(sequence=1, services=services)
        await self.call.write(routing_pb.GatewayMessage(gateway_id=self.gateway_id, report=report))

    async def hear(self) -> routing_pb.RoutingUpdate:
        async with asyncio.timeout(DEADLINE_S):
            return await self.call.read()

    async def hear_until(self, holds: Callable[[routing_pb.RoutingUpdate], object]) -> routing_pb.RoutingUpdate:
        while True:
            update = await self.hear()
            if holds(update):
                return update
