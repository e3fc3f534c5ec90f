"""What engines' failures mean, and how often they may be repeated."""

from __future__ import annotations

import pytest

from gateway.errors import envelope, error_body, error_headers, message_in, passed_on
from gateway.retry_budget import RetryBudget
from gateway.verdict import Kind, judge, judge_event
from geniehive.errors import ModelNotFound, NoServiceAvailable, UpstreamUnavailable


@pytest.mark.parametrize(
    ("status", "retry", "passed", "held_against"),
    [
        (302, True, None, True),
        (400, False, 400, False),
        (401, True, None, True),
        (404, False, 404, False),
        (422, False, 422, False),
        (429, True, 429, True),
        (500, True, None, True),
        (503, True, None, True),
        (504, True, None, True),
    ],
)
def test_each_status_has_its_verdict(status, retry, passed, held_against):
    found = judge(status, {}, b"")
    assert found.retry is retry
    assert (None if found.passed is None else found.passed.status) == passed
    assert found.held_against is held_against


def test_a_retry_after_in_seconds_is_kept():
    assert judge(503, {"retry-after": "7"}, b"").error.retry_after_s == 7
    assert judge(503, {"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}, b"").error.retry_after_s is None


DATED = {"date": "Wed, 21 Oct 2015 07:28:00 GMT", "retry-after": "Wed, 21 Oct 2015 07:28:09 GMT"}
RESTS = {
    "seconds": (429, {"retry-after": "7"}, b"", 7.0),
    "a date": (429, DATED, b"", 9.0),
    "a date that is over": (429, {**DATED, "date": "Wed, 21 Oct 2015 08:28:00 GMT"}, b"", 0.0),
    "nonsense": (429, {"retry-after": "soon"}, b"", 0.0),
    "a full queue": (503, {}, b'{"error":"server busy, please try again.  maximum pending requests exceeded"}', 0.0),
    "503 with a time": (503, {"retry-after": "3"}, b"", 3.0),
    "503 without": (503, {}, b"", None),
    "500": (500, {"retry-after": "3"}, b"", None),
}


@pytest.mark.parametrize(("status", "headers", "body", "rest"), RESTS.values(), ids=RESTS)
def test_a_busy_engine_says_for_how_long_it_wants_to_be_left_alone(status, headers, body, rest):
    assert judge(status, headers, body).busy_s == rest


def test_an_engine_that_loads_its_model_has_not_failed():
    found = judge(503, {}, b'{"error":{"code":503,"message":"Loading model","type":"unavailable_error"}}')
    assert found.kind is Kind.LOADING
    assert found.retry
    assert not found.held_against


def test_lm_studio_says_in_a_good_status_that_a_prompt_is_too_long():
    said = (
        b'{"error":{"message":"Trying to keep the first 111490 tokens when context the overflows. However, the model is'
    )
    said += b' loaded with context length of only 32768 tokens, which is not enough."}}'
    assert judge_event({}, said).kind is Kind.TOO_LONG


def test_an_error_event_is_judged_by_the_code_it_names():
    assert judge_event({}, b'{"error":{"code":400,"message":"too long"}}').passed.status == 400
    assert judge_event({}, b'{"error":{"code":500}}').retry
    assert judge_event({}, b'{"error":"boom"}').retry
    assert judge_event({}, b"rubbish").retry


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b'{"error":{"message":"a  b"}}', "a b"),
        (b'{"error":"a"}', "a"),
        (b'{"detail":"a"}', "a"),
        (b'"a"', "a"),
        (b"a\nb", "a b"),
        (b"<html>a</html>", ""),
        (b"", ""),
        (b"\xff", "\ufffd"),
        (b'{"other":1}', ""),
    ],
)
def test_an_engines_words_are_found_in_any_shape(body, said):
    assert message_in(body) == said


@pytest.mark.parametrize("body", [b"", b"x", b'{"error":"x"}', b'{"error":{}}', b'{"detail":[{"loc":["a"]}]}', b"[]"])
def test_what_is_passed_on_has_all_four_keys(body):
    import json

    assert set(json.loads(passed_on(400, body))["error"]) == {"message", "type", "param", "code"}


def test_what_is_right_already_is_untouched():
    right = envelope("a", "b", "c") + b" "
    assert passed_on(400, right) == right


def test_errors_that_are_not_ours_say_nothing_of_their_inside():
    assert b"secret" not in error_body(RuntimeError("secret"))


def test_clients_are_told_not_to_repeat_what_is_permanent_or_was_repeated():
    assert error_headers(ModelNotFound("x"))["x-should-retry"] == "false"
    assert error_headers(UpstreamUnavailable("x"), attempts=2)["x-should-retry"] == "false"
    assert "x-should-retry" not in error_headers(NoServiceAvailable("x", retry_after_s=2))
    assert error_headers(NoServiceAvailable("x", retry_after_s=0.2))["retry-after"] == "1"


def test_the_retry_budget_is_a_fifth_of_ten_seconds_and_ten_a_second():
    budget = RetryBudget()
    for _ in range(100):
        budget.arrived(1000.0)
    assert sum(budget.spend(1000.5) for _ in range(500)) == 120
    assert not budget.spend(1009.9)
    assert budget.spend(1011.0)
    assert sum(budget.spend(5000.0) for _ in range(500)) == 100
