"""Candidates of one name as a strategy walks them: a few at a time, where there are many.

Up to `_FEW` candidates are looked at one and all. Of more, each decision looks at the best of the last
one, at those where a request has just ended, at those that are warm for this prompt, and at a few more in
rotation; the best of them are the best of the next. So everyone is looked at every so many decisions, and
the cost of a decision does not grow with the cluster.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import groupby, islice
from typing import Any, NamedTuple, TypeVar

from geniehive.resources import Observed
from geniehive.routing.candidate import Candidate, Resolution
from geniehive.routing.ledger import Ledger, Place
from geniehive.routing.warmth import Levels

_FEW = 40
_BEST = 12
_MORE = 8
_MOST_WARM = 12
_NOTHING = Observed()
Base = TypeVar("Base")
Benchmarks = tuple["Benchmarked", ...]


class Benchmarked(NamedTuple):
    """What benchmarks say of a candidate: its worth from 0 to 1, and tokens a second; None is unknown."""

    worth: float | None = None
    tokens_per_second: float | None = None


class Group:
    """Candidates among which a strategy may choose freely; `places` are what the ledger knows of them."""

    __slots__ = (
        "_at", "_best", "_number", "_turned", "bases", "benchmarks", "candidates", "fastest", "ids", "observed", "owns",
        "places",
    )  # fmt: skip

    def __init__(self, candidates: tuple[Candidate, ...], ledger: Ledger, benchmarks: Benchmarks = ()) -> None:
        self.candidates = candidates
        self.places = [ledger.meet(candidate) for candidate in candidates]
        self.ids = [candidate.service.service_id for candidate in candidates]
        self.benchmarks = benchmarks
        self.bases: list[Any] = [None] * len(candidates)
        self.owns = [0] * len(candidates)
        self.observed: Mapping[str, Observed] | None = None
        self.fastest = 0.0
        self._number = {place: number for number, place in enumerate(self.places)}
        self._turned: dict[int, list[int]] = {}
        self._best: list[int] = []
        self._at = 0

    def __len__(self) -> int:
        return len(self.candidates)

    def look(
        self,
        numbers: Sequence[int],
        observed: Mapping[str, Observed],
        in_flight: Mapping[str, int],
        make: Callable[[Group, int, Observed, int], Base],
    ) -> list[Base]:
        """What `make` finds for each of these candidates of their service's measurements and own open requests there.

        It is remembered until either changes.
        """
        bases, owns, ids, own_of = self.bases, self.owns, self.ids, in_flight.get
        if observed is not self.observed:
            self.observed = observed
            bases = self.bases = [None] * len(bases)
            self.fastest = max([self._speed(each, observed) for each in numbers])
        found: list[Base] = []
        for number in numbers:
            own = own_of(ids[number], 0)
            base = bases[number]
            if base is None or owns[number] != own:
                owns[number] = own
                base = bases[number] = make(self, number, observed.get(ids[number], _NOTHING), own)
            found.append(base)
        return found

    def _speed(self, number: int, observed: Mapping[str, Observed]) -> float:
        told = observed.get(self.ids[number], _NOTHING).tokens_per_second
        return told or (self.benchmarks[number].tokens_per_second if self.benchmarks else None) or 0.0

    def few(self, turn: int, levels: Levels, freed: Iterable[Place]) -> list[int]:
        """The numbers of the candidates to look at now, the first by turns.

        `levels` are places that hold some of the prompt, `freed` those where a request has just ended.
        """
        count = len(self.candidates)
        if count <= _FEW:
            start = turn % count
            turned = self._turned.get(start)
            if turned is None:
                turned = self._turned[start] = [*range(start, count), *range(start)]
            return turned
        found = dict.fromkeys(self._best)
        for place in freed:
            number = self._number.get(place)
            if number is not None:
                found[number] = None
        at = self._at
        self._at = (at + _MORE) % count
        found.update(dict.fromkeys(number % count for number in range(at, at + _MORE)))
        for _, here in levels:
            for place in islice(here, _MOST_WARM):  # these are the first that got it, and of many any will do
                number = self._number.get(place)
                if number is not None:
                    found[number] = None
            if len(here) >= _MOST_WARM:
                break
        return list(found)

    def keep(self, numbers: Sequence[int], ranked: Sequence[int]) -> None:
        """Of those that were looked at, these were the best, best first."""
        if len(self.candidates) > _FEW:
            self._best = [numbers[at] for at in ranked[:_BEST]]


class Field:
    """All candidates of a resolution, in groups from the best tier to the worst."""

    __slots__ = ("found", "groups", "learns", "strategy")

    def __init__(
        self,
        found: Resolution,
        ledger: Ledger,
        strategy: Any,
        *,
        learns: bool,
        benchmarks: Callable[[Iterable[Candidate]], Benchmarks],
    ) -> None:
        """A strategy that learns weighs cold models itself, so they are not a tier of their own."""
        last = -1 if learns else None
        self.found = found
        self.strategy = strategy
        self.learns = learns
        self.groups: list[Group] = []
        for _, each in groupby(found.candidates, key=lambda candidate: candidate.tier[:last]):
            group = tuple(each)
            self.groups.append(Group(group, ledger, benchmarks(group) if learns else ()))
