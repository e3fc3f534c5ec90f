"""What strategies are told of a body."""

import json

import pytest

from gateway.openai.body import parse
from gateway.openai.conversation import ask_of
from geniehive.routing.affinity import NOTHING


def ask(put_before=b"", **fields):
    return ask_of(parse(json.dumps({"model": "m", **fields}).encode()), 5.0, put_before)


def shared(one, other):
    return set(one.prefix.keys) & set(other.prefix.keys)


FIRST = [{"role": "user", "content": "hello " * 9}]
MORE = [*FIRST, {"role": "assistant", "content": "hi"}, {"role": "user", "content": "and now?"}]


def test_the_next_turn_begins_like_the_one_before():
    assert ask(messages=FIRST).prefix.keys[-1] in ask(messages=MORE).prefix.keys


@pytest.mark.parametrize("other", [{"put_before": b"role"}, {"tools": [{"type": "function"}]}])
def test_what_stands_before_the_messages_counts(other):
    assert not shared(ask(messages=FIRST), ask(messages=FIRST, **other))


def test_a_plain_prompt_counts_too():
    assert shared(ask(prompt="a" * 3000), ask(prompt="a" * 4000))


@pytest.mark.parametrize("fields", [{}, {"input": "text"}, {"prompt": ""}])
def test_a_body_without_a_prompt_has_no_beginning(fields):
    assert ask(**fields).prefix == NOTHING


@pytest.mark.parametrize(
    ("fields", "limit"),
    [
        ({"max_tokens": 9}, 9),
        ({"max_completion_tokens": 7, "max_tokens": 9}, 7),
        ({"max_tokens": None}, None),
        ({"max_tokens": True}, None),
        ({"max_tokens": "many"}, None),
        ({"max_tokens": -1}, None),
    ],
)
def test_the_limit_of_the_answer_is_known_where_it_is_a_number(fields, limit):
    assert ask(**fields).max_tokens == limit
