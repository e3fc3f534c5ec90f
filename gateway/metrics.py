"""`/metrics`: counters and histograms of one worker, and what it knows of the nodes.

Base units and names as Prometheus asks for them. A registry belongs to an application, not to the
module, so that two gateways in one process do not meet. Labels are names from the snapshot (of keys
from the config, too) or from short fixed lists, never what a client wrote: their number is bounded by
the size of the cluster.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from itertools import accumulate

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector

from gateway.admission import Queue
from gateway.circuit import Circuits
from gateway.inflight import InFlight
from gateway.key_counts import KeyCounts
from gateway.line import Priority
from gateway.view import RoutingView
from geniehive.resources import LeaseState

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_TTFT_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1, 2, 4, 8, 16, 32, 64)
_WAIT_BUCKETS = (0.01, 0.05, 0.1, 0.25, 0.5, 1, 2, 5, 10, 30, 60, 120)
_OVERHEAD_BUCKETS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.1)


class Tallies(Collector):
    """What is counted with every request: plain numbers, since Prometheus' own counters take a lock for each.

    `requests` is by operation and status, `attempts` by service and outcome, `ttft` by operation.
    """

    def __init__(self) -> None:
        self.requests: dict[tuple[str, int], int] = {}
        self.attempts: dict[tuple[str, str], int] = {}
        self.ttft: dict[str, Buckets] = {}
        self.overhead = Buckets(_OVERHEAD_BUCKETS)

    def first_byte(self, operation: str, seconds: float) -> None:
        """An answer began so long after its request had come."""
        buckets = self.ttft.get(operation)
        if buckets is None:
            buckets = self.ttft[operation] = Buckets(_TTFT_BUCKETS)
        buckets.observe(seconds)

    def describe(self) -> Iterable[Metric]:
        """Nothing is known before the first scrape."""
        return ()

    def collect(self) -> Iterable[Metric]:
        """See Collector."""
        text = "Requests answered, by operation and HTTP status."
        requests = CounterMetricFamily("geniehive_gateway_requests", text, labels=("operation", "status"))
        for (operation, status), count in self.requests.items():
            requests.add_metric((operation, str(status)), count)
        text = "Attempts at services, by outcome: ok, failed, cut or cancelled."
        attempts = CounterMetricFamily("geniehive_gateway_attempts", text, labels=("service", "outcome"))
        for labels, count in self.attempts.items():
            attempts.add_metric(labels, count)
        text = "Time from the request's arrival to the first byte of its answer."
        ttft = HistogramMetricFamily("geniehive_gateway_ttft_seconds", text, labels=("operation",))
        for operation, seen in self.ttft.items():
            ttft.add_metric((operation,), *seen.so_far())
        text = "Time that the gateway itself added before the first attempt."
        overhead = HistogramMetricFamily("geniehive_gateway_overhead_seconds", text)
        overhead.add_metric((), *self.overhead.so_far())
        return requests, attempts, ttft, overhead


class Buckets:
    """A histogram; `bounds` go up."""

    __slots__ = ("_bounds", "_counts", "_sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        """One more."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def so_far(self) -> tuple[list[tuple[str, float]], float]:
        """Bounds with the number of values up to each, and the sum of all."""
        names = [*(repr(float(bound)) for bound in self._bounds), "+Inf"]
        return [(name, float(upto)) for name, upto in zip(names, accumulate(self._counts), strict=True)], self._sum


class Metrics:
    """The metrics of one worker."""

    def __init__(self, view: RoutingView, in_flight: InFlight, circuits: Circuits, line: Queue) -> None:
        self.registry = CollectorRegistry()
        self.tallies = Tallies()
        self.registry.register(self.tallies)
        self.resumptions = Counter(
            "geniehive_gateway_resumptions",
            "Attempts to go on with a cut stream, by how (prefill, append, repeat) and outcome.",
            ("how", "outcome"),
            registry=self.registry,
        )
        self.queue_wait = Histogram(
            "geniehive_gateway_queue_wait_seconds",
            "Time that requests waited for a place at a service, by priority; those that did not wait are not counted.",
            ("priority",),
            buckets=_WAIT_BUCKETS,
            registry=self.registry,
        )
        self.keys = KeyCounts()
        self.registry.register(self.keys)
        self.registry.register(_Gauges(view, in_flight, circuits, line))

    def waited(self, priority: Priority, seconds: float) -> None:
        """A request's wait for a place is over."""
        self.queue_wait.labels(priority.name.lower()).observe(seconds)

    def exposition(self) -> bytes:
        """The text that Prometheus reads."""
        return generate_latest(self.registry)


class _Gauges(Collector):
    """What is known at the moment of the scrape; a value that is unknown has no sample."""

    def __init__(self, view: RoutingView, in_flight: InFlight, circuits: Circuits, line: Queue) -> None:
        self._line = line
        self._view = view
        self._in_flight = in_flight
        self._circuits = circuits

    def describe(self) -> Iterable[Metric]:
        """Nothing is known before the first scrape."""
        return ()

    def collect(self) -> Iterable[Metric]:
        """See Collector."""
        yield self._open()
        yield from self._ejections()
        yield self._waiting()
        yield _gauge(
            "geniehive_gateway_connected", "1 while the control plane answers.", [], float(self._view.connected)
        )
        if (end := self._view.certificate_end()) is not None:
            words = "End of the certificate that is shown to the control plane, in Unix seconds."
            yield _gauge("geniehive_gateway_certificate_expiry_timestamp_seconds", words, [], end)
        if self._view.table is not None:
            yield from self._nodes()
            yield from self._engines()

    def _open(self) -> Metric:
        family = GaugeMetricFamily("geniehive_gateway_in_flight", "Open attempts, by service.", labels=("service",))
        for service_id, count in sorted(self._in_flight.counts.items()):
            family.add_metric([service_id], count)
        return family

    def _waiting(self) -> Metric:
        family = GaugeMetricFamily(
            "geniehive_gateway_queue_depth",
            "Requests that wait for a place, by service; one that several services could take waits at each.",
            labels=("service",),
        )
        for service_id in sorted(self._line.services):
            family.add_metric([service_id], self._line.waiting(service_id))
        return family

    def _ejections(self) -> Iterable[Metric]:
        out = GaugeMetricFamily(
            "geniehive_gateway_kept_back",
            "1 for a service that this worker keeps back by how it fared: ejected, half_open or resting.",
            labels=("service", "state"),
        )
        for service_id, state in sorted(self._circuits.out(self._in_flight.now()).items()):
            out.add_metric([service_id, state], 1)
        often = CounterMetricFamily(
            "geniehive_gateway_ejections", "Times that this worker ejected a service.", labels=("service",)
        )
        for service_id, count in sorted(self._circuits.ejections.items()):
            often.add_metric([service_id], count)
        return out, often

    def _nodes(self) -> Iterable[Metric]:
        snapshot = self._view.current().snapshot
        up = GaugeMetricFamily("geniehive_node_up", "1 while the host's lease is renewed.", labels=("host",))
        used = GaugeMetricFamily("geniehive_node_vram_used_bytes", "VRAM in use.", labels=("host", "gpu"))
        total = GaugeMetricFamily("geniehive_node_vram_total_bytes", "VRAM there is.", labels=("host", "gpu"))
        for host in snapshot.hosts.values():
            up.add_metric([host.host_id], float(host.lease is LeaseState.UP))
            for seen in host.observed.gpus:
                _add(used, [host.host_id, str(seen.index)], seen.vram_used_bytes)
            for gpu in host.facts.gpus:
                _add(total, [host.host_id, str(gpu.index)], gpu.vram_total_bytes)
        return up, used, total

    def _engines(self) -> Iterable[Metric]:
        table = self._view.current()
        labels = ("service",)
        running = GaugeMetricFamily("geniehive_node_engine_running", "Requests the engine works on.", labels=labels)
        waiting = GaugeMetricFamily("geniehive_node_engine_waiting", "Requests in the engine's queue.", labels=labels)
        for service_id, seen in sorted(table.observed.items()):
            _add(running, [service_id], seen.running)
            _add(waiting, [service_id], seen.waiting)
        return running, waiting


def _gauge(name: str, text: str, labels: list[str], value: float) -> Metric:
    family = GaugeMetricFamily(name, text, labels=labels)
    family.add_metric(labels, value)
    return family


def _add(family: GaugeMetricFamily, labels: list[str], value: float | None) -> None:
    if value is not None:
        family.add_metric(labels, value)
