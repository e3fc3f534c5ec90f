from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from geniehive.config import WeightsConfig
from geniehive.errors import InvalidRequest
from geniehive.resources import BenchmarkSummary, Health, HealthStatus, ServiceBenchmarks
from geniehive.routing.match import Wanted, match
from geniehive.routing.resolve import resolve
from geniehive.routing.score import Task, explain, measured, overlap, score, weigh
from geniehive.routing.table import RoutingTable
from tests.geniehive.routing.fleet import Asset, Observed, Operation, host, role, service, table

WEIGHTS = WeightsConfig()
SHARE = st.none() | st.floats(0, 1)
NAMES = [field.name for field in msgspec.structs.fields(WeightsConfig)]
PARTS = st.fixed_dictionaries(dict.fromkeys(NAMES, SHARE))
SEEN = st.builds(
    Observed,
    running=st.none() | st.integers(0, 1000),
    waiting=st.none() | st.integers(0, 1000),
    slots=st.none() | st.integers(0, 8),
    ttft_seconds=st.none() | st.floats(0, 1e6),
    tokens_per_second=st.none() | st.floats(0, 1e6),
)


def benchmarked(found: RoutingTable, **by_service) -> RoutingTable:
    marks = {
        key.replace("_", "/"): ServiceBenchmarks(service_id=key.replace("_", "/"), summaries=tuple(summaries))
        for key, summaries in by_service.items()
    }
    return RoutingTable(msgspec.structs.replace(found.shape, benchmarks=marks), found.default_strategy)


def summary(workload="chat.short_reasoning", **fields):
    return BenchmarkSummary(workload=workload, **{"asset_id": "qwen", "requests": 10, **fields})


def scored(found, name="qwen", task=Task(("short reasoning",)), text=0.0, own=0):  # noqa: B008 - a frozen tuple
    candidates = resolve(found, name).candidates
    return {each.service.service_id: score(found, each, task, text, WEIGHTS, own) for each in candidates}


@given(PARTS)
def test_a_score_is_a_share_whatever_is_known(parts):
    assert 0 <= weigh(parts, WEIGHTS) <= 1


@given(PARTS, st.sampled_from(NAMES))
def test_a_better_part_never_makes_a_worse_score(parts, name):
    assert weigh(parts | {name: 0.0}, WEIGHTS) <= weigh(parts, WEIGHTS) <= weigh(parts | {name: 1.0}, WEIGHTS) + 1e-9


def test_unknown_stands_in_the_middle_and_a_weight_of_zero_leaves_a_part_out():
    assert weigh(dict.fromkeys(NAMES), WEIGHTS) == 0.5
    only = WeightsConfig(**dict.fromkeys(NAMES, 0) | {"text": 1})
    assert weigh(dict.fromkeys(NAMES, 0.0) | {"text": 0.25}, only) == 0.25
    assert weigh({"text": 1.0}, WeightsConfig(**dict.fromkeys(NAMES, 0))) == 0


@given(SEEN, st.integers(0, 50))
def test_measurements_of_any_kind_give_a_share(seen, own):
    found = table(service("a/x", observed=seen))
    (made,) = scored(found, own=own).values()
    assert 0 <= made.value <= 1


def test_an_idle_service_is_better_than_a_busy_one_and_an_unknown_one_is_between():
    values = {
        name: scored(table(service("a/x", observed=seen)))["a/x"].value
        for name, seen in {
            "idle": Observed(running=0),
            "unknown": Observed(),
            "busy": Observed(running=1, waiting=3),
        }.items()
    }
    assert values["idle"] > values["unknown"] > values["busy"]


def test_a_fast_loaded_service_is_better_than_a_slow_cold_one():
    found = table(
        service("a/x", observed=Observed(ttft_seconds=0.1, tokens_per_second=90.0)),
        service("b/x", assets=(Asset(asset_id="qwen", loaded=False),), observed=Observed(ttft_seconds=4.0)),
    )
    made = scored(found)
    assert made["a/x"].value > made["b/x"].value
    assert made["a/x"].signals["throughput_score"] == 0.75
    assert "loaded_score" in made["b/x"].signals
    assert "throughput_score" not in made["b/x"].signals


def test_quality_in_a_benchmark_that_resembles_the_task_counts():
    found = benchmarked(
        table(service("a/x"), service("b/x"), service("c/x")),
        a_x=[summary(quality=1.0)],
        b_x=[summary(quality=0.1)],
    )
    made = scored(found)
    assert made["a/x"].value > made["c/x"].value > made["b/x"].value
    assert "benchmark chat.short_reasoning: 100% right, 1 run" in made["a/x"].reasons
    assert made["a/x"].signals["workload_overlap"] == 1
    assert "workload_overlap" not in made["c/x"].signals


def test_failures_in_a_benchmark_count_against_quality():
    found = benchmarked(
        table(service("a/x"), service("b/x")),
        a_x=[summary(quality=0.9)],
        b_x=[summary(quality=0.9, failures=9)],
    )
    made = scored(found)
    assert made["a/x"].value > made["b/x"].value


def test_a_benchmark_fills_in_what_was_not_measured_and_only_that():
    marks = [summary(ttft_seconds=1.0, tokens_per_second=30.0)]
    found = benchmarked(table(service("a/x")), a_x=marks)
    assert scored(found)["a/x"].signals["latency_score"] == 0.5
    live = benchmarked(table(service("a/x", observed=Observed(ttft_seconds=0.0))), a_x=marks)
    assert scored(live)["a/x"].signals["latency_score"] == 1.0


def test_a_benchmark_of_another_asset_or_operation_says_nothing():
    marks = [summary(asset_id="other", quality=1.0), summary(operation=Operation.EMBEDDINGS, quality=1.0)]
    found = benchmarked(table(service("a/x")), a_x=marks)
    task = Task(("short reasoning",), operation=Operation.CHAT)
    assert "workload_overlap" not in scored(found, task=task)["a/x"].signals


def test_workloads_resemble_by_name():
    assert overlap("chat.short_reasoning", Task(workloads=("chat.short_reasoning",))) == 1
    assert overlap("chat.short_reasoning", Task(workloads=("chat.long_prompt",))) == pytest.approx(1 / 3)
    assert overlap("chat.short_reasoning", Task(("a short question about reasons",))) == 1
    assert overlap("chat.short_reasoning", Task(("draw a cat",))) == 0


def test_reasons_and_signals_tell_what_is_known_and_no_more():
    busy = service("a/x", assets=(Asset(asset_id="qwen", loaded=True, family="qwen3"),), observed=Observed(running=2))
    found = table(busy, role("r", preferred_families=("qwen3",)))
    (candidate,) = resolve(found, "r").candidates
    assert explain(candidate) == [
        "service is healthy",
        "model is loaded",
        "by role r",
        "family qwen3 is preferred",
    ]
    assert measured(found, candidate) == {"running": 2.0, "queue_depth": 2.0}
    assert measured(found, candidate, own=5)["queue_depth"] == 5.0


# --- matches ---


def matched(found, *tasks, **wanted):
    return [(each.kind, each.name) for each in match(found, Wanted(tasks=tasks, **wanted), WEIGHTS)]


def test_roles_and_services_are_matched_by_words_and_ordered_by_score():
    roles = (
        msgspec.structs.replace(role("coder"), description="reviews and writes programs"),
        msgspec.structs.replace(role("poet"), description="writes verses"),
    )
    found = table(service("a/x"), *roles)
    assert matched(found, "review my program") == [("role", "coder")]
    assert matched(found, "write verses") == [("role", "poet"), ("role", "coder")]
    assert matched(found, "qwen on a", services=True) == [("service", "a/x")]
    assert matched(found, "write verses", modality="audio") == []


def test_a_workload_alone_finds_who_was_measured_in_it():
    found = benchmarked(
        table(service("a/x"), service("b/x")),
        a_x=[summary("secret.workload", quality=0.2)],
        b_x=[summary("secret.workload", quality=0.8)],
    )
    assert matched(found, workloads=("secret.workload",), services=True) == [("service", "b/x"), ("service", "a/x")]


def test_the_best_service_of_a_role_is_the_one_that_is_named():
    slow, fast = Observed(ttft_seconds=5.0), Observed(ttft_seconds=0.1)
    found = table(
        service("a/x", observed=slow), service("b/x", host_id="h2", observed=fast), role("coder"), host(), host("h2")
    )
    (one,) = match(found, Wanted(("coder",)), WEIGHTS)
    assert one.candidate.service.service_id == "b/x"


def test_what_cannot_answer_is_not_offered():
    sick = Health(status=HealthStatus.UNHEALTHY)
    assert matched(table(service("a/x", health=sick), role("coder")), "coder", services=True) == []


@pytest.mark.parametrize("tasks", [(), ("  ",), ("x",) * 101, ("x" * 10_001,)])
def test_too_little_and_too_much_are_refused(tasks):
    with pytest.raises(InvalidRequest):
        matched(table(service("a/x")), *tasks)


@given(st.lists(st.text(min_size=1, max_size=20), min_size=1, max_size=4))
def test_any_words_give_scores_in_order(tasks):
    found = benchmarked(
        table(service("a/chat-short"), service("b/chat-long"), role("coder"), role("reasoner")),
        a_chat=[summary(quality=1.0)],
    )
    wanted = Wanted((*tasks, "chat"), services=True)
    values = [each.score.value for each in match(found, wanted, WEIGHTS)]
    assert values == sorted(values, reverse=True)
    assert all(0 <= value <= 1 for value in values)
