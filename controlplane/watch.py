"""The gRPC edge to gateways: the snapshot and its updates go down, traffic comes up.

One stream a gateway worker; the first message is its Hello, the first answer the whole snapshot. A
worker that reads too slowly is sent the whole snapshot again instead of a queue without end
(`controlplane.feeds`). As its stream ends, what it had open counts no more.
"""

from __future__ import annotations

import asyncio
import re
import uuid
from typing import Any, Final, assert_never

import grpc

from controlplane import events as ev
from controlplane.auth import Gatekeeper
from controlplane.feeds import RoutingFeed, Update
from controlplane.loop import ControlLoop
from geniehive import codec
from geniehive.errors import PermissionDenied
from geniehive.identity import Identity
from geniehive.resources import Snapshot
from geniehive.v1 import routing_service_pb2 as pb
from geniehive.v1 import routing_service_pb2_grpc

# How long a gateway may take to say Hello.
HELLO_S: Final = 30.0

_WATCH: Final = "/geniehive.v1.RoutingService/Watch"
_Context = grpc.aio.ServicerContext[pb.GatewayMessage, pb.RoutingUpdate]


class RoutingWatch(routing_service_pb2_grpc.RoutingServiceServicer):
    """`RoutingService`."""

    def __init__(self, loop: ControlLoop, gatekeeper: Gatekeeper | None = None) -> None:
        self._loop = loop
        self._gatekeeper = gatekeeper or Gatekeeper((), ())
        self._feeds: dict[RoutingFeed, Identity] = {}

    def expel(self, identity: Identity) -> None:
        """End the streams of a gateway that was removed."""
        for feed, who in tuple(self._feeds.items()):
            if who == identity:
                feed.close()

    async def Watch(self, request_iterator: Any, context: _Context) -> None:
        """One gateway worker's stream."""
        del request_iterator  # read with `context.read`, as in node_sessions
        try:
            async with asyncio.timeout(HELLO_S):
                hello: Any = await context.read()
        except TimeoutError:
            await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, f"no hello within {HELLO_S:.0f} s")
        if not isinstance(hello, pb.GatewayMessage):
            return
        if not hello.HasField("hello") or not hello.gateway_id:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the first message must be a hello with a gateway_id")
        if hello.hello.protocol_version < 1:
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, "no common protocol version: update the gateway")
        identity = self._gatekeeper.identity(context)
        self._check_name(identity, hello.gateway_id)
        stream_id = uuid.uuid4().hex
        with self._loop.subscribe() as feed:
            if identity is not None:
                self._feeds[feed] = identity
            try:
                await self._loop.offer(
                    ev.GatewayConnected(stream_id=stream_id, gateway_id=hello.gateway_id, version=hello.hello.version)
                )
                await self._serve(stream_id, feed, context)
            finally:
                # Waits for nothing, so that no cancellation can come between.
                self._feeds.pop(feed, None)
                self._loop.post(ev.GatewayGone(stream_id=stream_id))

    def _check_name(self, identity: Identity | None, gateway_id: str) -> None:
        """Workers of gateway "g" are "g", or "g-1" and so on. Raises PermissionDenied for other names."""
        if identity is None or re.fullmatch(rf"{re.escape(identity.name)}(-\d+)?", gateway_id):
            return
        error = PermissionDenied(
            f"the certificate is for {identity}, its hello for gateway {gateway_id[:64]!r}: set gateway.gateway_id to "
            f"{identity.name}, or join under that name"
        )
        self._gatekeeper.refusals.note("wrong_name", str(identity), _WATCH, error.message)
        raise error

    async def _serve(self, stream_id: str, feed: RoutingFeed, context: _Context) -> None:
        async with asyncio.TaskGroup() as tasks:
            pair = {tasks.create_task(self._read(stream_id, context)), tasks.create_task(_write(feed, context))}
            await asyncio.wait(pair, return_when=asyncio.FIRST_COMPLETED)
            for task in pair:
                task.cancel()

    async def _read(self, stream_id: str, context: _Context) -> None:
        while True:
            message: Any = await context.read()
            if not isinstance(message, pb.GatewayMessage):
                return
            if message.HasField("report"):
                services = tuple(codec.traffic_from_pb(one) for one in message.report.services)
                await self._loop.offer(ev.TrafficReported(stream_id=stream_id, services=services))


async def _write(feed: RoutingFeed, context: _Context) -> None:
    try:
        async for update in feed:
            await context.write(routing_update(update))
    except grpc.aio.InternalError:
        return  # the gateway went away in the middle of a message


def routing_update(update: Update) -> pb.RoutingUpdate:
    """An update as it goes on the wire."""
    found = pb.RoutingUpdate(epoch=update.epoch, revision=update.revision)
    match update:
        case Snapshot():
            found.snapshot.CopyFrom(codec.snapshot_to_pb(update))
        case ev.Publish():
            found.delta.CopyFrom(codec.delta_to_pb(update.delta))
        case ev.PublishObserved():
            for service_id, observed in update.services.items():
                found.observed.services.add(service_id=service_id, observed=codec.observed_to_pb(observed))
            for host_id, host_observed in update.hosts.items():
                found.observed.hosts.add(host_id=host_id, observed=codec.host_observed_to_pb(host_observed))
        case _:
            assert_never(update)
    return found
