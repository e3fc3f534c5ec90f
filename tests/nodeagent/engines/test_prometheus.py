"""One bad line costs itself alone; a value that cannot be true is unknown, never a number."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodeagent.engines.prometheus import parse
from tests.nodeagent.engines.replay import FIXTURES


def test_series_of_one_name_are_added_up_and_whole_names_are_compared():
    page = parse('x{engine="0"} 1\nx{engine="1"} 2\nx_by_reason{reason="y"} 9\n')
    assert page.sum("x") == 3
    assert page.mean("x") == 1.5
    assert page.sum("older", "x") == 3
    assert page.sum("missing") is None


@pytest.mark.parametrize("value", ["NaN", "-1", "+Inf", "9223372036854775808", "1e300", "0x10", "one"])
def test_nonsense_makes_the_sum_unknown(value):
    assert parse(f'x{{a="1"}} 1\nx{{a="2"}} {value}\n').sum("x") is None


def test_lines_that_are_no_series_are_skipped():
    page = parse('# HELP x y\n# TYPE x gauge\n\nx 1 1700000000000\n}}{{\ny{a="b\n= 3\nz{a="}{\\"q\\n"} 4\n')
    assert page.sum("x") == 1
    assert page.sum("z") == 4
    assert page.series["z"][0].labels == {"a": '}{"q\n'}


def test_labels_choose_series():
    page = parse('s{state="awake"} 0\ns{state="asleep"} 1\n')
    assert page.sum_where("s", state="awake") == 0
    assert page.sum_where("s", state="gone") is None


def test_a_histogram_is_added_up_over_its_series():
    page = parse(
        'h_bucket{e="0",le="1"} 1\nh_bucket{e="0",le="+Inf"} 2\nh_bucket{e="1",le="1"} 3\nh_bucket{e="1",le="+Inf"} 4\n'
    )
    assert page.histogram("h") == ((1.0, 4.0), (math.inf, 6.0))
    assert parse('h_bucket{le="1"} 1\n').histogram("h") is None


def test_a_prefix_leaves_the_rest_unread():
    page = parse((FIXTURES / "vllm/metrics.txt").read_text(), "vllm:")
    assert page.sum("vllm:num_requests_waiting") == 5
    assert page.sum("python_info") is None


@given(st.text())
def test_no_text_is_too_odd_to_read(text):
    parse(text)
