"""What recent benchmark runs come to: medians for each workload, asset and service.

The book keeps a window of runs in memory, newest last; the store keeps them all. What it sums up goes
to gateways with the snapshot, as long as the service is known.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping
from typing import Final

from geniehive.resources import BenchmarkSample, BenchmarkSummary, ServiceBenchmarks

WINDOW: Final = 16
"""Runs that a median is taken over: enough to be calm, few enough to forget last month's driver."""

RESTORED: Final = 10_000
"""Newest samples that are read back at a start."""

_MOST_SERIES: Final = 4096
_Series = tuple[str, str, str]  # service, workload, asset


class BenchmarkBook:
    """The runs that count, by service, workload and asset."""

    def __init__(self, samples: Iterable[BenchmarkSample] = ()) -> None:
        self._runs: dict[_Series, dict[str, BenchmarkSample]] = {}
        self._summaries: dict[str, ServiceBenchmarks] = {}
        self.add(sorted(samples, key=_age))

    @property
    def summaries(self) -> Mapping[str, ServiceBenchmarks]:
        """What the runs come to, by service id."""
        return self._summaries

    def add(self, samples: Iterable[BenchmarkSample]) -> frozenset[str]:
        """Take runs in; one that is known already changes nothing. The services that this is about."""
        touched = set()
        for sample in samples:
            series = (sample.service_id, sample.workload, sample.asset_id)
            runs = self._runs.pop(series, {})
            runs.setdefault(sample.sample_id, sample)
            newest = sorted(runs.values(), key=_age)[-WINDOW:]
            self._runs[series] = {each.sample_id: each for each in newest}  # put last: the oldest series goes first
            touched.add(sample.service_id)
        while len(self._runs) > _MOST_SERIES:
            forgotten = next(iter(self._runs))
            del self._runs[forgotten]
            touched.add(forgotten[0])
        self._sum_up(touched)
        return frozenset(touched)

    def _sum_up(self, service_ids: set[str]) -> None:
        found: dict[str, list[BenchmarkSummary]] = {service_id: [] for service_id in service_ids}
        for service_id, workload, asset_id in sorted(self._runs):
            if service_id in found:
                found[service_id].append(summary(self._runs[service_id, workload, asset_id].values()))
        for service_id, summaries in found.items():
            if summaries:
                self._summaries[service_id] = ServiceBenchmarks(service_id=service_id, summaries=tuple(summaries))
            else:
                self._summaries.pop(service_id, None)


def summary(runs: Iterable[BenchmarkSample]) -> BenchmarkSummary:
    """What runs of one workload on one asset come to; at least one run."""
    ordered = sorted(runs, key=_age)
    newest = ordered[-1]
    return BenchmarkSummary(
        workload=newest.workload,
        asset_id=newest.asset_id,
        operation=newest.operation,
        runs=len(ordered),
        requests=sum(each.requests for each in ordered),
        failures=sum(each.failures for each in ordered),
        measured_at_ms=newest.measured_at_ms,
        ttft_seconds=_median(ordered, lambda run: run.ttft_p50_seconds),
        tpot_seconds=_median(ordered, lambda run: run.tpot_p50_seconds),
        tokens_per_second=_median(ordered, lambda run: run.tokens_per_second),
        latency_seconds=_median(ordered, lambda run: run.latency_p50_seconds),
        quality=_median(ordered, lambda run: run.quality),
    )


def _age(sample: BenchmarkSample) -> tuple[int, str]:
    return sample.measured_at_ms, sample.sample_id


def _median(runs: list[BenchmarkSample], read: Callable[[BenchmarkSample], float | None]) -> float | None:
    """The median of what was measured; None where nothing was."""
    known = [value for run in runs if (value := read(run)) is not None]
    return statistics.median(known) if known else None
