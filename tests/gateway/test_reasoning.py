"""Reasoning is taken out of any split of any stream, and everything else stays."""

from __future__ import annotations

import json

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.reasoning import strip_body, strip_events
from gateway.sse import SseScanner, data_of, split_events

# A machine with other work to do draws slowly.
patient = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
FIELDS = ("reasoning_content", "reasoning", "reasoning_details")
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12) | st.sampled_from(
    ['"reasoning":1', '{"reasoning_content":"x"}', "<think>x</think>", "reasoning"]
)


@st.composite
def messages(draw):
    """A delta or a message, with reasoning somewhere in it or not."""
    return draw(
        st.dictionaries(st.sampled_from([*FIELDS, "content", "role", "tool_calls"]), texts | st.none(), max_size=4)
    )


@st.composite
def answers(draw):
    """One answer or one event's data, with things around the choices."""
    place = draw(st.sampled_from(["delta", "message"]))
    finishes = st.sampled_from([None, "stop", "length"])
    choices = [
        {"index": at, place: draw(messages()), "finish_reason": draw(finishes)} for at in range(draw(st.integers(0, 2)))
    ]
    usage = draw(
        st.sampled_from([None, {"completion_tokens": 3, "completion_tokens_details": {"reasoning_tokens": 2}}])
    )
    found = {"id": "c", "created": 1, "choices": choices, "reasoning": "not a choice's", "usage": usage}
    return {key: found[key] for key in sorted(found, reverse=draw(st.booleans()))}


def without(answer):
    """What must come out, done plainly."""
    plain = json.loads(json.dumps(answer))
    for choice in plain["choices"]:
        for place in ("delta", "message"):
            if place in choice:
                choice[place] = {key: value for key, value in choice[place].items() if key not in FIELDS}
    return plain


def reasons(answer):
    return without(answer) != answer


@st.composite
def events(draw):
    """An event as bytes, in one of the ways to write it, and its answer."""
    answer = draw(answers())
    end = draw(st.sampled_from(["\n", "\r\n", "\r"]))
    lines = draw(st.lists(st.sampled_from([": note", "id: 7", "event: message"]), max_size=2))
    text = json.dumps(answer, ensure_ascii=draw(st.booleans()), indent=draw(st.sampled_from([None, 1])))
    text = text.replace("\u2028", " ").replace("\u2029", " ").replace("\x85", " ")
    lines += [draw(st.sampled_from(["data: ", "data:"])) + line for line in text.split("\n")]
    return "".join(line + end for line in [*lines, ""]).encode(), json.loads(text)


def split(draw, data):
    cuts = sorted(draw(st.lists(st.integers(0, len(data)), max_size=12)))
    return [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)]


def scan(chunks, rewrite=strip_events):
    scanner = SseScanner(rewrite=rewrite)
    out = b"".join([scanner.feed(each) for each in chunks] + [scanner.close()])
    return out, (scanner.events, scanner.content, scanner.finished, scanner.done, scanner.error, scanner.tokens)


@patient
@given(st.data())
def test_reasoning_goes_and_all_else_stays_on_any_split(data):
    drawn = data.draw(st.lists(events(), max_size=3))
    whole = b"".join(event for event, _ in drawn) + b"data: [DONE]\n\n"
    out, learned = scan(split(data.draw, whole))
    assert (out, learned) == scan([whole])
    found = [data_of(event) for event in split_events(out)]
    assert found[-1] == b"[DONE]"
    assert [json.loads(each) for each in found[:-1]] == [without(answer) for _, answer in drawn]
    assert learned == scan([whole], rewrite=None)[1]


@patient
@given(st.data())
def test_events_without_reasoning_keep_their_bytes_beside_those_with(data):
    drawn = data.draw(st.lists(events(), max_size=3))
    out = split_events(strip_events(b"".join(event for event, _ in drawn)))
    for (event, answer), passed in zip(drawn, out, strict=True):
        if not reasons(answer):
            assert passed == event
        assert passed.startswith(event[: event.index(b"data:")])


@patient
@given(answers())
def test_a_plain_answer_loses_its_reasoning_and_nothing_else(answer):
    raw = json.dumps(answer, indent=1).encode()
    kept = strip_body(raw)
    assert json.loads(kept) == without(answer)
    if not reasons(answer):
        assert kept is raw


@given(st.binary(max_size=200))
def test_no_bytes_break_it(junk):
    assert strip_body(b'"reasoning' + junk) == b'"reasoning' + junk
    strip_events(junk + b'data: {"choices":[{"delta":{"reasoning' + junk + b"\n\n")
    scan([junk])


def test_numbers_keep_their_digits():
    numbers = b'"logprobs":[-0.10000000000000000001,1e400]}],"created":1.0}'
    raw = b'{"choices":[{"message":{"reasoning":"x","content":"y"},' + numbers
    assert strip_body(raw) == raw.replace(b'"reasoning":"x",', b"")


def test_an_event_that_was_all_reasoning_stays_without_it():
    event = b'data: {"choices":[{"index":0,"delta":{"reasoning_content":"hm"},"finish_reason":null}]}\n\n'
    assert strip_events(event) == b'data: {"choices":[{"index":0,"delta":{},"finish_reason":null}]}\n\n'


def test_think_tags_in_content_are_left_alone():
    raw = b'{"choices":[{"message":{"content":"<think>hm</think>yes"}}]}'
    assert strip_body(raw) is raw


def test_the_beginning_of_a_large_answer_is_left_as_it_is():
    raw = b'{"choices":[{"message":{"reasoning":"hm","content":"ye'
    assert strip_body(raw) is raw
