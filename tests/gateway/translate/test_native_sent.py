"""Streams of engines with the route itself, read as what was sent of a chat: shapes that differ from our own."""

from __future__ import annotations

import json

import pytest

from gateway.resume_sent import ARGUMENTS, CONTENT, NAME
from gateway.translate.messages_answer import MessageStream
from gateway.translate.messages_sent import MessageTranscript
from gateway.translate.native_sent import THOUGHT
from gateway.translate.responses_answer import Frame
from gateway.translate.responses_sent import ResponseTranscript
from gateway.translate.responses_stream import ResponseStream
from gateway.translate.tools import Toolbox
from tests.gateway.translate.reading import DONE, chunk, counted, events, fixture

CREATED = {"type": "response.created", "response": {"id": "resp_x", "object": "response", "status": "in_progress"}}
THINKS = {"id": "rs_x", "type": "reasoning", "summary": [], "content": [], "encrypted_content": ""}
CALLS = {"type": "function_call", "call_id": "fc_x", "name": "weather", "arguments": "", "status": "in_progress"}
LAST = chunk(finish="stop") + DONE


def wire(*told):
    return b"".join(f"event: {each['type']}\ndata: {json.dumps(each)}\n\n".encode() for each in told)


def response(*told, most=1000, able=True, tools=None):
    def make(response):
        return ResponseStream(Frame({}, response["id"], 1, counted(), Toolbox(tools)), "m")

    made = ResponseTranscript(most, lambda: able, make, lambda stream: stream)
    made.keep(wire(*told))
    return made


def message(*told, thinks=False):
    made = MessageTranscript(1000, lambda: True, MessageStream("msg_1", "m", counted(), thoughts=True), thinks=thinks)
    made.keep(wire({"type": "message_start", "message": {"id": "msg_x"}}, *told))
    return made


def block(kind, **more):
    return {"type": "content_block_start", "index": 0, "content_block": {"type": kind, **more}}


def more_of_it(kind, **more):
    return {"type": "content_block_delta", "index": 0, "delta": {"type": f"{kind}_delta", **more}}


def test_llama_cpp_thinks_in_a_response_without_saying_that_a_part_begins():
    delta = {"type": "response.reasoning_text.delta", "item_id": "rs_x", "delta": "so"}
    made = response(CREATED, {"type": "response.output_item.added", "item": THINKS}, delta)
    sent = made.sent()
    assert sent.choices[0].text(THOUGHT) == "so"
    assert sent.thought
    found = events(made.onward(None)(chunk(reasoning_content=" so") + chunk(content="hi") + LAST))
    assert [each["sequence_number"] for each in found] == list(range(3, 3 + len(found)))
    assert found[0] == found[0] | {"type": "response.reasoning_text.delta", "item_id": "rs_x", "delta": " so"}
    final = found[-1]["response"]
    assert (final["id"], final["output"][0]["id"]) == ("resp_x", "rs_x")
    assert final["output"][0]["content"] == [{"type": "reasoning_text", "text": "so so"}]


def test_a_call_of_llama_cpps_has_the_id_of_its_call():
    arguments = {"type": "response.function_call_arguments.delta", "item_id": "fc_x", "delta": '{"a"'}
    made = response(CREATED, {"type": "response.output_item.added", "item": CALLS}, arguments)
    sent = made.sent()
    assert (sent.choices[0].text((NAME, 0)), sent.choices[0].text((ARGUMENTS, 0))) == ("weather", '{"a"')
    rest = {"index": 0, "function": {"arguments": ":1}"}}
    found = events(made.onward(None)(chunk(tool_calls=[rest]) + chunk(finish="tool_calls") + DONE))
    assert {each.get("item_id", "fc_x") for each in found} == {"fc_x"}
    assert found[-1]["response"]["output"][0]["arguments"] == '{"a":1}'


@pytest.mark.parametrize("name", ["messages_stream.txt", "same_messages_stream.txt", "same_responses_stream.txt"])
def test_streams_of_llama_cpp_are_understood_up_to_their_end(name):
    told = [each for each in events(fixture(f"llamacpp/{name}")) if each["type"] != "message_delta"]
    text = "".join(
        each["delta"] if isinstance(each["delta"], str) else each["delta"]["text"] for each in told if "delta" in each
    )
    made = message(*told[1:-1]) if "messages" in name else response(*told[:-1])
    assert made.sent().choices[0].text(CONTENT) == text


def test_more_than_may_be_kept_and_what_no_chat_can_ask_are_not_gone_on_with():
    assert response(CREATED).sent() is not None
    assert response(CREATED, able=False).sent() is None
    assert message(block("text", text=""), more_of_it("text", text="x" * 1001)).sent() is None


@pytest.mark.parametrize("thinks", [True, False])
def test_thoughts_that_were_told_are_told_on_and_must_agree_even_if_nobody_asked_for_them(thinks):
    made = message(block("thinking", thinking=""), more_of_it("thinking", thinking="so"), thinks=thinks)
    assert made.sent().hides is False
    assert b"thinking_delta" in made.onward(None)(chunk(reasoning_content="x"))
    silent = message(block("text", text=""), thinks=thinks)
    assert silent.sent().hides is not thinks
    assert (b"thinking_delta" in silent.onward(None)(chunk(reasoning_content="x"))) is thinks


def test_a_signature_tells_nothing_and_a_block_that_ended_stays_so():
    stop = {"type": "content_block_stop", "index": 0}
    signed = more_of_it("signature", signature="abc")
    made = message(block("thinking", thinking=""), more_of_it("thinking", thinking="so"), signed, stop)
    assert made.sent() is not None
    found = events(made.onward(None)(chunk(content="hi")))
    assert [(each["type"], each["index"]) for each in found] == [("content_block_start", 1), ("content_block_delta", 1)]


ODD = {
    "another index": {**block("text", text=""), "index": 1},
    "text at the start": block("text", text="hi"),
    "a tool of the engine's own": block("server_tool_use", id="x", name="web_search", input={}),
    "input at the start": block("tool_use", id="x", name="a", input={"b": 1}),
    "a call without a name": block("tool_use", id="x", input={}),
    "no block": {"type": "content_block_start", "index": 0},
    "more of nothing": more_of_it("text", text="hi"),
    "its end": {"type": "message_delta", "delta": {"stop_reason": "end_turn"}},
}


@pytest.mark.parametrize("odd", ODD.values(), ids=ODD)
def test_nobody_goes_on_behind_an_event_of_another_kind(odd):
    assert message().sent() is not None
    assert message(odd).sent() is None


@pytest.mark.parametrize("before", [(), ("hi",)], ids=["first", "behind a message"])
def test_a_response_has_an_item_without_parts_and_goes_on_behind_it(before):
    told = [CREATED]
    talk = {"type": "message", "id": "msg_x", "content": []}
    for text in before:
        told += [
            {"type": "response.output_item.added", "item": talk},
            {"type": "response.content_part.added", "part": {"type": "output_text", "text": ""}},
            {"type": "response.output_text.delta", "delta": text},
            {"type": "response.output_text.done", "text": text},
            {"type": "response.content_part.done", "part": {"type": "output_text", "text": text}},
            {"type": "response.output_item.done", "item": talk},
        ]
    told += [
        {"type": "response.output_item.added", "item": THINKS},
        {"type": "response.output_item.done", "item": THINKS},
    ]
    made = response(*told, {"type": "response.output_item.added", "item": CALLS})
    assert made.sent() is not None
    found = events(made.onward(None)(chunk(tool_calls=[{"index": 0, "function": {"arguments": "{}"}}]) + LAST))
    whole = found[-1]["response"]["output"]
    assert [each["type"] for each in whole] == [*("message" for _ in before), "reasoning", "function_call"]
    assert whole[-1]["arguments"] == "{}"
    assert found[0]["output_index"] == len(whole) - 1


def test_a_response_whose_tools_only_its_engine_has_is_kept_without_harm():
    assert response(CREATED, tools=[{"type": "file_search"}]).sent() is None


def test_arguments_belong_to_a_call():
    message = {"type": "response.output_item.added", "item": {"type": "message", "id": "msg_x", "content": []}}
    part = {"type": "response.content_part.added", "part": {"type": "output_text", "text": ""}}
    argued = {"type": "response.function_call_arguments.delta", "delta": "{}"}
    assert response(CREATED, message, part).sent() is not None
    assert response(CREATED, message, part, argued).sent() is None
