from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from controlplane.benchmark_book import WINDOW, BenchmarkBook
from geniehive.resources import BenchmarkSample


def sample(number, service_id="s", workload="chat.w", asset_id="m", **fields):
    return BenchmarkSample(
        sample_id=f"{service_id}-{workload}-{number:04}",
        workload=workload,
        service_id=service_id,
        asset_id=asset_id,
        measured_at_ms=1000 + number,
        **{"requests": 10, **fields},
    )


def test_runs_come_to_medians_for_each_workload_and_asset():
    book = BenchmarkBook()
    runs = [sample(n, ttft_p50_seconds=float(n), quality=0.5) for n in (1, 2, 9)]
    assert book.add([*runs, sample(1, workload="chat.v", failures=2), sample(1, service_id="t")]) == {"s", "t"}
    found = book.summaries["s"].summaries
    assert [(each.workload, each.runs) for each in found] == [("chat.v", 1), ("chat.w", 3)]
    assert (found[1].ttft_seconds, found[1].quality, found[1].tpot_seconds) == (2.0, 0.5, None)
    assert (found[1].requests, found[1].measured_at_ms) == (30, 1009)
    assert found[0].failures == 2


def test_a_repeat_changes_nothing():
    book = BenchmarkBook([sample(1, quality=0.5)])
    book.add([sample(1, quality=1.0)])
    assert [(each.runs, each.quality) for each in book.summaries["s"].summaries] == [(1, 0.5)]


def test_old_runs_fall_out_of_the_window():
    book = BenchmarkBook([sample(n, quality=0.0) for n in range(WINDOW)])
    book.add([sample(100 + n, quality=1.0) for n in range(WINDOW)])
    book.add([sample(0, quality=0.0)])
    assert [(each.runs, each.quality) for each in book.summaries["s"].summaries] == [(WINDOW, 1.0)]


@given(st.lists(st.tuples(st.integers(0, 60), st.sampled_from("ab")), max_size=80), st.randoms(use_true_random=False))
def test_the_order_in_which_samples_come_does_not_matter(runs, dice: random.Random):
    samples = [sample(number, service_id, quality=number / 60) for number, service_id in dict.fromkeys(runs)]
    shuffled = samples[:]
    dice.shuffle(shuffled)
    one, other = BenchmarkBook(), BenchmarkBook(samples)
    for each in shuffled:
        one.add([each])
    assert one.summaries == other.summaries
