"""Keys are matched by hash, and what is not a key matches nothing."""

import pytest

from geniehive.tokens import KeyRing, bearer


def test_a_known_key_is_named_and_an_unknown_one_is_not():
    ring = KeyRing(["one", "two"], prefix="client")
    assert ring.matches("two") == "client-2"
    assert ring.matches("three") is None


@pytest.mark.parametrize("presented", [None, "", "x" * 1_000_000, "sch\udcffl", "' OR 1=1 --", b"\xff"])
def test_odd_keys_match_nothing_and_break_nothing(presented):
    assert KeyRing(["one"]).matches(presented) is None


def test_an_empty_ring_is_false():
    assert not KeyRing()
    assert KeyRing(["one"])


@pytest.mark.parametrize(
    ("header", "token"),
    [("Bearer abc", "abc"), ("bearer  abc ", "abc"), ("Basic abc", None), ("Bearer", None), (None, None), ("", None)],
)
def test_bearer_tokens_are_read(header, token):
    assert bearer(header) == token


def test_a_ring_does_not_hold_the_keys():
    assert "one-secret" not in repr(vars(KeyRing(["one-secret"])))
