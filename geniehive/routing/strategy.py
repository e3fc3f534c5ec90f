"""The order in which candidates are tried. No await, no lock, no dice: `turn` comes from the caller.

Strategies reorder within a tier; a worse tier (another family, a cold model, a fallback role) comes
after every candidate of a better one. `scored` and `predicted` order as `least_loaded` does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import groupby

from geniehive.resources import Observed
from geniehive.routing.candidate import Candidate, Resolution
from geniehive.routing.table import RoutingTable

Strategy = Callable[[list[Candidate], Mapping[str, Observed], Mapping[str, int], int], list[Candidate]]

_NOTHING = Observed()
_NO_LATENCY_YET = 0.0  # a service that nobody measured is tried, or it would never be measured


def order(table: RoutingTable, found: Resolution, in_flight: Mapping[str, int], turn: int) -> tuple[Candidate, ...]:
    """The candidates, best first.

    `in_flight` counts the caller's own open requests by service id; `turn` counts the caller's
    decisions and spreads ties.
    """
    if len(found.candidates) == 1:
        return found.candidates
    strategy = STRATEGIES[found.strategy]
    return tuple(
        candidate
        for _, group in groupby(found.candidates, key=lambda candidate: candidate.tier)
        for candidate in strategy(list(group), table.observed, in_flight, turn)
    )


def round_robin(
    group: list[Candidate], _observed: Mapping[str, Observed], _in_flight: Mapping[str, int], turn: int
) -> list[Candidate]:
    """Each in turn."""
    start = turn % len(group)
    return group[start:] + group[:start]


def least_loaded(
    group: list[Candidate], observed: Mapping[str, Observed], in_flight: Mapping[str, int], turn: int
) -> list[Candidate]:
    """Fewest requests first, then lowest latency, then each in turn."""

    def burden(candidate: Candidate) -> tuple[int, float]:
        service_id = candidate.service.service_id
        seen = observed.get(service_id, _NOTHING)
        latency = seen.latency_seconds or seen.ttft_seconds or _NO_LATENCY_YET
        return depth(seen, in_flight.get(service_id, 0)), latency

    return sorted(round_robin(group, observed, in_flight, turn), key=burden)


def depth(seen: Observed, own: int) -> int:
    """Requests at a service: the most that engine, gateways together, or this gateway know of."""
    return max((seen.running or 0) + (seen.waiting or 0), seen.in_flight or 0, own)


STRATEGIES: Mapping[str, Strategy] = {
    "scored": least_loaded,
    "predicted": least_loaded,
    "least_loaded": least_loaded,
    "round_robin": round_robin,
}
