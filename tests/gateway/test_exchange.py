"""What an answer's headers tell of its request."""

from __future__ import annotations

from itertools import islice
from typing import Any

import pytest

from gateway.exchange import Exchange, Names, request_ids

NOTHING: Any = None


def headers(spent, *, attempts=0, **waits):
    """Of a request that began at 100 and took so many seconds, besides its waits."""
    end = 100 + spent + sum(waits.values())
    exchange = Exchange(NOTHING, "req_1", NOTHING, Names(), 100.0, now=lambda: end, attempts=attempts, **waits)
    return exchange.headers(), exchange.overhead_seconds


@pytest.mark.parametrize("step", range(100))
def test_the_gateways_own_time_is_told_in_hundredths_of_a_millisecond(step):
    for seconds in (step * 1e-6, step * 1e-5 + 3e-6, step * 1e-4 + 4e-6, step * 1e-3, step * 0.1, 100.0 * step):
        shown = headers(seconds)[0]["x-geniehive-overhead-ms"]
        assert len(shown.partition(".")[2]) == 2
        assert abs(float(shown) - seconds * 1000) <= 0.005 + 1e-6


def test_waits_are_not_the_gateways_own_time():
    found, spent = headers(0.25, attempts=3, queue_seconds=1.5, upstream_seconds=2.0, body_seconds=3.0)
    assert found["x-geniehive-overhead-ms"] == "250.00"
    assert spent == pytest.approx(0.25)
    assert (found["x-geniehive-attempts"], found["x-geniehive-queue-ms"]) == ("3", "1500")


@pytest.mark.parametrize(
    ("attempts", "queued", "told"),
    [(0, 0.0, ("0", "0")), (1, 0.0, ("1", "0")), (1, 0.0301, ("1", "30")), (2, 0, ("2", "0"))],
)
def test_attempts_and_the_wait_in_line_are_told(attempts, queued, told):
    found, spent = headers(0.001, attempts=attempts, queue_seconds=queued)
    assert (found["x-geniehive-attempts"], found["x-geniehive-queue-ms"]) == told
    assert (spent is None) == (attempts == 0)


def test_a_clock_that_rounds_makes_no_time_negative():
    found, spent = headers(-1e-9, attempts=1)
    assert (found["x-geniehive-overhead-ms"], spent) == ("0.00", 0.0)


def test_no_id_comes_twice_and_all_have_one_shape():
    found = [*islice(request_ids(), 2000), *islice(request_ids(), 2000)]
    assert len(set(found)) == 4000
    assert {len(each) for each in found} == {28}
    assert all(each[:4] == "req_" and int(each[4:], 16) >= 0 for each in found)
