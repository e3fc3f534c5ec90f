"""Keeps a worker's view in step with the control plane, and tells it what the worker sees.

One Watch stream at a time. Every stream begins with a whole snapshot, so a lost one costs nothing but
the time to reconnect; the wait between tries has full jitter. The request path never waits for any
of this.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence

import grpc
import grpc.aio

from gateway.inflight import InFlight
from gateway.view import RoutingView
from geniehive import codec, dial
from geniehive.credentials import CredentialSource, Plain
from geniehive.stream import full_jitter
from geniehive.v1 import routing_service_pb2 as pb
from geniehive.v1 import routing_service_pb2_grpc as rpc

log = logging.getLogger(__name__)

PROTOCOL_VERSION = 1
_REPORT_EVERY_S = 0.25  # when something moved
_REPORT_AT_LEAST_S = 5.0
_BACKOFF_BASE_S = 0.2
_BACKOFF_CAP_S = 2.0
_PROBE_EVERY_S = 10.0  # a question of our own about TLS, where gRPC says nothing


class RoutingWatch:
    """The Watch stream of one gateway worker."""

    def __init__(
        self,
        addresses: Sequence[str],
        node_key: str,
        gateway_id: str,
        view: RoutingView,
        in_flight: InFlight,
        dice: Callable[[], float],
        version: str = "",
        *,
        stale_after_s: float = 30.0,
    ) -> None:
        self._addresses = addresses
        self.credentials: CredentialSource = Plain()
        """What is shown to the control plane; asked at each dial."""
        self._metadata = dial.metadata(node_key=node_key)
        self._gateway_id = gateway_id
        self._view = view
        self._in_flight = in_flight
        self._dice = dice
        self._version = version
        self._told = ""
        self._stale_after_s = stale_after_s
        self._probe_at = 0.0
        self._forgetting: asyncio.TimerHandle | None = None

    async def run(self) -> None:
        """Watch until cancelled."""
        attempt = 0
        while True:
            shown = self.credentials.current()
            async with dial.control_channel(self._addresses, shown) as channel:
                stub = rpc.RoutingServiceStub(channel)
                while shown is self.credentials.current():  # with another certificate: another channel
                    try:
                        await self._watch(stub)
                    except grpc.aio.AioRpcError as error:
                        self._tell(await self._explained(error))
                    except ValueError as error:
                        self._tell(f"the control plane sent an update that does not fit: {error}")
                    attempt = 0 if self._view.connected else attempt + 1
                    self._note_loss()
                    await asyncio.sleep(full_jitter(attempt, _BACKOFF_BASE_S, _BACKOFF_CAP_S, self._dice()))

    async def _explained(self, error: grpc.aio.AioRpcError) -> str:
        """What went wrong. gRPC does not say what is wrong with a certificate, so that is asked for."""
        credentials, words = self.credentials.current(), None
        now = asyncio.get_running_loop().time()
        if error.code() is grpc.StatusCode.UNAVAILABLE and not self._view.connected and now >= self._probe_at:
            self._probe_at = now + _PROBE_EVERY_S
            from geniehive import tls_trouble  # noqa: PLC0415 - for trouble alone: it brings what reads configs

            where = self._addresses[0]
            if credentials is not None:
                words = await asyncio.to_thread(tls_trouble.why, where, credentials)
            elif await asyncio.to_thread(tls_trouble.wants_tls, where):
                join = "join it with the line that `geniehive token create --join --kind gateway` prints there"
                words = f"control plane {where} speaks TLS: {join}"
        return words or _explain(error, self._addresses, tls=credentials is not None)

    def _note_loss(self) -> None:
        """Without a control plane measurements age: after `stale_after_s` they are unknown, and own counts decide."""
        if self._view.connected:
            self._forgetting = asyncio.get_running_loop().call_later(
                self._stale_after_s, self._view.forget_measurements
            )
        self._view.connected = False

    def _keep_measurements(self) -> None:
        if self._forgetting is not None:
            self._forgetting.cancel()
            self._forgetting = None

    async def _watch(self, stub: rpc.RoutingServiceStub) -> None:
        """One stream, from Hello to its end."""
        call = stub.Watch(self._messages(), metadata=self._metadata)
        try:
            async for update in call:
                self._apply(update)
            self._tell("the control plane ended the stream")
        finally:
            call.cancel()

    async def _messages(self) -> AsyncIterator[pb.GatewayMessage]:
        hello = pb.GatewayHello(protocol_version=PROTOCOL_VERSION, version=self._version)
        yield pb.GatewayMessage(gateway_id=self._gateway_id, hello=hello)
        sequence, reported, quiet = 0, -1, 0.0
        while True:
            if self._in_flight.moved != reported or quiet >= _REPORT_AT_LEAST_S:
                sequence, reported, quiet = sequence + 1, self._in_flight.moved, 0.0
                yield pb.GatewayMessage(gateway_id=self._gateway_id, report=self._report(sequence))
            await asyncio.sleep(_REPORT_EVERY_S)
            quiet += _REPORT_EVERY_S

    def _report(self, sequence: int) -> pb.GatewayReport:
        table = self._view.table
        known = table.shape.services if table else ()
        traffic = (codec.traffic_to_pb(each) for each in self._in_flight.report(known))
        return pb.GatewayReport(sequence=sequence, services=traffic)

    def _apply(self, update: pb.RoutingUpdate) -> None:
        """Bring the view up to date. An update of an older term is ignored."""
        table = self._view.table
        if table is not None and update.epoch < table.shape.epoch:
            self._tell(f"ignored an update of term {update.epoch}: this gateway knows term {table.shape.epoch}")
            return
        match update.WhichOneof("payload"):
            case "snapshot":
                self._view.replace(codec.snapshot_from_pb(update.snapshot))
                if not self._view.connected:
                    self._view.connected = True
                    self._keep_measurements()
                    self._told = ""
                    log.info("routing by snapshot %d.%d", update.epoch, update.revision)
            case "delta":
                self._view.change(codec.delta_from_pb(update.delta), update.revision)
            case "observed":
                services = {each.service_id: codec.observed_from_pb(each.observed) for each in update.observed.services}
                hosts = {each.host_id: codec.host_observed_from_pb(each.observed) for each in update.observed.hosts}
                self._view.measure(services, hosts)
        if self._view.table is not None:
            self._in_flight.observe(self._view.table)

    def _tell(self, message: str) -> None:
        """Log what keeps the stream away, once until it changes."""
        if message != self._told:
            self._told = message
            keeps = "; serving from the last snapshot" if self._view.table else ""
            log.warning("%s%s", message, keeps)


def _explain(error: grpc.aio.AioRpcError, addresses: Sequence[str], *, tls: bool = False) -> str:
    """What went wrong and what to do, in one line."""
    where = ", ".join(addresses)
    if error.code() is grpc.StatusCode.UNAUTHENTICATED and tls:
        return f"control plane {where} refuses this gateway: {error.details()}"
    if error.code() is grpc.StatusCode.UNAUTHENTICATED:
        return (
            f"control plane {where} refuses this gateway's key: "
            "set control_plane.node_api_key to one of its auth.node_api_keys"
        )
    if error.code() is grpc.StatusCode.UNAVAILABLE:
        return f"control plane {where} does not answer; trying again (is `geniehive control` running there?)"
    return f"control plane {where}: {error.code().name}: {error.details()}"
