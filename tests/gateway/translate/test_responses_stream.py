"""Chat completions as streams of Responses: beside what llama.cpp itself makes of the same request, event by event."""

import json

import pytest

from gateway.translate.responses_answer import Frame, answer
from gateway.translate.responses_stream import ResponseStream
from gateway.translate.tools import Toolbox
from geniehive.errors import UpstreamUnavailable
from tests.gateway.translate.reading import DONE, call, chunk, counted, events, fixture, usage_chunk, wire

FUNCTION = {"type": "function", "name": "a", "parameters": {}}


def frame(**body):
    return Frame(body, "resp_1", 7, counted(), Toolbox(body.get("tools")))


def translated(*blocks, **body):
    stream = ResponseStream(frame(**body), "asked")
    return [events(stream(block)) for block in blocks]


def flat(*blocks, **body):
    return [event for found in translated(*blocks, **body) for event in found]


def kinds(found):
    return [event["type"].removeprefix("response.") for event in found]


def without_ids(value):
    """Ids differ, and ours say more: index and number of each event, logprobs of each delta."""
    unsure = {"id", "item_id", "sequence_number", "output_index", "content_index", "timings"}
    if isinstance(value, dict):
        return {key: without_ids(each) for key, each in value.items() if key not in unsure}
    return [without_ids(each) for each in value] if isinstance(value, list) else value


def covers(ours, theirs):
    """Whether everything that they say is said by us, with the same values."""
    if isinstance(theirs, dict):
        return all(key in ours and covers(ours[key], value) for key, value in theirs.items())
    if isinstance(theirs, list):
        return len(ours) == len(theirs) and all(map(covers, ours, theirs))
    return ours == theirs


def test_a_recorded_chat_becomes_the_response_that_llama_cpp_itself_makes_of_the_same_request():
    made = flat(fixture("llamacpp/same_chat_stream.txt"))
    own = events(fixture("llamacpp/same_responses_stream.txt"))
    assert kinds(made)[:-1] == kinds(own)[:-1]
    for ours, theirs in zip(made[:-1], own[:-1], strict=True):
        assert covers(without_ids(ours), without_ids(theirs)), (ours, theirs)
    # llama.cpp calls an answer that was cut at max_output_tokens complete; OpenAI does not.
    assert (kinds(made)[-1], kinds(own)[-1]) == ("incomplete", "completed")
    unsure = {"status", "created_at"}
    theirs = {key: value for key, value in without_ids(own[-1]["response"]).items() if key not in unsure}
    assert covers(without_ids(made[-1]["response"]), theirs)
    assert made[-1]["response"]["incomplete_details"] == {"reason": "max_output_tokens"}


def test_a_recorded_answer_becomes_the_response_that_llama_cpp_itself_makes():
    made, own = (
        json.loads(answer(fixture("llamacpp/same_chat.json"), frame())),
        json.loads(fixture("llamacpp/same_responses.json")),
    )
    theirs = {
        key: value for key, value in without_ids(own).items() if key not in {"created_at", "completed_at", "status"}
    }
    assert covers(without_ids(made), theirs)


def test_events_are_numbered_and_items_have_their_places():
    found = flat(chunk(content="x"), chunk(tool_calls=[call(0, name="a", call_id="c", arguments="{}")]), DONE)
    assert [event["sequence_number"] for event in found] == list(range(len(found)))
    assert {event["output_index"] for event in found if "output_index" in event} == {0, 1}


def test_every_piece_goes_on_with_the_chunk_that_brought_it():
    steps = translated(
        chunk(role="assistant", content=None), chunk(content="Hel"), chunk(content="lo"), chunk(finish="stop"),
        usage_chunk(), DONE,
    )  # fmt: skip
    assert [kinds(step) for step in steps] == [
        ["created", "in_progress"],
        ["output_item.added", "content_part.added", "output_text.delta"],
        ["output_text.delta"],
        ["output_text.done", "content_part.done", "output_item.done"],
        ["completed"],
        [],
    ]
    usage = steps[4][0]["response"]["usage"]
    assert usage == {
        "input_tokens": 10, "input_tokens_details": {"cached_tokens": 4}, "output_tokens": 5,
        "output_tokens_details": {"reasoning_tokens": 0}, "total_tokens": 15,
    }  # fmt: skip


def test_thoughts_words_and_calls_are_items_in_their_order():
    found = flat(
        chunk(reasoning_content="hm"),
        chunk(content="yes"),
        chunk(tool_calls=[call(0, name="a", call_id="c1", arguments='{"x"')]),
        chunk(tool_calls=[call(0, arguments=":1}")]),
        chunk(finish="tool_calls"),
        DONE,
        tools=[FUNCTION],
    )
    output = found[-1]["response"]["output"]
    assert [item["type"] for item in output] == ["reasoning", "message", "function_call"]
    assert output[0]["content"] == [{"type": "reasoning_text", "text": "hm"}]
    assert output[2] | {"id": ""} == {
        "id": "", "type": "function_call", "status": "completed", "call_id": "c1", "name": "a", "arguments": '{"x":1}',
    }  # fmt: skip
    deltas = [event["delta"] for event in found if event["type"] == "response.function_call_arguments.delta"]
    assert deltas == ['{"x"', ":1}"]
    done = [event["item"] for event in found if event["type"] == "response.output_item.done"]
    assert done == output


def test_pieces_of_two_calls_that_alternate_all_reach_their_call():
    found = flat(
        chunk(tool_calls=[call(0, name="a", call_id="c1", arguments='{"x"')]),
        chunk(tool_calls=[call(1, name="b", call_id="c2", arguments='{"y"')]),
        chunk(tool_calls=[call(0, arguments=":1}"), call(1, arguments=":2}")]),
        chunk(finish="tool_calls"),
        DONE,
    )
    assert [item["arguments"] for item in found[-1]["response"]["output"]] == ['{"x":1}', '{"y":2}']


def test_a_refusal_is_another_part_of_the_message():
    found = flat(chunk(content="Well. "), chunk(refusal="No."), chunk(finish="stop"), DONE)
    (message,) = found[-1]["response"]["output"]
    assert [part["type"] for part in message["content"]] == ["output_text", "refusal"]
    parts = [(event["content_index"], event["part"]["type"]) for event in found if event["type"].endswith("part.done")]
    assert parts == [(0, "output_text"), (1, "refusal")]


def test_functions_of_namespaces_and_custom_tools_are_called_by_their_own_names():
    tools = [
        FUNCTION,
        {"type": "namespace", "name": "n", "tools": [FUNCTION, {**FUNCTION, "name": "b"}]},
        {"type": "custom", "name": "patch", "format": {"type": "grammar", "syntax": "lark", "definition": "start: x"}},
    ]
    found = flat(
        chunk(tool_calls=[call(0, name="n__a", call_id="c1", arguments="{}")]),
        chunk(tool_calls=[call(1, name="b", call_id="c2", arguments="{}")]),
        chunk(tool_calls=[call(2, name="patch", call_id="c3", arguments='{"input": "*** Begin')]),
        chunk(tool_calls=[call(2, arguments=' ä"}')]),
        chunk(finish="tool_calls"),
        DONE,
        tools=tools,
    )
    one, two, three = found[-1]["response"]["output"]
    assert (one["name"], one["namespace"], two["name"], two["namespace"]) == ("a", "n", "b", "n")
    assert three | {"id": ""} == {
        "id": "", "type": "custom_tool_call", "status": "completed", "call_id": "c3", "name": "patch",
        "input": "*** Begin ä",
    }  # fmt: skip
    assert [kind for kind in kinds(found) if kind.startswith("custom")] == [
        "custom_tool_call_input.delta", "custom_tool_call_input.done",
    ]  # fmt: skip


def test_logprobs_of_words_go_along():
    logprobs = {"content": [{"token": "x", "logprob": -0.5, "bytes": [120], "top_logprobs": []}]}
    body = {"choices": [{"index": 0, "delta": {"content": "x"}, "logprobs": logprobs}]}
    found = flat(wire(body), chunk(finish="stop"), DONE)
    delta = next(event for event in found if event["type"].endswith("text.delta"))
    assert delta["logprobs"] == logprobs["content"]
    assert found[-1]["response"]["output"][0]["content"][0]["logprobs"] == logprobs["content"]


def test_the_request_is_repeated_around_the_answer():
    body = {"instructions": "Be.", "tools": [FUNCTION], "temperature": 0.2, "metadata": {"k": "v"}, "store": False}
    response = flat(chunk(content="x"), chunk(finish="stop"), DONE, **body)[-1]["response"]
    assert {key: response[key] for key in body} == body
    assert (response["id"], response["created_at"], response["status"]) == ("resp_1", 7, "completed")


def test_nonsense_is_an_upstreams_failure():
    with pytest.raises(UpstreamUnavailable):
        flat(b"data: [1]\n\n")
