from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from geniehive.benchmarks import judge

TEXT = st.text(max_size=60)
VECTOR = st.lists(st.floats(-10, 10), min_size=3, max_size=3)


@pytest.mark.parametrize(
    ("text", "expected", "share"),
    [
        ("9", "9", 1),
        ("17 - 8 = 9.", "9", 1),
        ("First 9, but no: 8", "9", 0),
        ("It is 1,391", "1391", 1),
        ("80.0 km/h", "80", 1),
        ("Anna > Ben > Clara\nSo it is **Clara**.", "Clara", 1),
        ("Clara is taller\nBen", "Clara", 0),
        ("Claraville", "Clara", 0),
        ("", "9", 0),
    ],
)
def test_the_last_number_or_line_is_the_result(text, expected, share):
    assert judge.result(text, expected) == share


def test_facts_are_counted_and_a_long_answer_is_worth_half():
    assert judge.facts("Within 30 days, and it is free.", ("30 days", "free|return"), 10) == 1
    assert judge.facts("Within 30 days.", ("30 days", "free|return"), 10) == 0.5
    assert judge.facts("In thirty years", ("30 days",), 10) == 0
    assert judge.facts("30 days " * 20, ("30 days",), 10) == 0.5


def test_a_count_is_as_good_as_it_gets_before_its_first_slip():
    assert judge.sequence("1 2 3 4", 1, 4) == 1
    assert judge.sequence("1, 2, 4, 3", 1, 4) == 0.5
    assert judge.sequence("four", 1, 4) == 0
    assert judge.sequence("1 2 3 4 5 6", 1, 4) == 1


def test_the_nearer_vector_has_to_be_nearer():
    assert judge.closer([1, 0], [2, 0.1], [0, 1]) == 1
    assert judge.closer([1, 0], [0, 1], [1, 0.1]) == 0
    assert judge.closer([0, 0], [0, 0], [0, 0]) == 0


def test_a_transcript_is_judged_by_its_words():
    assert judge.heard("Hello, WORLD.", "hello world") == 1
    assert judge.heard("hello old world", "hello world") == 0.5
    assert judge.heard("", "hello world") == 0
    assert judge.heard("a b c d e f", "x") == 0
    assert judge.heard("", "") == 1


@given(TEXT, TEXT, VECTOR, VECTOR)
def test_every_judgement_is_a_share(text, other, one, two):
    shares = (
        judge.result(text, other),
        judge.facts(text, (other,), 5),
        judge.sequence(text, 1, 3),
        judge.heard(text, other),
        judge.closer(one, two, one),
    )
    assert all(0 <= share <= 1 for share in shares)


@given(TEXT)
def test_a_text_is_its_own_transcript(text):
    assert judge.heard(text, text) == 1
