"""How good a candidate is for a task: signals of 0 to 1, weighed into one score. Pure.

Each part of a score is a number of 0 to 1, larger is better:

    text        share of the task's words that are in the role's or service's own texts (`match` finds it)
    family      1 for the role's first preferred family, less for each later one, 0 for any other
    loaded      1 in memory, 0 not
    latency     1 / (1 + TTFT): 0.5 at 1 s
    throughput  t / (t + 30), t in generated tokens a second: 0.5 at 30
    queue       1 / (1 + requests / slots): 0.5 where every slot is taken once
    benchmark   quality in benchmarks, times the share of requests that did not fail, drawn towards 0.5
                the less the workload resembles the task

The score is the mean of the parts by the weights of config. What is not known counts as 0.5, in the
middle: unknown is neither idle nor slow nor good. Where the service's own measurements are missing,
latency and throughput are those of the benchmark that resembles the task most.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

from geniehive.config import WeightsConfig
from geniehive.resources import Availability, BenchmarkSummary, Observed, Operation
from geniehive.routing.candidate import Candidate
from geniehive.routing.eligibility import place
from geniehive.routing.field import Benchmarked
from geniehive.routing.table import RoutingTable

UNKNOWN: Final = 0.5
_TTFT_HALF_S: Final = 1.0
_SPEED_HALF: Final = 30.0
_MEASURED: Final = (
    "running",
    "waiting",
    "slots",
    "in_flight",
    "kv_cache_usage",
    "prefix_cache_hit_rate",
    "tokens_per_second",
    "ttft_seconds",
    "latency_seconds",
)
_NOTHING: Final = Observed()

_WORD: Final = re.compile(r"[^\W_]+")
_STEM: Final = 5
_EMPTY: Final = frozenset(
    ("a", "an", "and", "are", "as", "at", "by", "for", "from", "in", "is", "it", "of", "on", "or", "that", "the", "to")
)


class Task(NamedTuple):
    """What candidates are scored for."""

    tasks: tuple[str, ...] = ()
    workloads: tuple[str, ...] = ()
    operation: Operation | None = None


class Score(NamedTuple):
    """A score of 0 to 1, the numbers that went into it by name, and why in words."""

    value: float
    signals: Mapping[str, float]
    reasons: tuple[str, ...]


class _Tested(NamedTuple):
    """What benchmarks say about a candidate; `overlap` is how much they resemble the task, 0 to 1."""

    overlap: float = 0.0
    value: float = UNKNOWN
    best: BenchmarkSummary | None = None


def score(
    table: RoutingTable, candidate: Candidate, task: Task, text: float, weights: WeightsConfig, own: int = 0
) -> Score:
    """The score of a candidate. `text` is the text part, `own` the caller's open requests at the service."""
    seen = table.observed.get(candidate.service.service_id, _NOTHING)
    tested = _benchmarked(_summaries(table, candidate), task)
    parts: dict[str, float | None] = {
        "text": text,
        "family": _family(candidate),
        "loaded": None if candidate.asset.loaded is None else float(candidate.asset.loaded),
        "latency": _latency(seen, tested.best),
        "throughput": _throughput(seen, tested.best),
        "queue": _queue(seen, own),
        "benchmark": tested.value if tested.best is not None else None,
    }
    signals = {f"{name}_score": value for name, value in parts.items() if value is not None}
    signals |= measured(table, candidate, own)
    reasons = explain(candidate)
    if tested.best is not None:
        signals["workload_overlap"] = tested.overlap
        signals |= _benchmark_signals(tested.best)
        reasons.append(_told(tested.best))
    return Score(weigh(parts, weights), signals, tuple(reasons))


def weigh(parts: Mapping[str, float | None], weights: WeightsConfig) -> float:
    """The mean of the parts by their weights; an unknown one counts as 0.5. 0 where every weight is 0."""
    by_name = {name: float(getattr(weights, name)) for name in parts}
    whole = sum(by_name.values())
    if not whole:
        return 0.0
    return sum(by_name[name] * (UNKNOWN if part is None else part) for name, part in parts.items()) / whole


def measured(table: RoutingTable, candidate: Candidate, own: int = 0) -> dict[str, float]:
    """What is known of a candidate's service, by name; `own` is the caller's open requests there."""
    seen = table.observed.get(candidate.service.service_id, _NOTHING)
    known = {name: float(value) for name in _MEASURED if (value := getattr(seen, name)) is not None}
    if (depth := _depth(seen, own)) is not None:
        known["queue_depth"] = float(depth)
    return known


def explain(candidate: Candidate) -> list[str]:
    """Why a candidate stands where it stands, in words."""
    reasons = [f"service is {candidate.service.health.status.value}"]
    if candidate.asset.loaded is not None:
        reasons.append("model is loaded" if candidate.asset.loaded else "model is not loaded")
    if candidate.host.availability is not Availability.AVAILABLE:
        reasons.append(f"host is {candidate.host.availability.value}")
    if candidate.role is not None:
        reasons.append(f"by role {candidate.role.role_id}")
        families = candidate.role.routing_policy.preferred_families
        if families and place(candidate.asset.family, families) < len(families):
            reasons.append(f"family {candidate.asset.family} is preferred")
    return reasons


def words(text: str) -> frozenset[str]:
    """The words of a text that mean something, cut to a stem: "transcribing" and "transcription" are one."""
    return frozenset(word[:_STEM] for word in _WORD.findall(text.casefold()) if word not in _EMPTY)


def overlap(workload: str, task: Task) -> float:
    """How much a benchmark's workload resembles the task, 0 to 1.

    Where the task names workloads: 1 for the same one, else the share of the name's words. Else the
    share of the workload's words (without its operation) that the task says.
    """
    own = words(workload)
    if task.workloads:
        return max(1.0 if named == workload else _share(words(named), own) for named in task.workloads)
    subject = words(workload.partition(".")[2]) or own
    return max((_share(subject, words(text)) for text in task.tasks), default=0.0)


def _share(part: frozenset[str], whole: frozenset[str]) -> float:
    return len(part & whole) / len(part) if part else 0.0


def _family(candidate: Candidate) -> float | None:
    wanted = candidate.role.routing_policy.preferred_families if candidate.role else ()
    return 1.0 - place(candidate.asset.family, wanted) / len(wanted) if wanted else None


def _latency(seen: Observed, best: BenchmarkSummary | None) -> float | None:
    ttft = seen.ttft_seconds if seen.ttft_seconds is not None or best is None else best.ttft_seconds
    return None if ttft is None else 1 / (1 + ttft / _TTFT_HALF_S)


def _throughput(seen: Observed, best: BenchmarkSummary | None) -> float | None:
    speed = seen.tokens_per_second if seen.tokens_per_second is not None or best is None else best.tokens_per_second
    return None if speed is None else speed / (speed + _SPEED_HALF)


def _depth(seen: Observed, own: int) -> int | None:
    """Requests at the service; None where neither engine nor gateways know, and the caller has none there."""
    told = (seen.running, seen.waiting, seen.in_flight)
    if not own and all(value is None for value in told):
        return None
    return max((seen.running or 0) + (seen.waiting or 0), seen.in_flight or 0, own)


def _queue(seen: Observed, own: int) -> float | None:
    depth = _depth(seen, own)
    return None if depth is None else 1 / (1 + depth / (seen.slots or 1))


def _summaries(table: RoutingTable, candidate: Candidate) -> Iterable[BenchmarkSummary]:
    found = table.shape.benchmarks.get(candidate.service.service_id)
    every = found.summaries if found is not None else ()
    return (each for each in every if each.asset_id in {"", candidate.asset.asset_id})


def _benchmarked(summaries: Iterable[BenchmarkSummary], task: Task) -> _Tested:
    """What the workloads that resemble the task say, each by how much it does."""
    alike = [
        (share, each)
        for each in summaries
        if task.operation in {None, each.operation} and (share := overlap(each.workload, task)) > 0
    ]
    if not alike:
        return _Tested()
    nearest, best = max(alike, key=lambda pair: (pair[0], pair[1].measured_at_ms, pair[1].workload))
    value = sum(share * _worth(each) for share, each in alike) / sum(share for share, _ in alike)
    return _Tested(nearest, UNKNOWN + nearest * (value - UNKNOWN), best)


def _worth(summary: BenchmarkSummary) -> float:
    quality = UNKNOWN if summary.quality is None else summary.quality
    return quality * (1 - _failed(summary))


def _failed(summary: BenchmarkSummary) -> float:
    return summary.failures / summary.requests if summary.requests else 0.0


def benchmarked(table: RoutingTable, candidates: Iterable[Candidate]) -> tuple[Benchmarked, ...]:
    """What benchmarks say of each candidate, for `scored`; empty where there are none.

    The task of a role is what its texts say. A model that is asked for by its name has no task: of it only its
    speed counts, as it was measured last.
    """
    return tuple(_seen_in_benchmarks(table, each) for each in candidates) if table.shape.benchmarks else ()


def _seen_in_benchmarks(table: RoutingTable, candidate: Candidate) -> Benchmarked:
    summaries = tuple(_summaries(table, candidate))
    role = candidate.role
    text = f"{role.role_id} {role.display_name} {role.description}" if role else ""
    tested = _benchmarked(summaries, Task((text,), (), role.operation if role else None))
    best = tested.best or max(summaries, key=lambda each: each.measured_at_ms, default=None)
    worth = None if tested.best is None else tested.value
    return Benchmarked(worth, best.tokens_per_second if best else None)


def _benchmark_signals(best: BenchmarkSummary) -> dict[str, float]:
    names = ("quality", "ttft_seconds", "tokens_per_second", "latency_seconds")
    found = {f"benchmark_{name}": value for name in names if (value := getattr(best, name)) is not None}
    return found | {"benchmark_runs": float(best.runs)}


def _told(best: BenchmarkSummary) -> str:
    right = "not judged" if best.quality is None else f"{best.quality:.0%} right"
    failed = f", {_failed(best):.0%} failed" if best.failures else ""
    return f"benchmark {best.workload}: {right}{failed}, {best.runs} run{'s' if best.runs > 1 else ''}"
