"""The order in which candidates are tried. No await, no lock, no dice: `turn` comes from the caller.

Strategies reorder within a tier; a worse tier (another family, a fallback role, a cold model) comes
after every candidate of a better one. `scored` and `predicted` weigh a cold model themselves. What they
know of this worker's own requests is in its ledger; without one, as in the control plane, they order
as `least_loaded` does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from typing import NamedTuple

from geniehive.resources import Observed
from geniehive.routing import predict
from geniehive.routing.candidate import Candidate, Resolution
from geniehive.routing.field import Field, Group
from geniehive.routing.ledger import NO_ASK, Ask, Ledger
from geniehive.routing.scored import costs as scored_costs
from geniehive.routing.scored import depth
from geniehive.routing.table import RoutingTable
from geniehive.routing.warmth import Levels

__all__ = ["LEARNING", "LIMIT", "STRATEGIES", "depth", "order"]

LIMIT = 8  # candidates that a caller is likely to try
LEARNING = frozenset({"scored", "predicted"})
"""Strategies that go by a ledger: they read prompts, learn from requests, and weigh cold models themselves."""

_NOTHING = Observed()
_NO_LATENCY_YET = 0.0  # a service that nobody measured is tried, or it would never be measured


class Sight(NamedTuple):
    """What a strategy may look at."""

    observed: Mapping[str, Observed]
    in_flight: Mapping[str, int]
    ask: Ask
    ledger: Ledger
    levels: Levels


Strategy = Callable[[Group, Sequence[int], Sight], Sequence[float] | Sequence[tuple[float, ...]]]
"""The cost of each candidate of these numbers, in whatever unit; the least is best, and the first of equals."""


def order(
    table: RoutingTable,
    found: Resolution,
    in_flight: Mapping[str, int],
    turn: int = 0,
    *,
    ask: Ask = NO_ASK,
    ledger: Ledger | None = None,
    limit: int | None = None,
) -> tuple[Candidate, ...]:
    """The candidates, best first: all of them, or at least the best `limit`, if there are so many.

    `in_flight` counts the caller's own open requests by service id; `turn` counts the caller's
    decisions and spreads ties. `ask` says what is known of the request, `ledger` of the caller's others.
    """
    if len(found.candidates) == 1:
        return found.candidates
    if ledger is None:
        return _by_load(table, found, in_flight, turn)
    strategy = STRATEGIES[found.strategy]
    levels = ledger.warmth.levels(ask.prefix) if found.strategy in LEARNING else []
    sight = Sight(table.observed, in_flight, ask, ledger, levels)
    best: list[Candidate] = []
    for group in _field(sight.ledger, found).groups:
        best += _best(strategy, group, sight, turn, limit)
        if limit is not None and len(best) >= limit:
            break
    return tuple(best)


def _by_load(table: RoutingTable, found: Resolution, in_flight: Mapping[str, int], turn: int) -> tuple[Candidate, ...]:
    """Without a ledger: each in turn for `round_robin`, the least loaded first for all others."""
    ordered: list[Candidate] = []
    for _, tied in groupby(found.candidates, key=lambda candidate: candidate.tier):
        group = list(tied)
        start = turn % len(group)
        turned = group[start:] + group[:start]
        if found.strategy != "round_robin":
            turned.sort(key=lambda each: _load(table, each.service.service_id, in_flight))
        ordered += turned
    return tuple(ordered)


def _load(table: RoutingTable, service_id: str, in_flight: Mapping[str, int]) -> tuple[int, float]:
    return _burden(table.observed.get(service_id, _NOTHING), in_flight.get(service_id, 0))


def _field(ledger: Ledger, found: Resolution) -> Field:
    field = ledger.fields.get(id(found))
    if field is None or not isinstance(field, Field) or field.found is not found:
        field = Field(found, ledger, cold_too=found.strategy in LEARNING)
        ledger.remember(id(found), field)
    return field


def _best(strategy: Strategy, group: Group, sight: Sight, turn: int, limit: int | None) -> list[Candidate]:
    candidates = group.candidates
    if len(candidates) == 1:
        return list(candidates)
    if limit is None or strategy is round_robin:
        start = turn % len(candidates)
        numbers = [*range(start, len(candidates)), *range(start)]
    else:
        numbers = group.few(turn, sight.levels, sight.ledger.freed)
        if strategy is round_robin:
            return [candidates[number] for number in numbers[:limit]]
    costs = strategy(group, numbers, sight)
    ranked = [numbers[at] for at in sorted(range(len(numbers)), key=costs.__getitem__)]
    group.keep(ranked)
    return [candidates[number] for number in ranked[:limit]]


def round_robin(_group: Group, numbers: Sequence[int], _sight: Sight) -> Sequence[float]:
    """Each in turn."""
    return [0.0] * len(numbers)


def least_loaded(group: Group, numbers: Sequence[int], sight: Sight) -> Sequence[tuple[float, ...]]:
    """Fewest requests first, then lowest latency, then each in turn."""
    costs = []
    for number in numbers:
        service_id = group.places[number].service_id
        costs.append(_burden(sight.observed.get(service_id, _NOTHING), sight.in_flight.get(service_id, 0)))
    return costs


def _burden(seen: Observed, own: int) -> tuple[int, float]:
    return depth(seen, own), seen.latency_seconds or seen.ttft_seconds or _NO_LATENCY_YET


def scored(group: Group, numbers: Sequence[int], sight: Sight) -> Sequence[float]:
    """The highest score first."""
    return scored_costs(group, numbers, sight.observed, sight.in_flight, sight.ask, sight.levels)


def predicted(group: Group, numbers: Sequence[int], sight: Sight) -> Sequence[float]:
    """The least expected time first."""
    return predict.costs(group, numbers, sight.ledger, sight.ask, sight.levels)


STRATEGIES: Mapping[str, Strategy] = {
    "scored": scored,
    "predicted": predicted,
    "least_loaded": least_loaded,
    "round_robin": round_robin,
}
