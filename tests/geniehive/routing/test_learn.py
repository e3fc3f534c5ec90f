"""Online fits."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from geniehive.routing.learn import Lengths, Line, Returns


def test_a_line_is_found_in_its_samples():
    line = Line(0.02, 0.0002, 2000.0)
    for step in range(200):
        x = float(step % 7) * 500
        line.learn(x, 0.1 + 0.002 * x)
    assert line.at(0) == pytest.approx(0.1, rel=0.1)
    assert line.slope == pytest.approx(0.002, rel=0.02)


def test_a_line_follows_an_engine_that_gets_slower():
    line = Line(0.02, 0.0002, 2000.0)
    for slope in (0.001, 0.004):
        for step in range(150):
            line.learn(float(step % 5) * 400, slope * (step % 5) * 400)
    assert line.slope == pytest.approx(0.004, rel=0.1)


@given(st.lists(st.tuples(st.floats(0, 1e5), st.floats(0, 1e3)), max_size=60))
def test_a_line_never_promises_less_than_nothing(samples):
    line = Line(0.02, 0.0002, 2000.0)
    for x, y in samples:
        line.learn(x, y)
    assert line.base >= 0
    assert line.slope >= 0


def test_one_sample_is_enough_to_know_a_slow_engine():
    line = Line(0.02, 0.0002, 2000.0)
    line.learn(5000.0, 40.0)
    assert line.at(5000.0) > 20


def test_answers_are_expected_by_how_prompts_begin():
    lengths = Lengths()
    for _ in range(60):
        lengths.learn(1, 20)
        lengths.learn(2, 600)
    assert lengths.expected(1, None) < 60
    assert lengths.expected(2, None) > 500
    assert lengths.expected(2, 100) == 100


@given(st.lists(st.integers(1, 5000), max_size=300), st.floats(0, 6000), st.floats(1, 5000))
def test_an_answer_that_goes_on_has_something_left(lengths_seen, written, expected):
    lengths = Lengths()
    for tokens in lengths_seen:
        lengths.learn(0, tokens)
    assert lengths.remaining(expected, written) > 0


def test_a_conversation_that_was_silent_for_long_is_not_expected_back():
    returns = Returns()
    for number in range(400):
        returns.ended()
        if number % 2:
            returns.returned(2.0)
    assert returns.likely(0.5, 60.0) == pytest.approx(0.5, abs=0.1)
    assert returns.likely(0.5, 0.1) < 0.1
    assert returns.likely(300.0, 60.0) < 0.02
