"""`scored`: a product of what speaks for a candidate, each from 0 to 1 and raised to its weight.

    idle    1 / (1 + requests there / slots, and for each that would wait, one more)
    speed   tokens a second, as a share of the fastest candidate's; unknown is 1
    warm    from 0.25 to 1: the share of the prompt that is in the cache there
    loaded  0.2 where the model would have to be loaded first

It needs no history: what engines and gateways tell is enough, own requests make it exact. The imbalance
that a warm cache may cause is bounded: it counts as long as at most `_QUEUE` requests a slot would wait.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from geniehive.resources import Observed
from geniehive.routing.candidate import Candidate
from geniehive.routing.field import Group
from geniehive.routing.ledger import Ask
from geniehive.routing.warmth import Levels, match

_NOTHING = Observed()
_COLD_CACHE = 0.25
_UNLOADED = 0.2
_QUEUE = 1.0


class Weights(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Exponents of the signals; 0 ignores one."""

    idle: float = 1.0
    speed: float = 1.0
    warm: float = 1.0
    loaded: float = 1.0


WEIGHTS = Weights()
WEIGHTS_IN_ORDER = (WEIGHTS.idle, WEIGHTS.speed, WEIGHTS.warm, WEIGHTS.loaded)


class Signals(msgspec.Struct, frozen=True, kw_only=True):
    """What speaks for one candidate, each from 0 to 1."""

    idle: float
    speed: float
    warm: float
    loaded: float

    def score(self, weights: Weights) -> float:
        """All in one number, from 0 to 1."""
        return float(
            self.idle**weights.idle * self.speed**weights.speed * self.warm**weights.warm * self.loaded**weights.loaded
        )


def depth(seen: Observed, own: int) -> int:
    """Requests at a service: the most that engine, gateways together, or this gateway know of."""
    engine = (seen.running or 0) + (seen.waiting or 0)
    return max(engine, seen.in_flight or 0, own)


def signals(candidate: Candidate, seen: Observed, own: int, slots: int, fastest: float, share: float) -> Signals:
    """The signals of one candidate.

    `own` requests of the caller are open there; `fastest` is the most tokens a second of all candidates, 0
    if unknown; `share` of the prompt is warm there.
    """
    here = depth(seen, own)
    queue = here + 1 - slots
    speed = seen.tokens_per_second
    return Signals(
        idle=1.0 / (1.0 + here / slots + max(queue, 0)),
        speed=speed / fastest if speed and fastest else 1.0,
        warm=_COLD_CACHE + (1.0 - _COLD_CACHE) * (share if queue <= _QUEUE * slots else 0.0),
        loaded=_UNLOADED if candidate.asset.loaded is False else 1.0,
    )


def costs(
    group: Group,
    numbers: Sequence[int],
    observed: Mapping[str, Observed],
    in_flight: Mapping[str, int],
    ask: Ask,
    levels: Levels,
) -> list[float]:
    """How little speaks for each of these candidates: their scores below zero, for the request path."""
    places, candidates = group.places, group.candidates
    all_seen = [observed.get(places[number].service_id, _NOTHING) for number in numbers]
    fastest = max([seen.tokens_per_second or 0.0 for seen in all_seen])
    size, by_idle, by_speed, by_warm, by_loaded = ask.prefix.size, *WEIGHTS_IN_ORDER
    found = []
    for number, seen in zip(numbers, all_seen, strict=True):
        place = places[number]
        slots = seen.slots or place.station.backlog.slots
        here = depth(seen, in_flight.get(place.service_id, 0))
        queue = here + 1 - slots
        score = (1.0 / (1.0 + here / slots + max(queue, 0))) ** by_idle
        speed = seen.tokens_per_second
        if speed and fastest:
            score *= (speed / fastest) ** by_speed
        share = match(levels, place)[0] / size if levels and queue <= _QUEUE * slots else 0.0
        score *= (_COLD_CACHE + (1.0 - _COLD_CACHE) * share) ** by_warm
        if candidates[number].asset.loaded is False:
            score *= _UNLOADED**by_loaded
        found.append(-score)
    return found
