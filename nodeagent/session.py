"""The gRPC edge to the control plane: one stream at a time, one reader, one writer, one bounded outbox.

The session decides nothing about the host: it turns effects into messages and messages into events. When a stream
ends, however it ends, another one is opened after a pause with full jitter: first within a fifth of a second, never
longer than two (or a quarter of the lease), so a control plane that comes back has its hosts back within seconds.
Several addresses take turns. A control plane that cannot be reached is told once, and again every minute, not at every
try.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import grpc
import grpc.aio

from geniehive import codec, dial
from geniehive.command_codec import command_order_from_pb, command_result_to_pb
from geniehive.credentials import CredentialSource, Plain
from geniehive.stream import Outbox, OutboxFull, full_jitter
from geniehive.v1 import node_service_pb2 as pb
from geniehive.v1 import node_service_pb2_grpc
from nodeagent import events as ev
from nodeagent.events import RejectReason

PROTOCOL_VERSION: Final = 1
OUTBOX_LIMIT: Final = 256
BACKOFF_BASE_S: Final = 0.2
BACKOFF_CAP_S: Final = 2.0
STEADY_S: Final = 5.0
"""A stream that was welcomed and lasted so long ends a row of failures."""
REMIND_S: Final = 60.0
JOIN_FIRST: Final = "join it with the line that `geniehive token create --join` prints there"
FLUSH_S: Final = 1.0

_REASONS: Final = {
    pb.REJECT_REASON_UNKNOWN_SESSION: RejectReason.UNKNOWN_SESSION,
    pb.REJECT_REASON_FENCED: RejectReason.FENCED,
    pb.REJECT_REASON_PROTOCOL_VERSION: RejectReason.PROTOCOL_VERSION,
    pb.REJECT_REASON_INVALID: RejectReason.INVALID,
    pb.REJECT_REASON_NOT_SERVING: RejectReason.NOT_SERVING,
}
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialling:
    """Whom to dial, and as whom. `prepare` runs before each try: the host's address may have changed.

    `credentials` is asked at each dial, so that a renewed certificate is shown from then on.
    """

    addresses: Sequence[str]
    node_key: str
    host_id: str
    boot_epoch: int
    prepare: Callable[[], Awaitable[None]]
    credentials: CredentialSource = field(default_factory=Plain)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """How a stream ended: status, the server's or our words, and for how many seconds it was welcomed."""

    code: grpc.StatusCode | None
    words: str
    welcomed_s: float | None


class Session:
    """See the module. `offer` takes events and may make the reader wait; `dice` gives numbers from 0 to 1."""

    def __init__(
        self,
        dialling: Dialling,
        offer: Callable[[ev.Event], Awaitable[None]],
        dice: Callable[[], float] = random.random,
    ) -> None:
        self._dialling = dialling
        self._offer = offer
        self._dice = dice
        self._outbox = Outbox[pb.NodeMessage](OUTBOX_LIMIT)
        self._outbox.close()
        self._give_up = asyncio.Event()
        self._reason = ""
        self._welcomed_at: float | None = None
        self._said: dict[str, float] = {}
        self._backoff_cap_s = BACKOFF_CAP_S
        self.reconnects = 0

    # --- for the loop --------------------------------------------------------------------------

    def send(self, message: ev.Send) -> None:
        """Put a message in the outbox; nothing happens where there is no stream."""
        try:
            self._outbox.put_nowait(self._message(message))
        except OutboxFull:
            self.reconnect("the control plane does not read")

    def reconnect(self, reason: str) -> None:
        """Give up the stream and open another one."""
        self._reason = reason
        self._give_up.set()

    async def flush(self) -> None:
        """Wait a moment for what is in the outbox to go out."""
        loop = asyncio.get_running_loop()
        until = loop.time() + FLUSH_S
        while len(self._outbox) and not self._outbox.closed and loop.time() < until:  # noqa: ASYNC110 - at the end only
            await asyncio.sleep(0.01)

    # --- the life of the session ---------------------------------------------------------------

    async def run(self) -> None:
        """Keep a stream open until cancelled."""
        attempt = 0
        while True:
            await self._dialling.prepare()
            address = self._dialling.addresses[attempt % len(self._dialling.addresses)]
            ending = await self._stream(address)
            await self._offer(ev.Disconnected())
            await self._report(address, ending)
            if ending.welcomed_s is not None and ending.welcomed_s >= STEADY_S:
                attempt = 0
            await asyncio.sleep(full_jitter(attempt, BACKOFF_BASE_S, self._backoff_cap_s, self._dice()))
            attempt += 1
            self.reconnects += 1

    async def _stream(self, address: str) -> Ending:
        """One stream, from its opening to its end."""
        self._outbox = Outbox[pb.NodeMessage](OUTBOX_LIMIT)
        self._give_up.clear()
        self._reason, self._welcomed_at = "", None
        async with dial.control_channel([address], self._dialling.credentials.current()) as channel:
            call = node_service_pb2_grpc.NodeServiceStub(channel).Connect(
                metadata=dial.metadata(node_key=self._dialling.node_key)
            )
            await self._offer(ev.Connected())
            try:
                await self._converse(call, address)
            finally:
                self._outbox.close()
                call.cancel()
            return await self._ending(call)

    async def _converse(self, call: Any, address: str) -> None:
        async with asyncio.TaskGroup() as tasks:
            running = {
                tasks.create_task(self._read(call, address), name="session-reader"),
                tasks.create_task(self._write(call), name="session-writer"),
                tasks.create_task(self._give_up.wait(), name="session-given-up"),
            }
            await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            for task in running:
                task.cancel()

    async def _read(self, call: Any, address: str) -> None:
        try:
            while isinstance(message := await call.read(), pb.ControlMessage):
                if message.HasField("welcome"):
                    self._note_welcome(address, message.welcome)
                event = event_of(message, self._dialling.host_id)
                if event is not None:
                    await self._offer(event)
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            return  # `_ending` tells

    async def _write(self, call: Any) -> None:
        try:
            async for message in self._outbox:
                await call.write(message)
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            await asyncio.Event().wait()  # the reader knows why, and what came before

    async def _ending(self, call: Any) -> Ending:
        welcomed_s = None
        if self._welcomed_at is not None:
            welcomed_s = asyncio.get_running_loop().time() - self._welcomed_at
        if self._reason:
            return Ending(code=None, words=self._reason, welcomed_s=welcomed_s)
        return Ending(code=await call.code(), words=await call.details() or "", welcomed_s=welcomed_s)

    def _message(self, message: ev.Send) -> pb.NodeMessage:
        return message_of(message, self._dialling.host_id, self._dialling.boot_epoch)

    # --- words for the operator ----------------------------------------------------------------

    def _note_welcome(self, address: str, welcome: pb.Welcome) -> None:
        if self._welcomed_at is None:
            _log.info("connected to the control plane at %s as host %s", address, self._dialling.host_id)
            self._welcomed_at = asyncio.get_running_loop().time()
        self._said.clear()
        if welcome.lease_ttl_ms:  # several tries have to fit into a lease
            self._backoff_cap_s = min(BACKOFF_CAP_S, welcome.lease_ttl_ms / 4000)
        _log.debug("session %s, term %d", welcome.session_id, welcome.epoch)

    async def _report(self, address: str, ending: Ending) -> None:
        """One line for a new trouble, and a reminder every minute while it lasts."""
        # Not by its words: gRPC's own differ from try to try. Addresses take turns, so each has its own memory.
        kind = f"{address} {ending.code} {ending.welcomed_s is None}"
        now = asyncio.get_running_loop().time()
        if now - self._said.get(kind, -REMIND_S) < REMIND_S:
            return
        self._said[kind] = now
        _log.warning("%s", await self._tls_trouble(address, ending) or trouble(address, ending))

    async def _tls_trouble(self, address: str, ending: Ending) -> str:
        """What is wrong with a certificate, ours or theirs; empty if that is not it. gRPC does not say."""
        credentials = self._dialling.credentials.current()
        if ending.welcomed_s is not None:
            return ""
        if ending.code is grpc.StatusCode.UNAVAILABLE:
            from geniehive import tls_trouble  # noqa: PLC0415 - for trouble alone: it brings what reads configs

            if credentials is None:
                wants = await asyncio.to_thread(tls_trouble.wants_tls, address)
                return f"the control plane at {address} speaks TLS: {JOIN_FIRST}; trying again" if wants else ""
            words = await asyncio.to_thread(tls_trouble.why, address, credentials)
            return f"{words}; trying again" if words else ""
        refused = ending.code in {grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED}
        if credentials is not None and refused:
            return f"the control plane at {address} refuses this node: {ending.words}; trying again"
        return ""


def trouble(address: str, ending: Ending) -> str:
    """What the end of a stream means for the operator, with what to do."""
    if ending.code in {grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED}:
        return (
            f"the control plane at {address} refuses this node's key: set control_plane.node_api_key to one of its "
            "auth.node_api_keys; trying again"
        )
    if ending.code is grpc.StatusCode.UNIMPLEMENTED:
        return (
            f"what answers at {address} is no GenieHive control plane: set control_plane.address to its control.listen "
            "(8801 by default; the gateway's port is another one); trying again"
        )
    if ending.welcomed_s is not None:
        return f"lost the control plane at {address} ({ending.words or 'it closed the stream'}); trying again"
    if ending.code is grpc.StatusCode.UNAVAILABLE:
        return (
            f"the control plane at {address} cannot be reached ({_brief(ending.words)}): start it (geniehive control), "
            "or set control_plane.address; trying again"
        )
    code = ending.code.name if ending.code is not None else "given up"
    return f"no session with the control plane at {address} ({code}: {ending.words}); trying again"


def _brief(words: str) -> str:
    """Words of gRPC without what the line already says: "… Connection refused (111)"."""
    return words.rpartition(": ")[2] or words


def event_of(message: pb.ControlMessage, host_id: str) -> ev.Event | None:
    """What a message of the control plane says; None for one that this version does not know."""
    match message.WhichOneof("payload"):
        case "welcome":
            welcome = message.welcome
            return ev.Welcomed(
                session_id=welcome.session_id,
                lease_ttl_s=welcome.lease_ttl_ms / 1000,
                heartbeat_interval_s=welcome.heartbeat_interval_ms / 1000,
                epoch=welcome.epoch,
            )
        case "ack":
            return ev.Acked(message.ack.sequence)
        case "command":
            command = command_order_from_pb(message.command, host_id)
            return ev.CommandReceived(command) if command else ev.CommandNotUnderstood(message.command.command_id)
        case "reject":
            reject = message.reject
            return ev.Rejected(_REASONS.get(reject.reason, RejectReason.INVALID), reject.message)
    return None


def message_of(message: ev.Send, host_id: str, boot_epoch: int) -> pb.NodeMessage:
    """A message as it goes on the wire."""
    found = pb.NodeMessage(host_id=host_id, boot_epoch=boot_epoch)
    if not isinstance(message, ev.SendHello):
        found.session_id = message.session_id
    match message:
        case ev.SendHello():
            found.hello.protocol_version = PROTOCOL_VERSION
            found.hello.host.CopyFrom(codec.host_to_pb(message.host))
            found.hello.services.extend(codec.service_to_pb(one) for one in message.services)
            found.hello.open_command_ids.extend(message.open_command_ids)
        case ev.SendHeartbeat():
            found.heartbeat.sequence = message.sequence
            found.heartbeat.host.CopyFrom(codec.host_observed_to_pb(message.host))
            found.heartbeat.services.extend(codec.service_state_to_pb(one) for one in message.services)
        case ev.SendInventory():
            found.inventory.SetInParent()
            found.inventory.services.extend(codec.service_to_pb(one) for one in message.services)
        case ev.SendResult():
            found.command_result.CopyFrom(command_result_to_pb(message.command_id, message.state, message.message))
    return found
