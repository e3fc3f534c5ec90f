"""Admission: a service gets no more requests at a time than it has slots; the others wait here, in a fair line.

A request goes to the first of its candidates that has a free place. Where none has, it waits for all of them at
once, and takes the first place that becomes free (`gateway.line` says whose turn it is). The place is taken for it
in that moment, before its task runs, so nobody can come in between; one whose client leaves gives it back at once.

What is counted: this worker's own open requests, and what the cluster tells of the others'. That is some tenths of
a second old, so several workers together may send an engine a few more than it has slots, and it queues those. One
place at each service is always this worker's, or one worker could be shut out by others.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

from gateway.circuit import Circuits, State
from gateway.exchange import Exchange
from gateway.inflight import InFlight
from gateway.line import Line, Priority, Waiter
from gateway.view import RoutingView
from geniehive.config import QueueConfig
from geniehive.errors import Overloaded
from geniehive.routing.candidate import Candidate
from geniehive.routing.table import RoutingTable

HEADER: Final = "x-geniehive-priority"

_NO_LIMIT = 1 << 40
_LOOK_EVERY_S = 0.25  # while somebody waits: what became free elsewhere, what came back
_PRIORITIES: Mapping[str, Priority] = {"interactive": Priority.INTERACTIVE, "batch": Priority.BATCH}
_SOME_S = 5.0  # Retry-After where nothing is known
_LONGEST_S = 60.0


class Place(NamedTuple):
    """A place that was taken at a service; `trial` is whether the service is being tried after an ejection."""

    service_id: str
    trial: bool = False


Queue = Line[asyncio.Future[Place]]


class Admission:
    """The places of one worker. `waited` is told of each wait: its priority and its seconds."""

    def __init__(
        self,
        view: RoutingView,
        in_flight: InFlight,
        circuits: Circuits,
        line: Queue,
        limits: QueueConfig,
        waited: Callable[[Priority, float], None],
    ) -> None:
        self._view = view
        self._in_flight = in_flight
        self._circuits = circuits
        self._line = line
        self._limits = limits
        self._waited = waited
        self._seen: RoutingTable | None = None
        self._allowed: dict[str, int] = {}
        self._timer: asyncio.TimerHandle | None = None

    def takes(self, service_id: str) -> bool:
        """Whether the service has a free place."""
        if self._view.table is not self._seen:
            self._seen = self._view.table
            self._allowed.clear()
        allowed = self._allowed.get(service_id)
        if allowed is None:
            allowed = self._allowed[service_id] = self._allow(service_id)
        return self._in_flight.counts.get(service_id, 0) < allowed

    async def wait(self, exchange: Exchange, candidates: tuple[Candidate, ...], *, begun: bool = False) -> Place:
        """Wait for a place at any of the candidates. It is taken: an attempt has to begin there, or `give_back`.

        Who has `begun` to answer goes ahead of those of its priority that have not, however many they are, and
        waits anew for as long as anybody may.

        Raises Overloaded where too many wait, or for too long, and what interrupted the exchange.
        """
        services = tuple(dict.fromkeys(each.service.service_id for each in candidates))
        most = _NO_LIMIT if begun and self._limits.most else self._limits.most
        joined = tuple(each for each in services if self._line.waiting(each) < most)
        left = self._limits.timeout_s - (0 if begun else exchange.queue_seconds)
        if not joined or left <= 0:
            raise Overloaded("too many requests wait for this model; try again", retry_after_s=self._retry_s(services))
        if exchange.queue_position is None:
            exchange.queue_position = 1 + min(self._line.waiting(each) for each in joined)
        priority = priority_of(exchange, candidates[0])
        owner = getattr(exchange.principal, "name", "")
        grant: asyncio.Future[Place] = exchange.loop.create_future()
        waiter = Waiter(joined, owner, priority, grant, begun=begun)
        began = exchange.now()
        self._join(waiter)
        try:
            with exchange.deadline(left):
                return await grant
        except BaseException as error:
            if grant.done() and not grant.cancelled():
                self.give_back(grant.result())
            if not isinstance(error, TimeoutError):
                raise
            if exchange.interruption is not None:
                raise exchange.interruption from None
            raise Overloaded(
                f"no engine had a free slot for this request within {self._limits.timeout_s:g} s",
                retry_after_s=self._retry_s(services),
            ) from None
        finally:
            self._leave(waiter)
            seconds = exchange.now() - began
            exchange.queue_seconds += seconds
            self._waited(priority, seconds)

    def give_back(self, place: Place) -> None:
        """Nothing begins at a place that was taken."""
        if place.trial:
            self._circuits.let_go(place.service_id)
        self._in_flight.left(place.service_id)

    def _allow(self, service_id: str) -> int:
        """How many requests of this worker may be open there."""
        service = None if self._seen is None else self._seen.shape.services.get(service_id)
        if service is None or self._seen is None or not self._limits.at_slots:
            return _NO_LIMIT
        observed = self._seen.observed.get(service_id, service.observed)
        slots = service.max_concurrency or observed.slots
        if not slots:
            return _NO_LIMIT
        others = max((observed.in_flight or 0) - self._in_flight.reported(service_id), 0)
        return max(slots - others, 1)

    def _join(self, waiter: Waiter[asyncio.Future[Place]]) -> None:
        self._line.join(waiter)
        self._in_flight.freed = self._fill
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_LOOK_EVERY_S, self._look)

    def _leave(self, waiter: Waiter[asyncio.Future[Place]]) -> None:
        self._line.leave(waiter)
        if not self._line:
            self._in_flight.freed = None
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

    def _fill(self, service_id: str) -> None:
        """Give free places of a service to those whose turn it is, unless it is kept back."""
        now = self._in_flight.now()
        while self._line.waiting(service_id) and self.takes(service_id):
            if self._circuits.known and self._circuits.kept_back(service_id, now):
                return
            self._give(self._line.next(service_id), service_id, now)

    def _give(self, waiter: Waiter[asyncio.Future[Place]] | None, service_id: str, now: float) -> None:
        if waiter is None or waiter.grant.done():  # its client has left, and its task has yet to say so
            return
        self._in_flight.reserve(service_id)
        trial = bool(self._circuits.known) and self._circuits.begin(service_id, now)
        waiter.grant.set_result(Place(service_id, trial))

    def _look(self) -> None:
        """See what became free without a request of this worker having ended."""
        self._timer = None
        for service_id in tuple(self._line.services):
            self._fill(service_id)
            if self._circuits.known:
                self._give_to_hopeless(service_id)
        if self._line:
            self._timer = asyncio.get_running_loop().call_later(_LOOK_EVERY_S, self._look)

    def _give_to_hopeless(self, service_id: str) -> None:
        """Requests all of whose services are ejected may try the one that has a place."""
        now = self._in_flight.now()
        if self._circuits.state(service_id, now) not in {State.EJECTED, State.HALF_OPEN}:
            return
        for waiter in tuple(self._line.at(service_id)):
            if not self.takes(service_id):
                return
            if all(self._circuits.kept_back(each, now) for each in waiter.services):
                self._line.leave(waiter)
                self._give(waiter, service_id, now)

    def _retry_s(self, services: tuple[str, ...]) -> float:
        """When a place may be free: as long as those who wait take, at the service where that is shortest."""
        found = []
        for each in services:
            typical = self._in_flight.typical_s(each)
            if typical is not None:
                at_once = max(self._in_flight.counts.get(each, 0), 1)
                found.append((self._line.waiting(each) + 1) * typical / at_once)
        return min(max(min(found, default=_SOME_S), 1.0), _LONGEST_S)


def priority_of(exchange: Exchange, candidate: Candidate) -> Priority:
    """What the request says, else its role, else its key; but never above what its key allows."""
    allowed = _PRIORITIES.get(getattr(exchange.principal, "priority", ""), Priority.INTERACTIVE)
    role = candidate.role.routing_policy.priority if candidate.role is not None else ""
    asked = _PRIORITIES.get(exchange.request.headers.get(HEADER, "").strip().lower())
    if asked is None:
        asked = _PRIORITIES.get(role, allowed)
    return max(asked, allowed)
