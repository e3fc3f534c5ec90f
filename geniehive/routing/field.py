"""Candidates of one name as a strategy walks them: a few at a time, where there are many.

Up to `_FEW` candidates are looked at one and all. Of more, each decision looks at the best of the last
one, at those where a request has just ended, at those that are warm for this prompt, and at a few more in
rotation; the best of them are the best of the next. So everyone is looked at every so many decisions, and
the cost of a decision does not grow with the cluster.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby, islice

from geniehive.routing.candidate import Candidate, Resolution
from geniehive.routing.ledger import Ledger, Place
from geniehive.routing.warmth import Levels

_FEW = 40
_BEST = 12
_MORE = 8
_MOST_WARM = 12


class Group:
    """Candidates among which a strategy may choose freely; `places` are what the ledger knows of them."""

    __slots__ = ("_at", "_best", "_number", "candidates", "places")

    def __init__(self, candidates: tuple[Candidate, ...], ledger: Ledger) -> None:
        self.candidates = candidates
        self.places = [ledger.place(candidate) for candidate in candidates]
        self._number = {place: number for number, place in enumerate(self.places)}
        self._best: list[int] = []
        self._at = 0

    def __len__(self) -> int:
        return len(self.candidates)

    def few(self, turn: int, levels: Levels, freed: Iterable[Place]) -> list[int]:
        """The numbers of the candidates to look at now, the first by turns.

        `levels` are places that hold some of the prompt, `freed` those where a request has just ended.
        """
        count = len(self.candidates)
        if count <= _FEW:
            start = turn % count
            return [*range(start, count), *range(start)]
        found = dict.fromkeys(self._best)
        for place in freed:
            number = self._number.get(place)
            if number is not None:
                found[number] = None
        at = self._at
        self._at = (at + _MORE) % count
        found.update(dict.fromkeys(number % count for number in range(at, at + _MORE)))
        for _, here in levels:
            for place in islice(here, _MOST_WARM):
                number = self._number.get(place)
                if number is not None:
                    found[number] = None
            if len(here) >= _MOST_WARM:
                break
        return list(found)

    def keep(self, best: list[int]) -> None:
        """These were the best, best first."""
        if len(self.candidates) > _FEW:
            self._best = best[:_BEST]


class Field:
    """All candidates of a resolution, in groups from the best tier to the worst."""

    __slots__ = ("found", "groups")

    def __init__(self, found: Resolution, ledger: Ledger, *, cold_too: bool) -> None:
        """`cold_too`: the strategy weighs cold models itself, so they are not a tier of their own."""
        last = -1 if cold_too else None
        self.found = found
        self.groups = [
            Group(tuple(group), ledger)
            for _, group in groupby(found.candidates, key=lambda candidate: candidate.tier[:last])
        ]
