"""The scanner on any split of any stream."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.sse import SseScanner, told_in
from geniehive.errors import UpstreamUnavailable


def chat(content=None, *, finish=None, **more):
    piece = {} if content is None else {"content": content}
    return json.dumps({"choices": [{"index": 0, "delta": piece, "finish_reason": finish}], **more})


ends = st.sampled_from(["\n", "\r\n", "\r"])
datas = st.one_of(
    st.text(max_size=30).map(chat),
    st.just(chat(finish="stop")),
    st.just('{"choices":[],"usage":{"completion_tokens":7}}'),
    st.just("{}"),
)


@st.composite
def events(draw):
    """One event that passes: comments, ids and data in any order, data perhaps over two lines."""
    end = draw(ends)
    lines = draw(st.lists(st.sampled_from([": note", "id: 7", "retry: 9", "event: message"]), max_size=2))
    if draw(st.booleans()):
        data = draw(datas)
        prefix = draw(st.sampled_from(["data: ", "data:"]))
        if draw(st.booleans()) and ", " in data:
            first, _, rest = data.partition(", ")
            lines += [f"{prefix}{first},", f"{prefix} {rest}"]
        else:
            lines.append(prefix + data)
    return "".join(line + end for line in [*lines, ""] if line or lines).encode() or b": x\n\n"


def split(draw, data):
    cuts = sorted(draw(st.lists(st.integers(0, len(data)), max_size=12)))
    return [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)]


def scan(chunks):
    scanner = SseScanner()
    out = b"".join([scanner.feed(each) for each in chunks] + [scanner.close()])
    return out, (scanner.events, scanner.content, scanner.finished, scanner.done, scanner.error, scanner.tokens)


@given(st.data())
def test_whole_events_pass_byte_for_byte_on_any_split(data):
    whole = b"".join(data.draw(st.lists(events(), max_size=8)))
    out, learned = scan(split(data.draw, whole))
    assert out == whole
    assert learned == scan([whole])[1]


@given(st.data())
def test_nothing_but_whole_events_passes_before_the_end(data):
    whole = b"".join(data.draw(st.lists(events(), min_size=1, max_size=8)))
    cut = data.draw(st.integers(0, len(whole)))
    scanner = SseScanner()
    out = b"".join(scanner.feed(each) for each in split(data.draw, whole[:cut]))
    assert whole.startswith(out)
    assert out == b"" or out.endswith((b"\n\n", b"\r\r", b"\r\n\r\n", b"\r\n\r"))


@given(st.binary(max_size=300), st.data())
def test_no_bytes_break_it(junk, data):
    scan(split(data.draw, junk))


@given(st.data())
def test_an_error_is_found_on_any_split_and_nothing_passes_after_it(data):
    before = b"".join(data.draw(st.lists(events(), max_size=4)))
    whole = before + b'data: {"error": {"message": "x"}}\n\ndata: {"choices": []}\n\ndata: [DONE]\n\n'
    out, learned = scan(split(data.draw, whole))
    assert out == before
    assert learned[4] == b'{"error": {"message": "x"}}'
    assert not learned[3]


def learn(*datas):
    scanner = SseScanner()
    for each in datas:
        scanner.feed(b"data: " + each.encode() + b"\n\n")
    return scanner


def test_a_role_alone_is_not_content():
    role = '{"choices":[{"delta":{"role":"assistant","content":""},"finish_reason":null}]}'
    assert not learn(role).content
    assert learn(role, chat("x")).content
    assert learn('{"choices":[{"delta":{"tool_calls":[{"index":0}]}}]}').content
    assert learn('{"choices":[{"delta":{"reasoning_content":"x"}}]}').content
    assert learn('{"choices":[{"text":"x"}]}').content


def test_the_finish_is_seen():
    assert not learn(chat("x")).complete
    assert learn(chat("x", finish="stop")).complete
    assert learn(chat("x"), "[DONE]").complete
    assert learn('{"type":"transcript.text.done","text":"x"}').complete
    assert not learn('{"type":"transcript.text.delta","delta":"x"}').complete


def test_a_null_error_is_none():
    assert learn('{"error":null,"choices":[]}').error is None


@pytest.mark.parametrize("data", ['{"error":"boom"}', '{"type":"error","message":"x"}', '{"type":"response.failed"}'])
def test_errors_of_all_shapes_are_found(data):
    assert learn(data).error == data.encode()


def test_an_event_named_error_is_one():
    scanner = SseScanner()
    assert scanner.feed(b'event: error\ndata: {"message":"x"}\n\n') == b""
    assert scanner.error == b'{"message":"x"}'


def test_words_about_errors_are_not_errors():
    scanner = learn(chat('{"error": {"message": "x"}} and "finish_reason": "stop"'))
    assert scanner.error is None
    assert not scanner.finished


def test_broken_json_is_left_out_and_the_rest_passes():
    scanner = SseScanner()
    good = b"data: " + chat("x").encode() + b"\n\n"
    assert scanner.feed(good + b"data: {oops\n\n" + good) == good + good


def test_json_of_another_shape_passes():
    odd = b'data: {"choices": "none"}\n\n'
    assert SseScanner().feed(odd) == odd


def test_tokens_are_taken_from_usage():
    assert learn('{"choices":[],"usage":{"completion_tokens":7}}').tokens == 7
    assert told_in(b'{"usage":{"completion_tokens":3}}') == (None, 3, None, None, None)
    assert told_in(b'{"usage":{"prompt_tokens":2},"choices":[{"finish_reason":"length"}]}') == (
        2,
        None,
        "length",
        None,
        None,
    )
    assert told_in(b"WEBVTT") == (None, None, None, None, None)


def test_what_was_in_the_cache_is_taken_from_usage_where_it_is_told():
    usage = '{"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":7,"prompt_tokens_details":%s}}'
    assert learn(usage % '{"cached_tokens":5}').told == (9, 7, None, 5, None)
    assert told_in((usage % '{"cached_tokens":5}').encode()) == (9, 7, None, 5, None)
    for odd in ("null", "[5]", "7", '{"cached_tokens":"5"}', "{}"):
        assert learn(usage % odd).told == (9, 7, None, None, None)


def test_an_event_beyond_the_bound_is_refused():
    scanner = SseScanner(max_event_bytes=100)
    scanner.feed(b"data: " + b"x" * 90)
    with pytest.raises(UpstreamUnavailable):
        scanner.feed(b"x" * 90)


TIMINGS = b'"timings":{"cache_n":30,"prompt_n":12,"prompt_ms":250.0,"predicted_n":9,"predicted_ms":500,"more":1}'
END = b'data: {"choices":[{"finish_reason":"stop","delta":{}}],%b}\n\n'


@pytest.mark.parametrize("finishes", [True, False])
def test_done_without_a_finish_is_an_end_only_where_streams_have_no_finish(finishes):
    scanner = SseScanner(finishes=finishes)
    text = b'data: {"choices":[{"index":0,"delta":{"content":"a"},"finish_reason":""}]}\n\n'
    assert scanner.feed(text + b"data: [DONE]\n\n") == (text if finishes else text + b"data: [DONE]\n\n")
    assert scanner.over
    assert scanner.complete is not finishes


ONE_ENDS = b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'


def test_done_behind_one_finish_of_two_that_began_is_no_end():
    scanner = SseScanner(choices=2, finishes=True)
    scanner.feed(b'data: {"choices":[{"index":0,"delta":{"content":"a"}}]}\n\n')
    scanner.feed(b'data: {"choices":[{"index":1,"delta":{"content":"b"}}]}\n\n')
    scanner.feed(ONE_ENDS)
    assert not scanner.complete


def test_an_engine_that_makes_one_choice_where_two_were_asked_for_comes_to_an_end():
    scanner = SseScanner(choices=2, finishes=True)
    scanner.feed(b'data: {"choices":[{"index":0,"delta":{"content":"a"}}]}\n\n')
    assert scanner.feed(ONE_ENDS) == ONE_ENDS
    assert scanner.complete


@pytest.mark.parametrize("reason", ["abort", "error"])
def test_a_reason_of_an_engine_that_was_stopped_is_no_finish_and_does_not_pass(reason):
    scanner = SseScanner(finishes=True)
    event = b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"%b"}]}\n\n' % reason.encode()
    assert scanner.feed(event + b"data: [DONE]\n\n") == b""
    assert scanner.over
    assert not scanner.complete


def test_llama_cpps_timings_tell_tokens_and_times_where_no_usage_was_asked_for():
    scanner = SseScanner()
    scanner.feed(END % TIMINGS)
    assert scanner.told == (42, 9, "stop", 30, (0.25, 0.5))
    body = b'{"choices":[{"finish_reason":"stop"}],%b}' % TIMINGS
    assert told_in(body) == (42, 9, "stop", 30, (0.25, 0.5))


def test_usage_wins_over_timings_and_timings_behind_it_count():
    scanner = SseScanner()
    scanner.feed(END % b'"x":1')
    scanner.feed(b'data: {"choices":[],"usage":{"prompt_tokens":50,"completion_tokens":8},%b}\n\n' % TIMINGS)
    assert scanner.told == (50, 8, "stop", None, (0.25, 0.5))


@pytest.mark.parametrize("odd", [b'"timings":null', b'"timings":[1]', b'"timings":{"prompt_n":"x"}', b'"timings":{}'])
def test_timings_of_another_shape_are_left_alone(odd):
    scanner = SseScanner()
    assert scanner.feed(END % odd) == END % odd
    assert scanner.told == (None, None, "stop", None, None)
    assert told_in(b'{"choices":[{"finish_reason":"stop"}],%b}' % odd) == (None, None, "stop", None, None)
