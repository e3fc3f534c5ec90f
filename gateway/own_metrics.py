"""What a worker says of itself at `/metrics`: what must be the same again once all is quiet.

Tasks, open requests and connections to engines, beside Prometheus' own figures of the process (memory, open
files, CPU seconds; on Linux). bench/bench_soak.py holds them to it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from gateway.upstream import Upstream


class OwnMetrics(Collector):
    """Counted at the moment of the scrape, in the loop's own thread."""

    def __init__(self, registry: CollectorRegistry, open_requests: Callable[[], int], upstream: Upstream) -> None:
        self._open_requests = open_requests
        self._upstream = upstream
        ProcessCollector(registry=registry)
        registry.register(self)

    def describe(self) -> Iterable[Metric]:
        """Nothing is known before the first scrape."""
        return ()

    def collect(self) -> Iterable[Metric]:
        """See Collector."""
        yield _gauge("geniehive_gateway_tasks", "Asyncio tasks that are not over.", len(asyncio.all_tasks()))
        yield _gauge("geniehive_gateway_open_requests", "Requests being answered, this one too.", self._open_requests())
        connections = GaugeMetricFamily(
            "geniehive_gateway_upstream_connections",
            "Connections to engines: all, and those that wait.",
            labels=("state",),
        )
        for state, count in zip(("open", "idle"), self._upstream.connections, strict=True):
            connections.add_metric([state], count)
        yield connections


def _gauge(name: str, text: str, value: float) -> Metric:
    family = GaugeMetricFamily(name, text)
    family.add_metric([], value)
    return family
