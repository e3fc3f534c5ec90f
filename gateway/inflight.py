"""Requests that this worker has open, by service, and what it saw of the finished ones.

A guard is opened for each attempt and closed in every case, so the counts are true by construction.
They are what the routing of this worker reads, and what the control plane merges over all workers:
for an engine that reports no queue they are the only sign of load.
"""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Callable, Collection
from math import ceil
from types import TracebackType
from typing import Self

import msgspec

from geniehive.resources import ServiceTraffic, Snapshot
from geniehive.routing.candidate import Candidate
from geniehive.routing.ledger import Ask, Ledger, Outcome, Ticket
from geniehive.routing.table import RoutingTable

_RECENT = 32  # finished requests that a median is taken over
_ENOUGH = 20  # of them, to know who is late
_IN_TIME = 0.95


class _Tally:
    """What was seen of one service."""

    __slots__ = ("failed", "latency", "speed", "succeeded", "ttft")

    def __init__(self) -> None:
        self.succeeded = 0
        self.failed = 0
        self.ttft: deque[float] = deque(maxlen=_RECENT)
        self.latency: deque[float] = deque(maxlen=_RECENT)
        self.speed: deque[float] = deque(maxlen=_RECENT)


class Guard(msgspec.Struct, eq=False):
    """One open request to one service. Leaving it unfinished counts neither for nor against the service.

    Where a strategy learns from it, the ledger's ticket is held here too: it ends with the guard in every case.
    """

    _owner: InFlight
    _service_id: str
    _started: float
    _ticket: Ticket | None = None
    _first: float | None = None
    _closed: bool = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Free the place. A second call does nothing."""
        if not self._closed:
            self._closed = True
            self._owner.left(self._service_id)
            if self._ticket is not None:
                self._end(Outcome(ok=False))

    def first_byte(self) -> None:
        """The first content of the answer has come."""
        if self._first is None:
            self._first = self._owner.now()
            if self._ticket is not None:
                self._owner.ledger.first(self._ticket, self._first)

    def finish(self, *, ok: bool, tokens: int | None = None, answer: Outcome | None = None) -> None:
        """The service has answered (`ok`) or failed; `tokens` is how many it generated, if it said so.

        `answer` is what is learned from; without it, nothing was answered.
        """
        self._owner.finished(self._service_id, self._started, self._first, ok=ok, tokens=tokens)
        if answer is not None:
            self._end(answer)

    def _end(self, outcome: Outcome) -> None:
        ticket, self._ticket = self._ticket, None
        if ticket is not None:
            self._owner.ledger.end(ticket, self._owner.now(), outcome)


class InFlight:
    """The counts of one worker; `now` is a monotonic clock in seconds."""

    def __init__(self, now: Callable[[], float]) -> None:
        self.now = now
        self.counts: dict[str, int] = {}
        self.moved = 0  # goes up with everything worth a report
        self.ledger = Ledger()
        self.freed: Callable[[str], None] | None = None
        """Called with the service where a place has become free, while somebody waits for one."""
        self._reported: dict[str, int] = {}
        self._reported_before: dict[str, int] = {}
        self._shape: Snapshot | None = None
        self._tallies: dict[str, _Tally] = {}

    @property
    def total(self) -> int:
        """Open requests over all services."""
        return sum(self.counts.values())

    def guard(
        self, service_id: str, candidate: Candidate | None = None, ask: Ask | None = None, *, reserved: bool = False
    ) -> Guard:
        """Take a place at a service, or the one that was `reserved`; close the guard to free it.

        With `ask`, the ledger learns from the request.
        """
        now = self.now()
        ticket = None if candidate is None or ask is None else self.ledger.begin(candidate, ask, now)
        if not reserved:
            self.counts[service_id] = self.counts.get(service_id, 0) + 1
            self.moved += 1
        return Guard(self, service_id, now, ticket)

    def reserve(self, service_id: str) -> None:
        """Count a request that is about to begin there; a guard takes its place, or `left` gives it back."""
        self.counts[service_id] = self.counts.get(service_id, 0) + 1
        self.moved += 1

    def observe(self, table: RoutingTable) -> None:
        """The cluster told something new: what it counts there, less what this worker last reported, is others'."""
        if table.shape is not self._shape:
            self._shape = table.shape
            self.ledger.reshape(table.shape.services)
        self.ledger.observe(table.observed, self._reported)

    def left(self, service_id: str) -> None:
        """A guard closed."""
        self.moved += 1
        rest = self.counts[service_id] - 1
        if rest:
            self.counts[service_id] = rest
        else:
            del self.counts[service_id]
        if self.freed is not None:
            self.freed(service_id)

    def reported(self, service_id: str) -> int:
        """The most that this worker lately told the control plane to have open: it may know of that still."""
        return max(self._reported.get(service_id, 0), self._reported_before.get(service_id, 0))

    def late_s(self, service_id: str, *, streamed: bool) -> float | None:
        """Within how many seconds 19 of 20 answers began there, or came whole; None if too few were seen."""
        tally = self._tallies.get(service_id)
        seen = () if tally is None else (tally.ttft if streamed else tally.latency)
        return sorted(seen)[ceil(_IN_TIME * len(seen)) - 1] if len(seen) >= _ENOUGH else None

    def typical_s(self, service_id: str) -> float | None:
        """How long requests took there lately; None if none ended."""
        tally = self._tallies.get(service_id)
        return None if tally is None else _median(tally.latency)

    def finished(self, service_id: str, started: float, first: float | None, *, ok: bool, tokens: int | None) -> None:
        """A request ended at the service: remember how it went."""
        tally = self._tallies.get(service_id)
        if tally is None:
            tally = self._tallies[service_id] = _Tally()
        if not ok:
            tally.failed += 1
            return
        end = self.now()
        tally.succeeded += 1
        tally.latency.append(end - started)
        if first is not None:
            tally.ttft.append(first - started)
            if tokens and tokens > 1 and end > first:
                tally.speed.append((tokens - 1) / (end - first))

    def report(self, known: Collection[str]) -> tuple[ServiceTraffic, ...]:
        """Everything seen, service by service; what is not `known` any more and idle is forgotten."""
        for gone in self._tallies.keys() - self.counts.keys() - set(known):
            del self._tallies[gone]
        self._reported_before, self._reported = self._reported, dict(self.counts)
        return tuple(self._traffic(name) for name in sorted(self._tallies.keys() | self.counts.keys()))

    def _traffic(self, service_id: str) -> ServiceTraffic:
        tally = self._tallies.get(service_id) or _Tally()
        return ServiceTraffic(
            service_id=service_id,
            in_flight=self.counts.get(service_id, 0),
            succeeded_total=tally.succeeded,
            failed_total=tally.failed,
            ttft_seconds=_median(tally.ttft),
            latency_seconds=_median(tally.latency),
            tokens_per_second=_median(tally.speed),
            prompt_tokens_per_second=self.ledger.reads(service_id),
        )


def _median(values: deque[float]) -> float | None:
    return statistics.median(values) if values else None
