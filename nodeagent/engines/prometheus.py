"""Reading Prometheus' text exposition format 0.0.4, as engines serve it at /metrics.

Not `prometheus_client.parser`: that one gives up on the whole page at the first line that it does not like, and takes
several times as long. Here a bad line is skipped, and a value that cannot be true (NaN, negative, 2^53 and above) is
kept as unknown, which makes every sum over it unknown as well.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

from nodeagent.engines.reading import number

_LINE: Final = re.compile(r"([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})?[ \t]+(\S+)(?:[ \t]+-?\d+)?[ \t]*")
_LABEL: Final = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\]|\\.)*)"')
_ESCAPE: Final = re.compile(r"\\(.)")

Histogram = tuple[tuple[float, float], ...]
"""Upper bounds, ascending and ending with infinity, each with the count of values up to it."""


class Series(NamedTuple):
    """One line: its labels, and its value or None where that was refused."""

    labels: Mapping[str, str]
    value: float | None


@dataclass(frozen=True, slots=True)
class Exposition:
    """A page of metrics, by name."""

    series: Mapping[str, tuple[Series, ...]]

    def sum(self, *names: str) -> float | None:
        """The sum over all series of the first name that is there; None where none is, or where a value was refused."""
        return self._over(names, math.fsum)

    def mean(self, *names: str) -> float | None:
        """The mean over all series of the first name that is there; None as for `sum`."""
        return self._over(names, lambda values: math.fsum(values) / len(values))

    def sum_where(self, name: str, **labels: str) -> float | None:
        """The sum over the series that carry these labels; None where there is none, or where a value was refused."""
        found = [
            series.value
            for series in self.series.get(name, ())
            if all(series.labels.get(key) == wanted for key, wanted in labels.items())
        ]
        values = [value for value in found if value is not None]
        return math.fsum(values) if found and len(values) == len(found) else None

    def histogram(self, name: str) -> Histogram | None:
        """A histogram summed over all its series; None where there is none, or where a count was refused."""
        counts: dict[float, float] = {}
        for series in self.series.get(f"{name}_bucket", ()):
            bound = _bound(series.labels.get("le", ""))
            if bound is None or series.value is None:
                return None
            counts[bound] = counts.get(bound, 0.0) + series.value
        return tuple(sorted(counts.items())) if math.inf in counts else None

    def _over(self, names: tuple[str, ...], fold: Callable[[list[float]], float]) -> float | None:
        for name in names:
            found = self.series.get(name, ())
            values = [series.value for series in found if series.value is not None]
            if found:
                return fold(values) if len(values) == len(found) else None
        return None


def parse(text: str, prefix: str = "") -> Exposition:
    """The series whose names begin with `prefix`; lines that are no series are skipped."""
    series: dict[str, list[Series]] = {}
    for line in text.splitlines():
        if not line.startswith(prefix) or line.startswith("#"):
            continue
        found = _LINE.fullmatch(line)
        if found is None:
            continue
        name, labels, value = found.groups()
        series.setdefault(name, []).append(Series(_labels(labels or ""), _value(value)))
    return Exposition({name: tuple(lines) for name, lines in series.items()})


def _labels(text: str) -> dict[str, str]:
    return {name: _ESCAPE.sub(_unescape, value) for name, value in _LABEL.findall(text)}


def _unescape(found: re.Match[str]) -> str:
    return "\n" if found[1] == "n" else found[1]


def _value(text: str) -> float | None:
    try:
        return number(float(text))
    except ValueError:
        return None


def _bound(text: str) -> float | None:
    try:
        bound = float(text)
    except ValueError:
        return None
    return None if math.isnan(bound) else bound
