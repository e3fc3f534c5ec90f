"""Fingerprints of prompts."""

import json

from hypothesis import given
from hypothesis import strategies as st

from geniehive.routing.affinity import NOTHING, fingerprint, offset

messages = st.lists(
    st.builds(
        lambda role, content: {"role": role, "content": content},  # the role first, as clients write it
        st.sampled_from(["user", "assistant"]),
        st.text(max_size=3000),
    ),
    min_size=1,
    max_size=12,
)
spacing = st.sampled_from([(",", ":"), (", ", ": ")])


def raw(talk, separators=(",", ":")):
    return json.dumps(talk, separators=separators).encode()


@given(messages, messages, spacing)
def test_the_next_turn_finds_the_whole_of_the_turn_before(before, after, separators):
    earlier = fingerprint(raw(before, separators))
    later = fingerprint(raw([*before, *after[:2]], separators))
    assert earlier.keys[-1] in later.keys
    assert offset(earlier.keys[-1]) == earlier.size


short = st.lists(st.builds(lambda content: {"role": "user", "content": content}, st.text(max_size=15)), max_size=12)


@given(short, short)
def test_a_key_in_common_is_a_beginning_in_common(one, other):
    mine, yours = raw(one), raw(other)
    for key in set(fingerprint(mine).keys) & set(fingerprint(yours).keys):
        assert mine[: offset(key)] == yours[: offset(key)]


@given(st.binary(max_size=5000))
def test_any_bytes_have_a_fingerprint_with_keys_in_order(body):
    found = fingerprint(body)
    offsets = [offset(key) for key in found.keys]
    assert offsets == sorted(set(offsets))
    assert offsets[-1] == found.size <= len(body)


def test_a_shared_system_prompt_is_found_exactly():
    system = {"role": "system", "content": "s" * 777}
    one = fingerprint(raw([system, {"role": "user", "content": "a"}]))
    two = fingerprint(raw([system, {"role": "user", "content": "b"}]))
    common = max(offset(key) for key in set(one.keys) & set(two.keys))
    assert common == len(raw([system])) - 1


@given(st.integers(0, 60_000), st.integers(1, 9))
def test_of_a_long_text_any_change_of_length_is_seen_at_the_next_mark(at, more):
    text = b"".join(b"line %d of a long text\n" % number for number in range(3000))
    changed = text[:at] + b"x" * more + text[at:]
    same = set(fingerprint(text).keys) & set(fingerprint(changed).keys)
    assert all(offset(key) <= at + 1024 for key in same)


def test_the_cost_of_a_fingerprint_does_not_grow_with_the_prompt():
    talk = raw([{"role": "user", "content": "some words " * 3000} for _ in range(30)])
    assert len(talk) > 900_000
    assert len(fingerprint(talk).keys) < 20


def test_what_goes_before_the_messages_counts():
    talk = raw([{"role": "user", "content": "hello"}])
    assert not set(fingerprint(talk, b"[tools]").keys) & set(fingerprint(talk).keys)
    assert fingerprint(talk, b"[tools]").size == fingerprint(talk).size + 7


def test_an_empty_prompt_has_nothing():
    assert NOTHING.size == 0
    assert NOTHING.keys == ()
