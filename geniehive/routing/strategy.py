"""The order in which candidates are tried. No await, no lock, no dice: `turn` comes from the caller.

Strategies reorder within a tier; a worse tier (another family, a fallback role, a cold model) comes
after every candidate of a better one. `scored` and `predicted` weigh a cold model themselves. What they
know of this worker's own requests is in its ledger; without one, as in the control plane, they order
as `least_loaded` does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import groupby
from typing import Any, NamedTuple

from geniehive.config import ScoredConfig
from geniehive.resources import Observed
from geniehive.routing import predict
from geniehive.routing.candidate import Candidate, Resolution
from geniehive.routing.field import Field, Group
from geniehive.routing.ledger import NO_ASK, Ask, Ledger
from geniehive.routing.score import benchmarked
from geniehive.routing.scored import costs as scored_costs
from geniehive.routing.scored import depth
from geniehive.routing.table import RoutingTable
from geniehive.routing.warmth import Levels

__all__ = ["LEARNING", "LIMIT", "STRATEGIES", "Ordered", "decided", "depth", "order"]

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
    weights: ScoredConfig


class Ordered(NamedTuple):
    """Candidates, best first, and what the strategy kept of each (`weigh.weighed`), where it weighs."""

    candidates: tuple[Candidate, ...]
    parts: tuple[Any, ...] = ()


Costs = Sequence[float] | Sequence[tuple[float, ...]]
Strategy = Callable[[Group, Sequence[int], Sight], tuple[Costs, Sequence[Any]]]
"""The cost of each candidate of these numbers, and its parts: the least is best, the first of equals."""


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
    if ledger is None and len(found.candidates) > 1:
        return _by_load(table, found, in_flight, turn)
    return decided(table, found, in_flight, turn, ask, ledger or Ledger(), limit).candidates


def decided(
    table: RoutingTable,
    found: Resolution,
    in_flight: Mapping[str, int],
    turn: int,
    ask: Ask,
    ledger: Ledger,
    limit: int | None = None,
) -> Ordered:
    """`order`, and what it went by."""
    if len(found.candidates) == 1:
        return Ordered(found.candidates)
    field = ledger.fields.get(id(found))
    if field is None or field.found is not found:
        field = _field(ledger, found, table)
    levels = ledger.warmth.levels(ask.prefix) if field.learns else []
    sight = Sight(table.observed, in_flight, ask, ledger, levels, table.weights)
    groups = field.groups
    if len(groups) == 1:
        return _best(field.strategy, groups[0], sight, turn, limit)
    best: list[Candidate] = []
    parts: list[Any] = []
    for group in groups:
        some = _best(field.strategy, group, sight, turn, limit)
        best += some.candidates
        parts += some.parts
        if limit is not None and len(best) >= limit:
            break
    return Ordered(tuple(best), tuple(parts))


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


def _field(ledger: Ledger, found: Resolution, table: RoutingTable) -> Field:
    learns = found.strategy in LEARNING
    field = Field(found, ledger, STRATEGIES[found.strategy], learns=learns, benchmarks=partial(benchmarked, table))
    ledger.remember(id(found), field)
    return field


def _best(strategy: Strategy, group: Group, sight: Sight, turn: int, limit: int | None) -> Ordered:
    candidates = group.candidates
    if limit is None or strategy is round_robin:
        start = turn % len(candidates)
        numbers = [*range(start, len(candidates)), *range(start)]
    else:
        numbers = group.few(turn, sight.levels, sight.ledger.freed)
    if strategy is round_robin:
        return Ordered(tuple([candidates[number] for number in numbers[:limit]]))
    costs, parts = strategy(group, numbers, sight)
    ranked = sorted(range(len(numbers)), key=costs.__getitem__)
    group.keep(numbers, ranked)
    best = ranked if limit is None else ranked[:limit]
    return Ordered(tuple([candidates[numbers[at]] for at in best]), tuple([parts[at] for at in best]) if parts else ())


def round_robin(_group: Group, numbers: Sequence[int], _sight: Sight) -> tuple[Costs, Sequence[Any]]:
    """Each in turn."""
    return [0.0] * len(numbers), ()


def least_loaded(group: Group, numbers: Sequence[int], sight: Sight) -> tuple[Costs, Sequence[Any]]:
    """Fewest requests first, then lowest latency, then each in turn."""
    return group.look(numbers, sight.observed, sight.in_flight, _burden_of), ()


def _burden_of(_group: Group, _number: int, seen: Observed, own: int) -> tuple[int, float]:
    return _burden(seen, own)


def _burden(seen: Observed, own: int) -> tuple[int, float]:
    return depth(seen, own), seen.latency_seconds or seen.ttft_seconds or _NO_LATENCY_YET


def scored(group: Group, numbers: Sequence[int], sight: Sight) -> tuple[Costs, Sequence[Any]]:
    """The highest score first."""
    return scored_costs(group, numbers, sight.observed, sight.in_flight, sight.ask, sight.levels, sight.weights)


def predicted(group: Group, numbers: Sequence[int], sight: Sight) -> tuple[Costs, Sequence[Any]]:
    """The least expected time first."""
    return predict.costs(group, numbers, sight.ledger, sight.ask, sight.levels)


STRATEGIES: Mapping[str, Strategy] = {
    "scored": scored,
    "predicted": predicted,
    "least_loaded": least_loaded,
    "round_robin": round_robin,
}
