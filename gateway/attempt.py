"""One attempt at one service: its open request there, its line in the receipt, what it says of the service.

Closed in every case, a client that goes away included; then its place is free.
"""

from __future__ import annotations

from typing import Protocol

import msgspec

from gateway.circuit import Circuits
from gateway.exchange import Exchange
from gateway.middleware import Meter
from gateway.verdict import AttemptFailed
from geniehive.routing.candidate import Candidate
from geniehive.routing.ledger import Ask, Outcome
from geniehive.routing.receipt import Tried

_BACKOFF_S = 0.3  # on average, for which a busy engine that names no time is left alone


class Guard(Protocol):
    """An open request of one service, counted until it is closed."""

    def first_byte(self) -> None:
        """The answer has begun."""
        ...

    def finish(self, *, ok: bool, tokens: int | None = None, answer: Outcome | None = None) -> None:
        """The request is over; `tokens` is what was generated, where that is known, `answer` what it told."""
        ...

    def close(self) -> None:
        """Free the place."""
        ...


class InFlight(Protocol):
    """Counts open requests."""

    def guard(
        self, service_id: str, candidate: Candidate | None = None, ask: Ask | None = None, *, reserved: bool = False
    ) -> Guard:
        """One more of a service, or the one that was `reserved`; with `ask`, something is learned from it."""
        ...

    def late_s(self, service_id: str, *, streamed: bool) -> float | None:
        """Within how many seconds 19 of 20 answers began there, or came whole; None if too few were seen."""
        ...


class Attempt(msgspec.Struct, eq=False):
    """One attempt; `trial` is whether it is one of a service that was ejected."""

    _exchange: Exchange
    _service_id: str
    _guard: Guard
    _circuits: Circuits
    _meter: Meter
    tried: Tried
    _trial: bool = False
    _closed: bool = False

    def first_byte(self) -> None:
        """Its stream has begun: a trial has gone well, however long the stream may be."""
        self._exchange.first_byte, self.tried.streamed = self.tried.until, True
        self._guard.first_byte()
        if self._trial:
            self._trial = False
            self._circuits.well(self._service_id, self._exchange.now(), trial=True)

    def over(self, *, well: bool) -> None:
        """The answer is over, and came to its proper end or not; what the gateway ended says nothing of the service."""
        tried, exchange = self.tried, self._exchange
        tried.outcome = "ok" if well else "cut"
        if not well and exchange.interrupted:
            return
        answer = None  # where nothing is learned from it
        prompt_tokens, tokens, _reason, cached_tokens, times = tried.told
        if exchange.ask is not None:
            answer = Outcome(well, prompt_tokens, cached_tokens, tokens, times)
        self._guard.finish(ok=well, tokens=tokens, answer=answer)
        if not well:
            self._circuits.failed(self._service_id, self._exchange.now(), trial=self._taken())
        elif self._circuits.known:
            self._circuits.well(self._service_id, self._exchange.now(), trial=self._taken())

    def failed(self, error: AttemptFailed, dice: float) -> None:
        """It failed before its first byte. `dice` (0 to 1) spreads the return to engines that name no time."""
        self.tried.outcome, self.tried.reason = "failed", error.reason
        self._guard.finish(ok=not error.held_against)
        now, trial = self._exchange.now(), self._taken()
        if error.busy_s is not None:
            self._circuits.busy(self._service_id, now, error.busy_s or _BACKOFF_S * (0.5 + dice), trial=trial)
        elif error.held_against:
            self._circuits.failed(self._service_id, now, trial=trial)
        elif self._circuits.known:  # the request was at fault: the service works
            self._circuits.well(self._service_id, now, trial=trial)

    def broke(self, reason: str) -> None:
        """What had begun cannot be brought to the client."""
        self.tried.outcome, self.tried.reason = "cut", reason
        if not self._exchange.interrupted:
            self._guard.finish(ok=False)
            self._circuits.failed(self._service_id, self._exchange.now(), trial=self._taken())

    def close(self) -> None:
        """It is over, however it ended: the place is free. A second call does nothing."""
        if self._closed:
            return
        self._closed = True
        tried = self.tried
        if tried.outcome == "open":
            tried.outcome = "cancelled"
        if self._trial:
            self._trial = False
            self._circuits.let_go(self._service_id)
        self._guard.close()
        self._meter.attempt_done(self._service_id, tried.outcome)

    def _taken(self) -> bool:
        """Whether its result is that of a trial: the first that is told is."""
        trial, self._trial = self._trial, False
        return trial
