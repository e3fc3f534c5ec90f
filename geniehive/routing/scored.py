"""`scored`: a product of what speaks for a candidate, each from 0 to 1 and raised to its weight.

    idle       1 / (1 + requests there / slots, and for each that would wait, one more)
    speed      tokens a second, as a share of the fastest candidate's; unknown is 1
    warm       from 0.25 to 1: the share of the prompt that is in the cache there
    loaded     0.2 where the model would have to be loaded first
    benchmark  from 0.1 to 1: how well it did in benchmarks that resemble the role; unknown is 0.5

It needs no history: what engines and gateways tell is enough, own requests make it exact. Where neither tells
a speed, that of the nearest benchmark counts. The imbalance that a warm cache may cause is bounded: it counts
as long as at most `_QUEUE` requests a slot would wait. All but `warm` changes only with measurements and the own
count there, so a decision finds it made (`Base`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import msgspec

from geniehive.config import ScoredConfig
from geniehive.resources import Observed
from geniehive.routing.candidate import Candidate
from geniehive.routing.field import Benchmarked, Group
from geniehive.routing.ledger import Ask
from geniehive.routing.warmth import Levels

_COLD_CACHE = 0.25
_WARM = 1.0 - _COLD_CACHE
_UNLOADED = 0.2
_WORST = 0.1
_UNKNOWN = 0.5
_QUEUE = 1.0


class Signals(msgspec.Struct, frozen=True, kw_only=True):
    """What speaks for one candidate, each from 0 to 1."""

    idle: float
    speed: float
    warm: float
    loaded: float
    benchmark: float

    def score(self, weights: ScoredConfig) -> float:
        """All in one number, from 0 to 1."""
        return float(
            self.idle**weights.idle
            * self.speed**weights.speed
            * self.warm**weights.warm
            * self.loaded**weights.loaded
            * self.benchmark**weights.benchmark
        )


class Base(NamedTuple):
    """All signals but `warm`; `score` is their product, `queued` whether too many wait there for `warm` to count."""

    score: float
    queued: bool
    idle: float
    speed: float
    loaded: float
    benchmark: float


Parts = tuple[float, float, Base]
"""Score, share of the prompt that is warm there, and the rest."""


def depth(seen: Observed, own: int) -> int:
    """Requests at a service: the most that engine, gateways together, or this gateway know of."""
    engine = (seen.running or 0) + (seen.waiting or 0)
    return max(engine, seen.in_flight or 0, own)


def signals(
    candidate: Candidate,
    seen: Observed,
    own: int,
    slots: int,
    fastest: float,
    share: float,
    benchmarked: Benchmarked = Benchmarked(),  # noqa: B008 - immutable
) -> Signals:
    """The signals of one candidate.

    `own` requests of the caller are open there; `fastest` is the most tokens a second of all candidates, 0
    if unknown; `share` of the prompt is warm there.
    """
    here = depth(seen, own)
    queue = here + 1 - slots
    speed = seen.tokens_per_second or benchmarked.tokens_per_second
    worth = _UNKNOWN if benchmarked.worth is None else benchmarked.worth
    return Signals(
        idle=1.0 / (1.0 + here / slots + max(queue, 0)),
        speed=min(speed / fastest, 1.0) if speed and fastest else 1.0,
        warm=_COLD_CACHE + _WARM * (share if queue <= _QUEUE * slots else 0.0),
        loaded=_UNLOADED if candidate.asset.loaded is False else 1.0,
        benchmark=max(worth, _WORST),
    )


def costs(
    group: Group,
    numbers: Sequence[int],
    observed: Mapping[str, Observed],
    in_flight: Mapping[str, int],
    ask: Ask,
    levels: Levels,
    weights: ScoredConfig,
) -> tuple[list[float], list[Parts]]:
    """How little speaks for each of these candidates, their scores below zero, and what went into them."""
    by_warm = weights.warm

    def base(group: Group, number: int, seen: Observed, own: int) -> Base:
        return _base(group, number, seen, own, weights)

    bases = group.look(numbers, observed, in_flight, base)
    cold = _COLD_CACHE**by_warm
    if not levels:
        return [-each[0] * cold for each in bases], [(each[0] * cold, 0.0, each) for each in bases]
    size, places = ask.prefix.size, group.places
    found: list[float] = []
    parts: list[Parts] = []
    for number, each in zip(numbers, bases, strict=True):
        score, queued = each[0], each[1]
        share = 0.0
        place = places[number]
        for matched, here in levels:
            if place in here:
                share = matched / size
                break
        if share and not queued:
            score *= (_COLD_CACHE + _WARM * share) ** by_warm
        else:
            score *= cold
        found.append(-score)
        parts.append((score, share, each))
    return found, parts


def _base(group: Group, number: int, seen: Observed, own: int, weights: ScoredConfig) -> Base:
    slots = seen.slots or group.places[number].backlog.slots
    benchmarked = group.benchmarks[number] if group.benchmarks else _NOT_BENCHMARKED
    speed = seen.tokens_per_second or benchmarked.tokens_per_second or 0.0
    group.fastest = max(group.fastest, speed)
    known = signals(group.candidates[number], seen, own, slots, group.fastest, 0.0, benchmarked)
    score = known.score(weights) / known.warm**weights.warm
    queued = depth(seen, own) + 1 - slots > _QUEUE * slots
    return Base(score, queued, known.idle, known.speed, known.loaded, known.benchmark)


def told(parts: Parts) -> Signals:
    """The signals of a decision, for those who want to know."""
    base = parts[2]
    warm = _COLD_CACHE + _WARM * (0.0 if base.queued else parts[1])
    return Signals(idle=base.idle, speed=base.speed, warm=warm, loaded=base.loaded, benchmark=base.benchmark)


_NOT_BENCHMARKED = Benchmarked()
