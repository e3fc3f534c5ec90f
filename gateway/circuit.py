"""[pure] Passive ejection: a service is kept out for a while by how it treats this worker's requests.

                 one failure too many                    the time is over
      closed ─────────────────────────▶ ejected ──────────────────────────▶ half_open
       │  ▲ ▲                             │  ▲                               │  │  │
  busy │  │ └──────── a trial went well ──┘  └──────── a trial failed ───────┘  │  │
       ▼  │ the time is over                                                    │  │
      resting ◀───────────────────────────── a trial found it busy ─────────────┘  │
          closed ◀───────────────────────── a trial went well ─────────────────────┘

Too many are failures in a row, or a share of what was asked lately. Each ejection in a row lasts twice as
long as the one before, up to a bound. A half-open service gets a few requests as trials. A service that says
when to come back (429 or 503 with Retry-After) rests until then: that is no failure. Where nobody else is left
the least bad is tried all the same, and that is a trial too. A service without a failure lately has no record
here, and costs nothing.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from geniehive.config import EjectionConfig
from geniehive.routing.strategy import Ordered

_WINDOW_S = 10
_FORGOTTEN_S = 60.0  # after this long without a failure a service is like one that never failed
_LONGEST_REST_S = 60.0
_MOST = 4096  # records, before old ones are looked for


class State(StrEnum):
    """Where a service stands with this worker."""

    CLOSED = "closed"
    RESTING = "resting"
    EJECTED = "ejected"
    HALF_OPEN = "half_open"


class Event(StrEnum):
    """What happened to a request there, or that a time was over."""

    WELL = "well"
    FAILED = "failed"
    TOO_MANY = "too_many"
    """It failed, and with it too many have."""
    BUSY = "busy"
    TRIAL_WELL = "trial_well"
    TRIAL_FAILED = "trial_failed"
    TRIAL_BUSY = "trial_busy"
    DUE = "due"


TRANSITIONS: Final = {
    (State.CLOSED, Event.WELL): State.CLOSED,
    (State.CLOSED, Event.FAILED): State.CLOSED,
    (State.CLOSED, Event.TOO_MANY): State.EJECTED,
    (State.CLOSED, Event.BUSY): State.RESTING,
    (State.RESTING, Event.WELL): State.RESTING,
    (State.RESTING, Event.FAILED): State.RESTING,
    (State.RESTING, Event.TOO_MANY): State.EJECTED,
    (State.RESTING, Event.BUSY): State.RESTING,
    (State.RESTING, Event.DUE): State.CLOSED,
    # What was begun before the ejection says nothing new; only trials do.
    (State.EJECTED, Event.WELL): State.EJECTED,
    (State.EJECTED, Event.FAILED): State.EJECTED,
    (State.EJECTED, Event.TOO_MANY): State.EJECTED,
    (State.EJECTED, Event.BUSY): State.EJECTED,
    (State.EJECTED, Event.TRIAL_WELL): State.CLOSED,
    (State.EJECTED, Event.TRIAL_FAILED): State.EJECTED,
    (State.EJECTED, Event.TRIAL_BUSY): State.RESTING,
    (State.EJECTED, Event.DUE): State.HALF_OPEN,
    (State.HALF_OPEN, Event.WELL): State.HALF_OPEN,
    (State.HALF_OPEN, Event.FAILED): State.HALF_OPEN,
    (State.HALF_OPEN, Event.TOO_MANY): State.HALF_OPEN,
    (State.HALF_OPEN, Event.BUSY): State.HALF_OPEN,
    (State.HALF_OPEN, Event.TRIAL_WELL): State.CLOSED,
    (State.HALF_OPEN, Event.TRIAL_FAILED): State.EJECTED,
    (State.HALF_OPEN, Event.TRIAL_BUSY): State.RESTING,
}
"""Every legal move. Trials end only where they can have begun; DUE comes only where something is waited for."""

_OUT: Final = frozenset({State.EJECTED, State.HALF_OPEN})
_TRIED: Final = {
    Event.WELL: Event.TRIAL_WELL,
    Event.FAILED: Event.TRIAL_FAILED,
    Event.TOO_MANY: Event.TRIAL_FAILED,
    Event.BUSY: Event.TRIAL_BUSY,
}
_RANK: Final = {State.CLOSED: 0, State.HALF_OPEN: 1, State.RESTING: 2, State.EJECTED: 3}


class Circuit:
    """One service that failed or was busy lately. Times are seconds of a steady clock."""

    __slots__ = ("_bad", "_second", "_well", "ejections", "last_bad", "row", "state", "trials", "until")

    def __init__(self, now: float) -> None:
        self.state = State.CLOSED
        self.row = 0
        """Failures without a success between them."""
        self.ejections = 0
        """How often it was ejected without having been well for long."""
        self.until = 0.0
        """When its rest or its ejection is over."""
        self.trials = 0
        """Requests that are out to see whether it is well again."""
        self.last_bad = now
        self._second = int(now)
        self._well = [0] * _WINDOW_S
        self._bad = [0] * _WINDOW_S

    def count(self, now: float, *, well: bool) -> None:
        """One request went well or failed."""
        second = int(now)
        if second != self._second:
            for passed in range(max(self._second + 1, second - _WINDOW_S + 1), second + 1):
                self._well[passed % _WINDOW_S] = self._bad[passed % _WINDOW_S] = 0
            self._second = second
        if well:
            self.row = 0
            self._well[second % _WINDOW_S] += 1
        else:
            self.row += 1
            self.last_bad = now
            self._bad[second % _WINDOW_S] += 1

    def too_many(self, limits: EjectionConfig) -> bool:
        """Whether it failed too often."""
        bad = sum(self._bad)
        asked = bad + sum(self._well)
        by_share = 0 < limits.failure_rate <= bad / asked and asked >= limits.least_requests
        return by_share or 0 < limits.failures <= self.row

    def start_over(self) -> None:
        """Count from nothing: what was before the ejection is paid for."""
        self.row = 0
        self._well = [0] * _WINDOW_S
        self._bad = [0] * _WINDOW_S


class Circuits:
    """The services of one worker."""

    def __init__(self, limits: EjectionConfig) -> None:
        self._limits = limits
        self.known: dict[str, Circuit] = {}
        """Services that failed or were busy lately: where there are none, nothing has to be asked here."""
        self.ejections: dict[str, int] = {}
        """How often each service was ejected since the worker started."""

    # --- what happens ------------------------------------------------------------------------------

    def begin(self, service_id: str, now: float) -> bool:
        """A request goes there; whether it is a trial. Then it must be told of by one of the calls below, once."""
        found = self._at(service_id, now)
        if found is None or found.state not in _OUT:
            return False
        found.trials += 1
        return True

    def well(self, service_id: str, now: float, *, trial: bool = False) -> None:
        """It answered."""
        found = self._end(service_id, now, trial=trial)
        if found is None:
            return
        found.count(now, well=True)
        self._move(found, Event.WELL, trial=trial)
        if found.state is State.CLOSED and now - found.last_bad > _FORGOTTEN_S:
            del self.known[service_id]

    def failed(self, service_id: str, now: float, *, trial: bool = False) -> None:
        """It failed, by its own fault."""
        found = self._end(service_id, now, trial=trial) or self._make(service_id, now)
        if now - found.last_bad > _FORGOTTEN_S:
            found.ejections = 0
        found.count(now, well=False)
        before, trial = found.state, trial and found.state in _OUT
        self._move(found, Event.TOO_MANY if found.too_many(self._limits) else Event.FAILED, trial=trial)
        if found.state is State.EJECTED and (before is not State.EJECTED or trial):
            again = min(found.ejections, 30)  # 2 to the power of it must stay a sensible number
            found.until = now + min(self._limits.first_s * 2**again, self._limits.longest_s)
            found.ejections += 1
            self.ejections[service_id] = self.ejections.get(service_id, 0) + 1

    def busy(self, service_id: str, now: float, rest_s: float, *, trial: bool = False) -> None:
        """It takes no more for now, and asks to be left alone for so long."""
        found = self._end(service_id, now, trial=trial) or self._make(service_id, now)
        self._move(found, Event.BUSY, trial=trial)
        if found.state is State.RESTING:
            found.until = max(found.until, now + min(rest_s, _LONGEST_REST_S))

    def let_go(self, service_id: str) -> None:
        """A trial ended without a result: its client left."""
        found = self.known.get(service_id)
        if found is not None and found.trials:
            found.trials -= 1

    # --- what follows from it ----------------------------------------------------------------------

    def kept_back(self, service_id: str, now: float) -> str:
        """Why a request should rather go elsewhere, in words; empty if it may go there."""
        found = self._at(service_id, now)
        if found is None or found.state is State.CLOSED:
            return ""
        left = max(0.0, found.until - now)
        if found.state is State.RESTING:
            return f"busy: it asked to be left alone for another {left:.1f} s"
        if found.state is State.EJECTED:
            return f"ejected for another {left:.1f} s: its requests failed ({found.row} in a row)"
        return "" if found.trials < self._limits.trials else "ejected, and being tried by another request"

    def rest_s(self, service_id: str, now: float) -> float:
        """For how long it asks to be left alone; 0 if it does not."""
        found = self._at(service_id, now)
        return found.until - now if found is not None and found.state is State.RESTING else 0.0

    def badness(self, service_id: str, now: float) -> tuple[float, ...]:
        """What orders those who are kept back: the least is the least bad."""
        found = self._at(service_id, now)
        return (0, 0, 0) if found is None else (_RANK[found.state], found.ejections, found.until)

    def state(self, service_id: str, now: float) -> State:
        """Where it stands."""
        found = self._at(service_id, now)
        return State.CLOSED if found is None else found.state

    def out(self, now: float) -> dict[str, State]:
        """The services that are not closed."""
        states = {each: self.state(each, now) for each in self.known}
        return {each: state for each, state in states.items() if state is not State.CLOSED}

    def arrange(self, ordered: Ordered, now: float) -> tuple[Ordered, dict[str, str]]:
        """The candidates with those at the end that are kept back, and why, by service id."""
        candidates, parts = ordered
        names = [each.service.service_id for each in candidates]
        kept = {each: reason for each in dict.fromkeys(names) if (reason := self.kept_back(each, now))}
        if not kept:
            return ordered, kept
        numbers = [number for number, name in enumerate(names) if name not in kept]
        others = [number for number, name in enumerate(names) if name in kept]
        numbers += sorted(others, key=lambda number: self.badness(names[number], now))
        told = tuple(parts[number] for number in numbers) if len(parts) == len(candidates) else ()
        return Ordered(tuple(candidates[number] for number in numbers), told), kept

    # --- inside ------------------------------------------------------------------------------------

    def _at(self, service_id: str, now: float) -> Circuit | None:
        """The record as of now."""
        found = self.known.get(service_id)
        if found is not None and found.until <= now and found.state in {State.RESTING, State.EJECTED}:
            self._move(found, Event.DUE)
        return found

    def _end(self, service_id: str, now: float, *, trial: bool) -> Circuit | None:
        found = self._at(service_id, now)
        if found is not None and trial and found.trials:
            found.trials -= 1
        return found

    def _make(self, service_id: str, now: float) -> Circuit:
        if len(self.known) >= _MOST:
            old = [each for each, found in self.known.items() if now - found.last_bad > _FORGOTTEN_S]
            for each in old:
                del self.known[each]
        found = self.known[service_id] = Circuit(now)
        return found

    @staticmethod
    def _move(found: Circuit, event: Event, *, trial: bool = False) -> None:
        """The one place where a state changes."""
        before = found.state
        found.state = TRANSITIONS[before, _TRIED[event] if trial and before in _OUT else event]
        if before in _OUT and found.state not in _OUT:
            found.start_over()
