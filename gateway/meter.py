"""Counts finished requests and attempts into the worker's metrics, and hands requests on to be kept."""

from __future__ import annotations

from collections.abc import Callable

from gateway.exchange import Exchange
from gateway.metrics import Metrics

_NO_OPERATION = "none"
_MOST_LABELS = 10_000  # beyond that services came and went for months: start over


class MetricsMeter:
    """The meter of one worker; labels are operations, statuses and service ids."""

    def __init__(self, metrics: Metrics, keep: Callable[[Exchange, int], None]) -> None:
        self._tallies = metrics.tallies
        self._keep = keep
        self._resumptions = metrics.resumptions
        self._count_key = metrics.keys.count

    def request_done(self, exchange: Exchange, status: int) -> None:
        """One request is over; status 499 is a client that went away."""
        self._keep(exchange, status)
        if exchange.principal is not None:
            self._count_key(getattr(exchange.principal, "name", ""), status)
        tallies = self._tallies
        operation: str = exchange.operation or _NO_OPERATION
        key = (operation, status)
        tallies.requests[key] = tallies.requests.get(key, 0) + 1
        if exchange.overhead_seconds is not None:
            tallies.overhead.observe(exchange.overhead_seconds)
        if exchange.first_byte is not None:
            tallies.first_byte(operation, exchange.first_byte - exchange.began)

    def attempt_done(self, service_id: str, outcome: str) -> None:
        """One attempt is over: ok, failed, cut or cancelled."""
        attempts = self._tallies.attempts
        key = (service_id, outcome)
        seen = attempts.get(key, 0)
        if not seen and len(attempts) >= _MOST_LABELS:
            attempts.clear()
        attempts[key] = seen + 1

    def resumed(self, how: str, outcome: str) -> None:
        """One attempt to go on with a cut stream is over."""
        self._resumptions.labels(how, outcome).inc()
