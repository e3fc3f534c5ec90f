"""Chat completions as streams of Messages: beside what llama.cpp itself makes of the same request, event by event."""

import pytest

from gateway.translate.messages_answer import MessageStream
from geniehive.errors import UpstreamUnavailable
from tests.gateway.translate.reading import DONE, call, chunk, counted, events, fixture, usage_chunk, wire


def translated(*blocks, thoughts=True):
    stream = MessageStream("msg_1", "asked", counted(), thoughts=thoughts)
    return [events(stream(block)) for block in blocks]


def flat(*blocks, **more):
    return [event for found in translated(*blocks, **more) for event in found]


def kinds(found):
    return [event["type"].removeprefix("content_block_") for event in found]


def test_a_recorded_chat_becomes_the_message_that_llama_cpp_itself_makes_of_the_same_request():
    made, own = flat(fixture("llamacpp/same_chat_stream.txt")), events(fixture("llamacpp/same_messages_stream.txt"))
    assert kinds(made) == kinds(own)
    for ours, theirs in zip(made, own, strict=True):
        assert ours.keys() == theirs.keys()
        if ours["type"] == "message_start":
            assert ours["message"].keys() == theirs["message"].keys()
            assert ours["message"] | {"id": "", "usage": {}} == theirs["message"] | {"id": "", "usage": {}}
        elif ours["type"] == "message_delta":
            assert ours["delta"] == theirs["delta"]
            assert ours["usage"]["output_tokens"] == theirs["usage"]["output_tokens"]
        else:
            assert ours == theirs


def test_every_piece_goes_on_with_the_chunk_that_brought_it():
    steps = translated(
        chunk(role="assistant", content=None),
        chunk(content="Hel"),
        chunk(content="lo"),
        chunk(finish="stop"),
        usage_chunk(),
        DONE,
    )
    assert [kinds(step) for step in steps] == [
        ["message_start"],
        ["start", "delta"],
        ["delta"],
        ["stop"],
        ["message_delta", "message_stop"],
        [],
    ]
    assert steps[4][0] == {
        "type": "message_delta",
        "delta": {"stop_reason": "end_turn", "stop_sequence": None},
        "usage": {
            "input_tokens": 6,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 4,
            "output_tokens": 5,
        },
    }


def test_thoughts_come_before_words_in_a_block_of_their_own():
    found = flat(chunk(reasoning_content="hm"), chunk(reasoning="m"), chunk(content="yes"), chunk(finish="stop"), DONE)
    assert kinds(found)[1:8] == ["start", "delta", "delta", "stop", "start", "delta", "stop"]
    assert found[1]["content_block"] == {"type": "thinking", "thinking": "", "signature": ""}
    assert found[2]["delta"] == {"type": "thinking_delta", "thinking": "hm"}
    assert [found[4]["index"], found[5]["index"]] == [0, 1]


def test_thoughts_that_nobody_asked_for_stay_away():
    found = flat(chunk(reasoning_content="hm"), chunk(content="yes"), chunk(finish="stop"), DONE, thoughts=False)
    assert kinds(found) == ["message_start", "start", "delta", "stop", "message_delta", "message_stop"]


def test_parallel_calls_have_a_block_each_and_end_before_the_next_begins():
    found = flat(
        chunk(content="Both."),
        chunk(tool_calls=[call(0, name="a", call_id="c1", arguments='{"x"')]),
        chunk(tool_calls=[call(0, arguments=":1}")]),
        chunk(tool_calls=[call(1, name="b", call_id="c2", arguments="{}")]),
        chunk(finish="tool_calls"),
        usage_chunk(),
        DONE,
    )
    assert kinds(found)[3:] == [
        "stop", "start", "delta", "delta", "stop", "start", "delta", "stop", "message_delta", "message_stop",
    ]  # fmt: skip
    assert found[4]["content_block"] == {"type": "tool_use", "id": "c1", "name": "a", "input": {}}
    assert "".join(each["delta"]["partial_json"] for each in found[5:7]) == '{"x":1}'
    assert [each["index"] for each in found if "index" in each] == [0, 0, 0, 1, 1, 1, 1, 2, 2, 2]
    assert found[-2]["delta"]["stop_reason"] == "tool_use"


def test_pieces_of_two_calls_that_alternate_all_reach_their_call():
    found = flat(
        chunk(tool_calls=[call(0, name="a", call_id="c1", arguments='{"x"')]),
        chunk(tool_calls=[call(1, name="b", call_id="c2", arguments='{"y"')]),
        chunk(tool_calls=[call(0, arguments=":1}"), call(1, arguments=":2}")]),
        chunk(finish="tool_calls"),
        DONE,
    )
    arguments = {}
    for event in found:
        if event["type"] == "content_block_delta":
            arguments[event["index"]] = arguments.get(event["index"], "") + event["delta"]["partial_json"]
    assert arguments == {0: '{"x":1}', 1: '{"y":2}'}
    assert [event["index"] for event in found if event["type"] == "content_block_stop"] == [0, 1]


def test_whole_calls_without_index_or_id_are_calls_of_their_own():
    one, two = (call(0, name=name, arguments='{"n": 1}') for name in "ab")
    found = flat(chunk(tool_calls=[{**one, "index": None}, {**two, "index": None}]), chunk(finish="stop"), DONE)
    begun = [event["content_block"] for event in found if event["type"] == "content_block_start"]
    assert [(block["name"], block["id"]) for block in begun] == [("a", "toolu_1"), ("b", "toolu_2")]
    assert found[-2]["delta"]["stop_reason"] == "tool_use", "an engine that says stop behind a call means the call"


def test_calls_that_all_have_index_0_are_told_apart_by_their_ids():
    found = flat(
        chunk(tool_calls=[call(0, name="a", call_id="c1", arguments="{}")]),
        chunk(tool_calls=[call(0, name="b", call_id="c2", arguments="{}")]),
        chunk(finish="tool_calls"),
        DONE,
    )
    assert [e["content_block"]["id"] for e in found if e["type"] == "content_block_start"] == ["c1", "c2"]


@pytest.mark.parametrize(
    ("finish", "reason"), [("stop", "end_turn"), ("length", "max_tokens"), ("content_filter", "refusal")]
)
def test_finish_reasons(finish, reason):
    assert flat(chunk(content="x"), chunk(finish=finish), DONE)[-2]["delta"]["stop_reason"] == reason


def test_a_refusal_is_text_and_a_reason():
    found = flat(chunk(refusal="No."), chunk(finish="stop"), DONE)
    assert found[2]["delta"] == {"type": "text_delta", "text": "No."}
    assert found[-2]["delta"]["stop_reason"] == "refusal"


def test_the_stop_sequence_is_told_where_the_engine_tells():
    last = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop", "stop_reason": "END"}]}
    delta = flat(chunk(content="x"), wire(last), DONE)[-2]["delta"]
    assert delta == {"stop_reason": "stop_sequence", "stop_sequence": "END"}


def test_comments_pass_and_unicode_survives():
    stream = MessageStream("msg_1", "m", counted(), thoughts=True)
    assert stream(b": keepalive\n\n") == b": keepalive\n\n"
    assert "häß🦆".encode() in stream(chunk(content="häß🦆"))


def test_nonsense_is_an_upstreams_failure():
    with pytest.raises(UpstreamUnavailable):
        flat(b"data: [1]\n\n")
