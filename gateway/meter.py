"""Counts finished requests and attempts into the worker's metrics, and hands requests on to be kept.

Looking a label up costs more than counting, so what was looked up is kept.
"""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import Counter, Histogram

from gateway.exchange import Exchange
from gateway.metrics import Metrics

_NO_OPERATION = "none"
_MOST_LABELS = 10_000  # beyond that services came and went for months: start over


class MetricsMeter:
    """The meter of one worker; labels are operations, statuses and service ids."""

    def __init__(self, metrics: Metrics, keep: Callable[[Exchange, int], None]) -> None:
        self._metrics = metrics
        self._keep = keep
        self._count_key = metrics.keys.count
        self._requests: dict[tuple[str, int], Counter] = {}
        self._attempts: dict[tuple[str, str], Counter] = {}
        self._ttft: dict[str, Histogram] = {}

    def request_done(self, exchange: Exchange, status: int) -> None:
        """One request is over; status 499 is a client that went away."""
        self._keep(exchange, status)
        if exchange.principal is not None:
            self._count_key(getattr(exchange.principal, "name", ""), status)
        operation: str = _NO_OPERATION if exchange.operation is None else exchange.operation
        counter = self._requests.get((operation, status))
        if counter is None:
            counter = self._requests[operation, status] = self._metrics.requests.labels(operation, str(status))
        counter.inc()
        if exchange.overhead_seconds is not None:
            self._metrics.overhead.observe(exchange.overhead_seconds)
        if exchange.first_byte is not None:
            histogram = self._ttft.get(operation)
            if histogram is None:
                histogram = self._ttft[operation] = self._metrics.ttft.labels(operation)
            histogram.observe(exchange.first_byte - exchange.began)

    def attempt_done(self, service_id: str, outcome: str) -> None:
        """One attempt is over: ok, failed, cut or cancelled."""
        counter = self._attempts.get((service_id, outcome))
        if counter is None:
            if len(self._attempts) >= _MOST_LABELS:
                self._attempts.clear()
            counter = self._attempts[service_id, outcome] = self._metrics.attempts.labels(service_id, outcome)
        counter.inc()

    def resumed(self, how: str, outcome: str) -> None:
        """One attempt to go on with a cut stream is over."""
        self._metrics.resumptions.labels(how, outcome).inc()
