"""Whose turn it is after a failure."""

from __future__ import annotations

import json

import pytest

from gateway.turns import MAX_ATTEMPTS, Failed, following
from gateway.verdict import AttemptFailed, Kind, judge
from geniehive.errors import UpstreamTimeout, UpstreamUnavailable
from geniehive.resources import Asset
from geniehive.routing.candidate import Candidate
from tests.geniehive.routing.fleet import host, role, service


def make(name, asset="m", *, context=None, by=None):
    made = service(name, assets=(Asset(asset_id=asset, loaded=True, context_size=context),))
    return Candidate(made, made.assets[0], host(), (), by)


def refused():
    return AttemptFailed(UpstreamUnavailable("refused"))


def hung():
    return AttemptFailed(UpstreamTimeout("hung"))


def crashed():
    return judge(500, {}, b"")


def busy(seconds=""):
    return judge(429, {"retry-after": seconds} if seconds else {}, b"")


def loading():
    return judge(503, {}, b'{"error":{"message":"Loading model","code":503}}')


def too_long(n_ctx=None):
    extra = f',"n_ctx":{n_ctx}' if n_ctx else ""
    return judge(400, {}, f'{{"error":{{"type":"exceed_context_size_error","code":400{extra}}}}}'.encode())


def turn(ordered, *failed, everybody=(), shut=()):
    found = following(ordered, everybody or ordered, [Failed(*each) for each in failed], lambda each: each in shut)
    return [(each.service.service_id, each.asset.asset_id) for each in found.candidates], found.again


A, B, C, D, E, F = (make(name) for name in "abcdef")


def test_other_services_come_first_in_their_order():
    assert turn((A, B, C), (A, refused())) == ([("b", "m"), ("c", "m")], False)
    assert turn((A, B, C), (A, refused()), (B, hung())) == ([("c", "m")], False)


def test_another_model_of_the_same_service_comes_after_all_others_and_only_if_it_can_be_spoken_to():
    other = make("a", "n")
    assert turn((A, other, B), (A, crashed())) == ([("b", "m")], False)
    assert turn((A, other), (A, crashed())) == ([("a", "n")], False)
    assert turn((A, other), (A, refused())) == ([], True)
    assert turn((A, other), (A, hung())) == ([], True)


def test_a_request_that_crashed_two_engines_is_shown_to_no_third():
    assert turn((A, B, C), (A, crashed()), (B, crashed())) == ([], False)


def test_what_is_the_requests_fault_is_asked_of_nobody_else():
    assert turn((A, B), (A, judge(400, {}, b""))) == ([], False)


def test_the_last_attempt_is_kept_for_a_fallback_role():
    own, fallback = role("r"), role("f")
    mine = [make(f"m{n}", by=own) for n in range(9)]
    theirs = make("t", "small", by=fallback)
    failed = [(each, refused()) for each in mine[: MAX_ATTEMPTS - 1]]
    assert turn((*mine, theirs), *failed) == ([("t", "small")], False)
    assert turn(mine[:8], *failed, everybody=(*mine, theirs)) == ([("t", "small")], False)
    assert turn(mine, *failed)[0][0] == ("m3", "m")
    assert turn((*mine, theirs), *failed[:1])[0][0] == ("m1", "m")
    assert turn((*mine, theirs), *failed, (theirs, refused())) == ([], True)


def test_among_busy_ones_the_shortest_wait_gets_the_second_chance():
    assert turn((A, B), (A, busy("1")), (B, busy("2"))) == ([("a", "m")], True)
    assert turn((A, B), (A, busy("2")), (B, busy())) == ([("b", "m")], True)
    assert turn((A, B), (A, busy("9")), (B, busy("30"))) == ([], True)
    assert turn((A,), (A, busy("1"))) == ([("a", "m")], True)
    assert turn((A,), (A, busy("1")), (A, busy("1"))) == ([], False)


def test_a_loading_one_is_waited_for_where_no_other_is_left():
    assert turn((A, B), (A, loading())) == ([("b", "m")], False)
    assert turn((A, B), (A, loading()), (B, refused())) == ([("a", "m")], True)
    assert turn((A, B), (A, loading()), (B, busy("1"))) == ([("b", "m")], True)


def test_the_only_one_gets_a_second_chance_if_it_answered_at_all():
    assert turn((A,), (A, crashed())) == ([("a", "m")], True)
    assert turn((A,), (A, crashed()), (A, crashed())) == ([], False)
    assert turn((A,), (A, hung())) == ([], True)


def test_those_that_want_to_be_left_alone_for_long_are_passed_over():
    assert turn((A, B, C), (A, refused()), shut={"b"}) == ([("c", "m")], False)
    assert turn((A,), (A, busy("1")), shut={"a"}) == ([], True)


SMALL, SAME, LARGE, UNKNOWN = (
    make("s", context=4096),
    make("s2", context=4096),
    make("l", "long", context=32768),
    make("u", "any"),
)


def test_a_prompt_that_is_too_long_goes_to_larger_contexts_alone():
    everybody = (SMALL, SAME, UNKNOWN, LARGE)
    assert turn((SMALL, SAME, UNKNOWN), (SMALL, too_long()), everybody=everybody) == ([("l", "long")], False)
    assert turn((SMALL, SAME), (SMALL, too_long())) == ([], True)
    assert turn((UNKNOWN, LARGE), (UNKNOWN, too_long(65536))) == ([], True)
    assert turn((UNKNOWN, LARGE), (UNKNOWN, too_long(8192))) == ([("l", "long")], False)


def test_a_larger_context_at_the_same_service_will_do():
    wide = make("s", "wide", context=65536)
    assert turn((SMALL, wide), (SMALL, too_long())) == ([("s", "wide")], False)


SAID = {
    "llama.cpp": {
        "error": {
            "code": 400,
            "message": "request (4476 tokens) exceeds the available context size (4096 tokens), try increasing it",
            "type": "exceed_context_size_error",
            "n_prompt_tokens": 4476,
            "n_ctx": 4096,
        }
    },
    "openai": {"error": {"message": "too long", "type": "invalid_request_error", "code": "context_length_exceeded"}},
    "vllm": {
        "error": {
            "message": "This model's maximum context length is 4096 tokens. However, you requested 5000 tokens",
            "type": "BadRequestError",
            "code": 400,
        }
    },
    "sglang": {
        "object": "error",
        "message": "The input (61709 tokens) is longer than the model's context length (40960 tokens).",
        "type": "BadRequestError",
        "code": 400,
    },
    "ollama": {"error": "the input length exceeds the context length"},
}


@pytest.mark.parametrize("said", SAID.values(), ids=SAID)
def test_engines_say_in_their_own_ways_that_a_prompt_is_too_long(said):
    body = json.dumps(said).encode()
    found = judge(400, {}, body)
    assert found.kind is Kind.TOO_LONG
    assert found.retry
    assert not found.held_against
    assert found.passed.body == body
