"""Requests by the name of the key, for `/metrics`.

A plain dict, read when Prometheus asks: it costs a request next to nothing. Names are those of tokens and of keys of
the config, and only so many are told apart.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

_MOST: Final = 2000  # pairs of name and status
OTHERS: Final = "other"


class KeyCounts(Collector):
    """Of one worker."""

    def __init__(self) -> None:
        self._counts: dict[tuple[str, int], int] = {}

    def count(self, name: str, status: int) -> None:
        """One more request is over."""
        key = (name, status)
        known = self._counts.get(key)
        if known is None:
            if len(self._counts) >= _MOST:
                key = (OTHERS, status)
            known = self._counts.get(key, 0)
        self._counts[key] = known + 1

    def describe(self) -> Iterable[Metric]:
        """Nothing is known before the first scrape."""
        return ()

    def collect(self) -> Iterable[Metric]:
        """See Collector."""
        family = CounterMetricFamily(
            "geniehive_gateway_key_requests",
            "Requests answered, by the name of the key and HTTP status.",
            labels=("key", "status"),
        )
        for (name, status), count in sorted(self._counts.items()):
            family.add_metric([name, str(status)], count)
        yield family
