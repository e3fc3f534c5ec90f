from __future__ import annotations

import itertools
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from geniehive.benchmarks.outcome import Answered, Outcome, percentile, samples, sum_up
from geniehive.benchmarks.report import FORMAT, Report, encode, samples_in
from geniehive.benchmarks.workloads import builtin
from geniehive.errors import InvalidRequest

CHAT = builtin()["chat.short_reasoning"]
ATLAS = Answered(service_id="atlas/chat", host_id="atlas", asset_id="m")
BOREAS = Answered(service_id="boreas/chat", host_id="boreas", asset_id="m")
NUMBERS = st.lists(st.floats(0, 1e6), min_size=1, max_size=30)


def good(who=ATLAS, **fields):
    return Outcome(**{"case": 0, "answered": who, "latency_seconds": 1.0, "ttft_seconds": 0.2, **fields})


@given(NUMBERS)
def test_percentiles_lie_in_order_among_the_values(values):
    p50, p95 = percentile(values, 0.5), percentile(values, 0.95)
    assert min(values) <= p50 <= p95 <= max(values) or p50 == pytest.approx(p95)
    assert p50 == pytest.approx(statistics.median(values))
    assert percentile(values, 1.0) == max(values)


def test_what_was_not_measured_is_unknown_and_failures_time_nothing():
    outcomes = [good(tpot_seconds=0.02, tokens=51, quality=1.0), good(quality=0.0), Outcome(case=1, error="status 502")]
    result = sum_up(CHAT, outcomes, 2.0, 1)
    assert (result.requests, result.failures, result.quality) == (3, 1, 0.5)
    assert result.tokens_per_second.p50 == pytest.approx(50)
    assert result.total_tokens_per_second == pytest.approx(25.5)
    assert result.services == {"": 1, "atlas/chat": 2}
    assert result.errors == {"status 502": 1}
    none = sum_up(CHAT, [Outcome(case=0, error="x")], 1.0, 1)
    assert (none.ttft_seconds, none.quality, none.total_tokens_per_second) == (None, None, None)


def test_there_is_a_sample_for_each_who_answered():
    outcomes = [good(), good(BOREAS, ttft_seconds=0.6), good(BOREAS, ttft_seconds=0.4), Outcome(case=0, error="x")]
    ids = itertools.count()
    made = samples(sum_up(CHAT, outcomes, 1.0, 1), None, 123, lambda: f"id-{next(ids)}")
    assert [(each.sample_id, each.service_id, each.requests, each.failures) for each in made] == [
        ("id-0", "atlas/chat", 1, 0),
        ("id-1", "boreas/chat", 2, 0),
    ]
    assert made[1].ttft_p50_seconds == 0.5
    assert made[1].tpot_p50_seconds is None


def test_a_failure_is_laid_at_the_door_of_the_only_one_there_is():
    outcomes = [good(), Outcome(case=0, error="x")]
    (made,) = samples(sum_up(CHAT, outcomes, 1.0, 1), ATLAS, 123, lambda: "id")
    assert (made.requests, made.failures) == (2, 1)


def test_a_report_gives_back_its_samples():
    result = sum_up(CHAT, [good(quality=1.0)], 1.0, 1)
    made = samples(result, None, 123, lambda: "id")
    report = Report(
        format=FORMAT, target="m", gateway="http://g", version="1", started_at_ms=1, ended_at_ms=2, results=(result,),
        samples=made,
    )  # fmt: skip
    raw = encode(report)
    assert samples_in(raw) == made
    assert b'"tpot_seconds": null' in raw


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (b"nonsense", "the report is not JSON"),
        (b"[" * 10_000, "the report is not JSON"),
        (b"[]", "a report is a JSON object"),
        (b"{}", "samples is missing or empty"),
        (b'{"samples": []}', "samples is missing or empty"),
        (b'{"format": "other/1", "samples": [{}]}', "format 'other/1' is not known"),
        (b'{"samples": [{"workload": "w", "service_id": "s"}, 7]}', "samples\\[1\\]: Expected `object`, got `int`"),
        (b'{"samples": [{"workload": "w"}]}', "samples\\[0\\]: .*service_id"),
        (b'{"samples": [{"workload": "w", "service_id": "s", "ttft": 1}]}', "samples\\[0\\]: .*ttft"),
        (b'{"samples": [{"workload": "w", "service_id": "s", "quality": "good"}]}', "samples\\[0\\]: .*quality"),
        (b'{"samples": [{"workload": "w", "service_id": "s", "quality": NaN}]}', "the report is not JSON"),
        (b'{"samples": [' + b",".join([b"{}"] * 1001) + b"]}", "1001 samples in one report"),
    ],
)
def test_a_report_with_nonsense_is_refused_by_name(raw, says):
    with pytest.raises(InvalidRequest, match=says):
        samples_in(raw)
