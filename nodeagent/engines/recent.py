"""Recent rates and medians out of counters that only grow.

Between two looks the growth of a counter says what happened between them. The first look has nothing to compare with
and takes the counters since the engine's start. Without any traffic between two looks the last value stands, but only
for `STANDS_FOR` looks: a time to first token from an overload long past must not keep traffic away from an engine that
is idle now. A counter that fell means that the engine was started anew.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from nodeagent.engines.prometheus import Exposition, Histogram

STANDS_FOR: Final = 12


class Ratio(NamedTuple):
    """A quotient of counters, each side the sum of the named ones."""

    top: tuple[str, ...]
    bottom: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Memory:
    """What the next look compares with: counters, histograms, and values with the looks since they were measured."""

    counters: Mapping[str, float] = field(default_factory=dict)
    histograms: Mapping[str, Histogram] = field(default_factory=dict)
    values: Mapping[str, tuple[float, int]] = field(default_factory=dict)


def measure(
    page: Exposition, before: Memory, ratios: Mapping[str, Ratio], medians: Mapping[str, str]
) -> tuple[dict[str, float], Memory]:
    """Recent values by key, and the memory for the next look; a key without a value is unknown.

    `ratios` are quotients of growths; `medians` name histograms, whose medians are in the unit of their bounds.
    """
    counters = _counters(page, ratios)
    histograms = {name: found for name in medians.values() if (found := page.histogram(name)) is not None}
    fresh: dict[str, float | None] = {}
    for key, ratio in ratios.items():
        fresh[key] = _quotient(counters, before.counters, ratio)
    for key, name in medians.items():
        fresh[key] = median(_growth(histograms.get(name, ()), before.histograms.get(name, ())))
    values = {key: kept for key, value in fresh.items() if (kept := _keep(value, before.values.get(key))) is not None}
    return {key: value for key, (value, _) in values.items()}, Memory(counters, histograms, values)


def median(histogram: Histogram) -> float | None:
    """The median of a histogram, by linear interpolation in its bucket as PromQL's histogram_quantile does it."""
    total = histogram[-1][1] if histogram else 0.0
    if total <= 0:
        return None
    lower, below = 0.0, 0.0
    for bound, count in histogram:
        if count * 2 >= total:
            inside = count - below
            if math.isinf(bound) or inside <= 0:
                return lower
            return lower + (bound - lower) * (total / 2 - below) / inside
        lower, below = bound, count
    return None


def _counters(page: Exposition, ratios: Mapping[str, Ratio]) -> dict[str, float]:
    names = {name for ratio in ratios.values() for name in (*ratio.top, *ratio.bottom)}
    return {name: value for name in names if (value := page.sum(name)) is not None}


def _quotient(now: Mapping[str, float], before: Mapping[str, float], ratio: Ratio) -> float | None:
    names = (*ratio.top, *ratio.bottom)
    if any(name not in now for name in names):
        return None
    if any(now[name] < before.get(name, 0.0) for name in names):
        before = {}
    top, bottom = (math.fsum(now[name] - before.get(name, 0.0) for name in side) for side in (ratio.top, ratio.bottom))
    return top / bottom if bottom > 0 else None


def _growth(now: Histogram, before: Histogram) -> Histogram:
    bounds = tuple(bound for bound, _ in now)
    if bounds != tuple(bound for bound, _ in before):
        return now
    grown = tuple((bound, count - old) for (bound, count), (_, old) in zip(now, before, strict=True))
    return now if any(count < 0 for _, count in grown) else grown


def _keep(value: float | None, old: tuple[float, int] | None) -> tuple[float, int] | None:
    if value is not None:
        return value, 0
    if old is None or old[1] + 1 >= STANDS_FOR:
        return None
    return old[0], old[1] + 1
