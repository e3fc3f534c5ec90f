"""[pure] What requests came to, and what many of them come to together."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from geniehive.benchmarks.workloads import Workload
from geniehive.resources import BenchmarkSample, Operation, Resource


class Answered(Resource, frozen=True, kw_only=True):
    """Who answered, by the headers of the answer; empty where they did not say."""

    service_id: str = ""
    host_id: str = ""
    asset_id: str = ""


class Outcome(Resource, frozen=True, kw_only=True):
    """One request: seconds, tokens a second, a share of 0 to 1; None is not measured. `error` empty is a success."""

    case: int
    answered: Answered = Answered()
    error: str = ""
    latency_seconds: float | None = None
    ttft_seconds: float | None = None
    tpot_seconds: float | None = None
    tokens: int | None = None
    quality: float | None = None

    @property
    def tokens_per_second(self) -> float | None:
        """Of the tokens after the first: the inverse of TPOT."""
        return 1 / self.tpot_seconds if self.tpot_seconds else None


class Spread(Resource, frozen=True, kw_only=True):
    """How measured values lie."""

    p50: float
    p95: float
    minimum: float
    maximum: float


class WorkloadResult(Resource, frozen=True, kw_only=True):
    """What one workload came to, over everybody who answered."""

    workload: str
    operation: Operation
    requests: int
    failures: int
    seconds: float
    """The whole run of the workload took this long."""
    concurrency: int
    ttft_seconds: Spread | None = None
    tpot_seconds: Spread | None = None
    tokens_per_second: Spread | None = None
    latency_seconds: Spread | None = None
    total_tokens_per_second: float | None = None
    """Of all requests together."""
    quality: float | None = None
    services: dict[str, int]
    """Requests by the service that answered; "" where nobody did or nobody said."""
    errors: dict[str, int]
    """What went wrong, and how often."""
    outcomes: tuple[Outcome, ...] = ()


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which a share of 0 to 1 of the values lie, between neighbours in proportion; at least one."""
    ordered = sorted(values)
    place = (len(ordered) - 1) * share
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def spread(values: Iterable[float | None]) -> Spread | None:
    """How the known ones of some values lie; None where none is known."""
    known = [value for value in values if value is not None]
    if not known:
        return None
    return Spread(p50=percentile(known, 0.5), p95=percentile(known, 0.95), minimum=min(known), maximum=max(known))


def sum_up(workload: Workload, outcomes: Sequence[Outcome], seconds: float, concurrency: int) -> WorkloadResult:
    """What the requests of a workload came to."""
    good = [each for each in outcomes if not each.error]
    tokens = [each.tokens for each in good if each.tokens is not None]
    return WorkloadResult(
        workload=workload.name,
        operation=workload.operation,
        requests=len(outcomes),
        failures=len(outcomes) - len(good),
        seconds=seconds,
        concurrency=concurrency,
        ttft_seconds=spread(each.ttft_seconds for each in good),
        tpot_seconds=spread(each.tpot_seconds for each in good),
        tokens_per_second=spread(each.tokens_per_second for each in good),
        latency_seconds=spread(each.latency_seconds for each in good),
        total_tokens_per_second=sum(tokens) / seconds if tokens and seconds > 0 else None,
        quality=_mean(each.quality for each in good),
        services=dict(sorted(Counter(each.answered.service_id for each in outcomes).items())),
        errors=dict(sorted(Counter(each.error for each in outcomes if each.error).items())),
        outcomes=tuple(outcomes),
    )


def samples(
    result: WorkloadResult, alone: Answered | None, measured_at_ms: int, new_id: Callable[[], str]
) -> tuple[BenchmarkSample, ...]:
    """A sample for each service and asset that answered.

    `alone` is who must have been asked where nobody said, because there is nobody else. A failure that
    cannot be laid at anybody's door is in the result, and in no sample.
    """
    by_who: dict[Answered, list[Outcome]] = {}
    for each in result.outcomes:
        who = each.answered if each.answered.service_id or alone is None else alone
        if who.service_id:
            by_who.setdefault(who, []).append(each)
    return tuple(
        _sample(result, who, by_who[who], measured_at_ms, new_id())
        for who in sorted(by_who, key=lambda who: (who.service_id, who.asset_id))
    )


def _sample(
    result: WorkloadResult, who: Answered, outcomes: Sequence[Outcome], measured_at_ms: int, sample_id: str
) -> BenchmarkSample:
    good = [each for each in outcomes if not each.error]
    ttft, tpot = [each.ttft_seconds for each in good], [each.tpot_seconds for each in good]
    latency = [each.latency_seconds for each in good]
    return BenchmarkSample(
        sample_id=sample_id,
        workload=result.workload,
        service_id=who.service_id,
        asset_id=who.asset_id,
        host_id=who.host_id,
        operation=result.operation,
        measured_at_ms=measured_at_ms,
        requests=len(outcomes),
        failures=len(outcomes) - len(good),
        ttft_p50_seconds=_quantile(ttft, 0.5),
        ttft_p95_seconds=_quantile(ttft, 0.95),
        tpot_p50_seconds=_quantile(tpot, 0.5),
        tpot_p95_seconds=_quantile(tpot, 0.95),
        tokens_per_second=_quantile((each.tokens_per_second for each in good), 0.5),
        latency_p50_seconds=_quantile(latency, 0.5),
        latency_p95_seconds=_quantile(latency, 0.95),
        quality=_mean(each.quality for each in good),
    )


def _quantile(values: Iterable[float | None], share: float) -> float | None:
    known = [value for value in values if value is not None]
    return percentile(known, share) if known else None


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None
