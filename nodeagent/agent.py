"""[pure] The core of the node agent: what happened goes in, what to do comes out.

    DISCONNECTED ──stream open──▶ GREETING ──Welcome──▶ WELCOMED
         ▲   (Hello is sent)        │  ▲                   │
         └───────stream ended───────┴──┼───────────────────┤
                                       └──unknown session──┘      fenced, no common version ──▶ STOPPED

A heartbeat carries the full observed state, so a lost one costs nothing. It goes out on its schedule, and at once when
the health or the loaded set of a service changed: routes depend on them. A change of shape (services, models, what
they can do) goes out as an Inventory instead. Commands are kept in `nodeagent.orders`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, assert_never

from msgspec.structs import replace

from geniehive.resources import AssetState, Health, Host, Observed, Service, ServiceState
from nodeagent import events as ev
from nodeagent.events import Effect, Level, RejectReason
from nodeagent.orders import Order, OrderBook

GREETING_PATIENCE_S: Final = 10.0
"""How long a Hello may go unanswered before the stream is given up."""

HELLO_RETRY_S: Final = 5.0
"""When a Hello that was refused as invalid is said again: the host may have changed."""


class SessionState(StrEnum):
    """Where the agent stands with the control plane."""

    DISCONNECTED = "disconnected"
    GREETING = "greeting"
    WELCOMED = "welcomed"
    STOPPED = "stopped"


TRANSITIONS: Final[Mapping[SessionState, frozenset[SessionState]]] = {
    SessionState.DISCONNECTED: frozenset({SessionState.GREETING}),
    SessionState.GREETING: frozenset(
        {SessionState.GREETING, SessionState.WELCOMED, SessionState.DISCONNECTED, SessionState.STOPPED}
    ),
    SessionState.WELCOMED: frozenset({SessionState.GREETING, SessionState.DISCONNECTED, SessionState.STOPPED}),
    SessionState.STOPPED: frozenset(),
}
"""Every legal move."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentView:
    """A picture of the agent for its status page."""

    state: SessionState
    session_id: str
    host: Host
    services: tuple[Service, ...]
    heartbeat_interval_s: float
    heartbeats_sent: int
    welcomes: int
    acked_at: float | None


class Agent:
    """The agent's state. `heartbeat_interval_s` from the config wins over what the control plane wishes."""

    def __init__(self, host: Host, *, heartbeat_interval_s: float | None = None) -> None:
        self._host = host
        self._wanted_interval_s = heartbeat_interval_s
        self._interval_s = heartbeat_interval_s or 5.0
        self._silence_s = math.inf
        self._state = SessionState.DISCONNECTED
        self._session_id = ""
        self._services: dict[str, Service] = {}
        self._told: tuple[Service, ...] = ()
        self._orders = OrderBook()
        self._sequence = 0
        self._heartbeats = 0
        self._welcomes = 0
        self._acked_at: float | None = None
        self._heartbeat_at = math.inf
        self._hello_at = math.inf
        self._give_up_at = math.inf

    @property
    def view(self) -> AgentView:
        """The agent as it is now."""
        return AgentView(
            state=self._state,
            session_id=self._session_id,
            host=self._host,
            services=self._listed(),
            heartbeat_interval_s=self._interval_s,
            heartbeats_sent=self._heartbeats,
            welcomes=self._welcomes,
            acked_at=self._acked_at,
        )

    @property
    def due(self) -> float:
        """When the next Tick has something to do, in the seconds of `now`; infinite is never."""
        return min(self._heartbeat_at, self._hello_at, self._give_up_at)

    def apply(self, event: ev.Event, now: float) -> list[Effect]:
        """What an event leads to, in the order in which it has to be done."""
        if self._state is SessionState.STOPPED:
            return []
        match event:
            case ev.Looked() | ev.ServiceGone() | ev.HostMeasured() | ev.HostFound():
                return self._found(event, now)
            case ev.CommandReceived() | ev.CommandNotUnderstood() | ev.CommandEnded():
                return self._command(event)
            case ev.Tick():
                return self._tick(now)
            case _:
                return self._session(event, now)

    # --- session -------------------------------------------------------------------------------

    def _session(
        self, event: ev.Connected | ev.Disconnected | ev.Welcomed | ev.Acked | ev.Rejected, now: float
    ) -> list[Effect]:
        match event:
            case ev.Connected():
                return self._greet(now)
            case ev.Disconnected():
                return self._disconnected()
            case ev.Welcomed():
                return self._welcomed(event, now)
            case ev.Acked():
                return self._acked(now)
            case ev.Rejected():
                return self._rejected(event, now)
            case _:
                assert_never(event)

    def _move(self, state: SessionState) -> None:
        if state not in TRANSITIONS[self._state]:
            raise ValueError(f"no way from {self._state} to {state}; see nodeagent.agent.TRANSITIONS")
        self._state = state
        if state is not SessionState.WELCOMED:
            self._session_id = ""
        self._heartbeat_at = self._hello_at = self._give_up_at = math.inf

    def _greet(self, now: float) -> list[Effect]:
        self._move(SessionState.GREETING)
        self._give_up_at = now + GREETING_PATIENCE_S
        self._told = self._listed()
        open_ids = tuple(order.command_id for order in self._orders.open)
        return [ev.SendHello(self._host, self._told, open_ids)]

    def _disconnected(self) -> list[Effect]:
        if self._state is not SessionState.DISCONNECTED:
            self._move(SessionState.DISCONNECTED)
        return []

    def _welcomed(self, event: ev.Welcomed, now: float) -> list[Effect]:
        if self._state is not SessionState.GREETING:
            return []
        self._move(SessionState.WELCOMED)
        self._session_id = event.session_id
        self._sequence = 0
        self._welcomes += 1
        said = self._settle_interval(event)
        self._silence_s = max(3 * self._interval_s, event.lease_ttl_s)
        self._give_up_at = now + self._silence_s
        inventory = self._inventory() if _shapes(self._told) != _shapes(self._listed()) else []
        return [*said, *inventory, *self._heartbeat(now), *self._tell(self._orders.open)]

    def _settle_interval(self, event: ev.Welcomed) -> list[Effect]:
        """The config's wish, else the control plane's; never so long that the lease would run out in between."""
        self._interval_s = self._wanted_interval_s or event.heartbeat_interval_s or self._interval_s
        if not 0 < event.lease_ttl_s <= self._interval_s:
            return []
        self._interval_s = event.lease_ttl_s / 3
        message = (
            f"heartbeats go out every {self._interval_s:g} s: the lease of {event.lease_ttl_s:g} s would run out "
            "before the next one; lower node.heartbeat_interval_s, or raise control.lease_ttl_s"
        )
        return [ev.Say(Level.WARNING, message)]

    def _acked(self, now: float) -> list[Effect]:
        if self._state is SessionState.WELCOMED:
            self._acked_at = now
            self._give_up_at = now + self._silence_s
        return []

    def _rejected(self, event: ev.Rejected, now: float) -> list[Effect]:
        match event.reason:
            case RejectReason.UNKNOWN_SESSION:
                # Several messages may be under way when the session is lost: one Hello answers for all of them.
                return self._greet(now) if self._state is SessionState.WELCOMED else []
            case RejectReason.FENCED:
                return self._stop(_fenced(self._host.host_id), fenced=True)
            case RejectReason.PROTOCOL_VERSION:
                return self._stop(f"the control plane speaks no common protocol version: {event.message}")
            case RejectReason.NOT_SERVING:
                self._give_up_at = math.inf
                return [ev.Reconnect(f"the control plane does not serve: {event.message}")]
            case RejectReason.INVALID:
                if self._state is SessionState.GREETING:
                    self._hello_at, self._give_up_at = now + HELLO_RETRY_S, math.inf
                return [ev.Say(Level.ERROR, f"the control plane refused a message as invalid: {event.message}")]
            case _:
                assert_never(event.reason)

    def _stop(self, message: str, *, fenced: bool = False) -> list[Effect]:
        if self._state is SessionState.DISCONNECTED:
            return []
        self._move(SessionState.STOPPED)
        return [ev.Stop(message, fenced)]

    def _tick(self, now: float) -> list[Effect]:
        if now >= self._give_up_at:
            self._give_up_at = math.inf
            self._heartbeat_at = math.inf
            return [ev.Reconnect("the control plane does not answer")]
        if now >= self._hello_at:
            return self._greet(now)
        return self._heartbeat(now) if now >= self._heartbeat_at else []

    # --- what is known of the host -------------------------------------------------------------

    def _found(self, event: ev.Looked | ev.ServiceGone | ev.HostMeasured | ev.HostFound, now: float) -> list[Effect]:
        match event:
            case ev.HostMeasured():
                self._host = replace(self._host, observed=event.observed)
                return []
            case ev.HostFound():
                return self._host_found(event, now)
            case ev.Looked():
                before = self._services.get(event.service.service_id)
                self._services[event.service.service_id] = event.service
                return self._changed(before, event.service, now)
            case ev.ServiceGone():
                before = self._services.pop(event.service_id, None)
                return self._changed(before, None, now)
            case _:
                assert_never(event)

    def _host_found(self, event: ev.HostFound, now: float) -> list[Effect]:
        """The host is told whole in a Hello only, so a change of it means a new Hello."""
        host = replace(event.host, observed=self._host.observed)
        if host == self._host:
            return []
        self._host = host
        return self._greet(now) if self._state is SessionState.WELCOMED else []

    def _changed(self, before: Service | None, after: Service | None, now: float) -> list[Effect]:
        """What a changed service leads to: an Inventory, a heartbeat ahead of its time, or nothing."""
        if self._state is not SessionState.WELCOMED or before == after:
            return []
        if before is None or after is None:
            return self._inventory()
        # The heartbeat goes first: it waits for no database, and a dead engine must leave the routes at once.
        if shape(before) != shape(after):
            return [*(self._heartbeat(now) if before.health != after.health else []), *self._inventory()]
        return self._heartbeat(now) if _routing(before) != _routing(after) else []

    def _listed(self) -> tuple[Service, ...]:
        return tuple(self._services[key] for key in sorted(self._services))

    def _inventory(self) -> list[Effect]:
        self._told = self._listed()
        return [ev.SendInventory(self._session_id, self._told)]

    def _heartbeat(self, now: float) -> list[Effect]:
        self._sequence += 1
        self._heartbeats += 1
        self._heartbeat_at = now + self._interval_s
        states = tuple(service_state(one) for one in self._listed())
        return [ev.SendHeartbeat(self._session_id, self._sequence, self._host.observed, states)]

    # --- commands ------------------------------------------------------------------------------

    def _command(self, event: ev.CommandReceived | ev.CommandNotUnderstood | ev.CommandEnded) -> list[Effect]:
        match event:
            case ev.CommandReceived():
                told = self._orders.receive(event.command, self._services.keys())
            case ev.CommandNotUnderstood():
                told = self._orders.refuse(event.command_id, "this node agent does not know that order: update it")
            case ev.CommandEnded():
                told = self._orders.end(event.command_id, failed=event.failed, message=event.message)
            case _:
                assert_never(event)
        started = self._orders.startable()
        starts = [ev.StartCommand(order.command) for order in started if order.command is not None]
        return [*self._tell((*told, *started)), *starts]

    def _tell(self, orders: tuple[Order, ...]) -> list[Effect]:
        """Results go out in a session only; what cannot be told now is told after the next Welcome."""
        if self._state is not SessionState.WELCOMED:
            return []
        effects: list[Effect] = []
        for order in orders:
            effects.append(ev.SendResult(self._session_id, order.command_id, order.state, order.message))
            self._orders.note_told(order.command_id)
        return effects


def _fenced(host_id: str) -> str:
    return (
        f"another agent speaks for host {host_id!r}: if it runs on another machine, give each its own "
        "node.host_id; if on this one, stop one of them"
    )


def shape(service: Service) -> Service:
    """What of a service a heartbeat cannot tell: all but health, measurements and what is in memory."""
    assets = tuple(replace(asset, loaded=None, vram_bytes=None) for asset in service.assets)
    return replace(service, health=Health(), observed=Observed(), assets=assets)


def service_state(service: Service) -> ServiceState:
    """What a heartbeat tells of a service."""
    assets = tuple(
        AssetState(asset_id=asset.asset_id, loaded=asset.loaded, vram_bytes=asset.vram_bytes)
        for asset in service.assets
    )
    return ServiceState(service_id=service.service_id, health=service.health, observed=service.observed, assets=assets)


def _routing(service: Service) -> tuple[object, ...]:
    """What of a heartbeat changes routes."""
    return service.health, tuple((asset.asset_id, asset.loaded) for asset in service.assets)


def _shapes(services: tuple[Service, ...]) -> tuple[Service, ...]:
    return tuple(shape(one) for one in services)
