"""The gRPC edge to node agents: one stream a node, one reader, one writer, one bounded outbox.

The reader turns messages into events and offers them to the loop; the writer sends what the loop put
into the outbox. The edge decides nothing about the cluster. What it cannot read it refuses with
INVALID, and the stream stays; a node that does not read its messages, or says nothing for three lease
times, loses its stream.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import uuid
from typing import Any, Final

import grpc

from controlplane import events as ev
from controlplane.auth import Gatekeeper
from controlplane.endpoint_guard import EndpointGuard
from controlplane.endpoint_policy import peer_address
from controlplane.events import RejectReason, ToNode
from controlplane.loop import ControlLoop
from geniehive import codec
from geniehive.command_codec import command_order_to_pb, command_result_from_pb
from geniehive.errors import PermissionDenied
from geniehive.identity import Identity
from geniehive.stream import Outbox, OutboxFull
from geniehive.v1 import node_service_pb2 as pb
from geniehive.v1 import node_service_pb2_grpc

# Messages that may wait for one node.
OUTBOX_LIMIT: Final = 256

# How long a stream that is closing may take to send what waits.
LINGER_S: Final = 2.0

_REASONS: Final = {
    RejectReason.UNKNOWN_SESSION: pb.REJECT_REASON_UNKNOWN_SESSION,
    RejectReason.FENCED: pb.REJECT_REASON_FENCED,
    RejectReason.PROTOCOL_VERSION: pb.REJECT_REASON_PROTOCOL_VERSION,
    RejectReason.INVALID: pb.REJECT_REASON_INVALID,
    RejectReason.NOT_SERVING: pb.REJECT_REASON_NOT_SERVING,
}

_CONNECT: Final = "/geniehive.v1.NodeService/Connect"
_Context = grpc.aio.ServicerContext[pb.NodeMessage, pb.ControlMessage]

log = logging.getLogger(__name__)


class NodeStream:
    """The loop's end of a stream: see `controlplane.loop.NodeLink`."""

    def __init__(self, session_id: str, limit: int = OUTBOX_LIMIT) -> None:
        self.session_id = session_id
        self.outbox = Outbox[ToNode](limit)
        self.ended = asyncio.Event()
        self.overflowed = False
        self.identity: Identity | None = None
        """Whom the peer's certificate speaks for; None where there are none."""
        self.refused: PermissionDenied | None = None

    def send(self, message: ToNode) -> None:
        """Put a message in the outbox; if that is full the node does not read, and the stream ends."""
        try:
            self.outbox.put_nowait(message)
        except OutboxFull:
            self.overflowed = True
            self.end("the node does not read its messages")

    def end(self, reason: str) -> None:
        """Close the stream after what waits."""
        log.info("closing session %s: %s", self.session_id, reason)
        self.outbox.close()
        self.ended.set()


class NodeSessions(node_service_pb2_grpc.NodeServiceServicer):
    """`NodeService`."""

    def __init__(
        self,
        loop: ControlLoop,
        guard: EndpointGuard,
        gatekeeper: Gatekeeper | None = None,
        *,
        outbox_limit: int = OUTBOX_LIMIT,
    ) -> None:
        self._loop = loop
        self._guard = guard
        self._gatekeeper = gatekeeper or Gatekeeper((), ())
        self._outbox_limit = outbox_limit
        self._streams: set[NodeStream] = set()

    def expel(self, identity: Identity) -> None:
        """End the streams of one who was removed."""
        for stream in tuple(self._streams):
            if stream.identity == identity:
                stream.refused = PermissionDenied(f"{identity} was removed from this cluster: it must join again")
                stream.end(stream.refused.message)

    async def Connect(self, request_iterator: Any, context: _Context) -> None:
        """One node's stream, from its first message to its end."""
        del request_iterator  # read with `context.read`, which a timeout can cut short
        stream = NodeStream(uuid.uuid4().hex, self._outbox_limit)
        stream.identity = self._gatekeeper.identity(context)
        self._loop.attach(stream.session_id, stream)
        self._streams.add(stream)
        try:
            await self._serve(stream, context)
        finally:
            self._streams.discard(stream)
            # Waits for nothing, so that no cancellation can come between.
            self._loop.detach(stream.session_id)
        if stream.refused is not None:
            raise stream.refused
        if stream.overflowed:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "the node does not read its messages: reconnect")

    async def _serve(self, stream: NodeStream, context: _Context) -> None:
        async with asyncio.TaskGroup() as tasks:
            reader = tasks.create_task(self._read(stream, context))
            writer = tasks.create_task(_write(stream, context))
            ended = tasks.create_task(stream.ended.wait())
            await asyncio.wait({reader, writer, ended}, return_when=asyncio.FIRST_COMPLETED)
            stream.outbox.close()
            await asyncio.wait({writer}, timeout=0 if stream.overflowed else LINGER_S)
            for task in (reader, writer, ended):
                task.cancel()

    async def _read(self, stream: NodeStream, context: _Context) -> None:
        try:
            while True:
                async with asyncio.timeout(self._loop.silence_s):
                    message: Any = await context.read()
                if not isinstance(message, pb.NodeMessage):
                    return  # the node closed its half
                if (error := self._foreign(stream, message.host_id)) is not None:
                    stream.refused = error
                    return
                await self._take(stream, message, context.peer())
        except TimeoutError:
            log.info("closing session %s: the node says nothing", stream.session_id)

    def _foreign(self, stream: NodeStream, host_id: str) -> PermissionDenied | None:
        """Why a message is refused that speaks of another host than the certificate of its sender."""
        who = stream.identity
        if who is None or who.name == host_id:
            return None
        error = PermissionDenied(
            f"the certificate is for {who}, the message speaks of host {host_id[:64]!r}: set node.host_id to "
            f"{who.name}, or join as that host"
        )
        self._gatekeeper.refusals.note("wrong_name", str(who), _CONNECT, error.message)
        return error

    async def _take(self, stream: NodeStream, message: pb.NodeMessage, peer: str) -> None:
        """One message: to the loop, or refused."""
        if not message.HasField("hello") and message.session_id != stream.session_id:
            words = f"session {message.session_id!r} is not this stream's: say Hello again"
            stream.send(ev.Reject(RejectReason.UNKNOWN_SESSION, words))
            return
        try:
            event = event_of(stream.session_id, message)
        except ValueError as error:
            stream.send(ev.Reject(RejectReason.INVALID, str(error)))
            return
        if isinstance(event, ev.HelloReceived | ev.InventoryReceived) and event.services:
            vetted = await self._guard.vet(message.host_id, event.services, peer_address(peer))
            event = dataclasses.replace(event, services=vetted)
        await self._loop.offer(event)


async def _write(stream: NodeStream, context: _Context) -> None:
    try:
        async for message in stream.outbox:
            await context.write(control_message(stream.session_id, message))
    except grpc.aio.InternalError:
        return  # the node went away in the middle of a message


def event_of(session_id: str, message: pb.NodeMessage) -> ev.Event:
    """What a node's message says. Raises ValueError, with what is wrong, if it makes no sense."""
    if not message.host_id:
        raise ValueError("a message needs the host_id of its node")
    match message.WhichOneof("payload"):
        case "hello":
            return _hello(session_id, message)
        case "heartbeat":
            return _heartbeat(session_id, message)
        case "inventory":
            return ev.InventoryReceived(
                session_id=session_id,
                host_id=message.host_id,
                boot_epoch=message.boot_epoch,
                services=tuple(codec.service_from_pb(one) for one in message.inventory.services),
            )
        case "command_result":
            command_id, state, words = command_result_from_pb(message.command_result)
            return ev.CommandResultReceived(
                session_id=session_id,
                host_id=message.host_id,
                boot_epoch=message.boot_epoch,
                command_id=command_id,
                state=state,
                message=words,
            )
        case _:
            raise ValueError("the message has no payload that this control plane knows: update it, or the node agent")


def _hello(session_id: str, message: pb.NodeMessage) -> ev.HelloReceived:
    hello = message.hello
    if hello.host.host_id not in {"", message.host_id}:
        raise ValueError(f"the Hello names host {hello.host.host_id!r}, its message {message.host_id!r}")
    hello.host.host_id, hello.host.boot_epoch = message.host_id, message.boot_epoch
    return ev.HelloReceived(
        session_id=session_id,
        host=codec.host_from_pb(hello.host),
        services=tuple(codec.service_from_pb(one) for one in hello.services),
        open_command_ids=tuple(hello.open_command_ids),
        protocol_version=hello.protocol_version,
    )


def _heartbeat(session_id: str, message: pb.NodeMessage) -> ev.HeartbeatReceived:
    return ev.HeartbeatReceived(
        session_id=session_id,
        host_id=message.host_id,
        boot_epoch=message.boot_epoch,
        sequence=message.heartbeat.sequence,
        host=codec.host_observed_from_pb(message.heartbeat.host),
        services=tuple(codec.service_state_from_pb(one) for one in message.heartbeat.services),
    )


def control_message(session_id: str, message: ToNode) -> pb.ControlMessage:
    """A message to a node as it goes on the wire."""
    found = pb.ControlMessage(session_id=session_id)
    match message:
        case ev.Welcome():
            found.welcome.CopyFrom(
                pb.Welcome(
                    protocol_version=message.protocol_version,
                    session_id=session_id,
                    lease_ttl_ms=message.lease_ttl_ms,
                    heartbeat_interval_ms=message.heartbeat_interval_ms,
                    epoch=message.epoch,
                )
            )
        case ev.Ack(sequence):
            found.ack.sequence = sequence
        case ev.Order(command):
            found.command.CopyFrom(command_order_to_pb(command))
        case ev.Reject(reason, words):
            found.reject.reason, found.reject.message = _REASONS[reason], words
    return found
