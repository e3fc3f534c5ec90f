"""Rates and medians are of what happened between two looks, and do not outlive their meaning."""

import math

import pytest

from nodeagent.engines.prometheus import parse
from nodeagent.engines.recent import STANDS_FOR, Memory, Ratio, measure, median

SPEED = {"speed": Ratio(("tokens",), ("seconds",))}


def look(text, before=Memory(), ratios=SPEED, medians=None):  # noqa: B008 (frozen)
    return measure(parse(text), before, ratios, medians or {})


def test_the_first_look_takes_what_was_since_the_start():
    values, _ = look("tokens 100\nseconds 4\n")
    assert values == {"speed": 25}


def test_the_second_look_takes_the_growth():
    _, memory = look("tokens 100\nseconds 4\n")
    values, _ = look("tokens 160\nseconds 5\n", memory)
    assert values == {"speed": 60}


def test_an_engine_that_was_started_anew_is_counted_from_its_start():
    _, memory = look("tokens 100\nseconds 4\n")
    values, _ = look("tokens 10\nseconds 1\n", memory)
    assert values == {"speed": 10}


def test_without_traffic_the_last_value_stands_for_a_while_and_then_is_unknown():
    values, memory = look("tokens 100\nseconds 4\n")
    seen = []
    for _ in range(STANDS_FOR + 1):
        values, memory = look("tokens 100\nseconds 4\n", memory)
        seen.append(values.get("speed"))
    assert seen == [25] * (STANDS_FOR - 1) + [None, None]


@pytest.mark.parametrize("text", ["", "tokens 0\nseconds 0\n", "tokens NaN\nseconds 1\n", "tokens 5\n"])
def test_what_was_not_measured_is_unknown(text):
    values, _ = look(text)
    assert values == {}


def test_a_median_is_of_what_came_since_the_last_look():
    medians = {"ttft": "t"}
    first = 't_bucket{le="1"} 100\nt_bucket{le="2"} 100\nt_bucket{le="+Inf"} 100\n'
    second = 't_bucket{le="1"} 100\nt_bucket{le="2"} 110\nt_bucket{le="+Inf"} 110\n'
    values, memory = look(first, ratios={}, medians=medians)
    assert values == {"ttft": 0.5}
    values, _ = look(second, memory, ratios={}, medians=medians)
    assert values == {"ttft": 1.5}


@pytest.mark.parametrize(
    ("histogram", "expected"),
    [
        ((), None),
        (((1.0, 0.0), (math.inf, 0.0)), None),
        (((1.0, 2.0), (math.inf, 10.0)), 1.0),
        (((1.0, 1.0), (3.0, 3.0), (math.inf, 4.0)), 2.0),
        (((1.0, 0.0), (2.0, 1.0), (math.inf, 1.0)), 1.5),
    ],
)
def test_medians(histogram, expected):
    assert median(histogram) == expected
