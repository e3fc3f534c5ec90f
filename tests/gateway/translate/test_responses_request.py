"""Responses requests as chat completions: what is carried over, what is left out, what is refused by name."""

import pytest

from gateway.translate.responses_request import to_chat
from gateway.translate.tools import Toolbox
from geniehive.errors import InvalidRequest

FUNCTION = {"type": "function", "name": "a", "description": "d", "strict": False, "parameters": {"type": "object"}}


def chat(**body):
    body = {"model": "m", "input": "hi", **body}
    return to_chat(body, Toolbox(body.get("tools")))


def messages(*items, **more):
    return chat(input=list(items), **more)["messages"]


def test_fields_of_both_dialects_keep_their_values_and_unknown_ones_go_through():
    given = {"temperature": 0.5, "top_p": 0.9, "seed": 7, "user": None, "logit_bias": {}}
    assert chat(**given, max_output_tokens=5, stream=True) == {
        "model": "m", "messages": [{"role": "user", "content": "hi"}], **given, "max_tokens": 5, "stream": True,
        "stream_options": {"include_usage": True},
    }  # fmt: skip


def test_what_only_steers_openais_service_is_left_out():
    made = chat(
        store=False, include=["reasoning.encrypted_content"], prompt_cache_key="k", client_metadata={}, metadata={},
        service_tier="auto", truncation="auto", safety_identifier="s", background=False, parallel_tool_calls=True,
    )  # fmt: skip
    assert made == {"model": "m", "messages": [{"role": "user", "content": "hi"}]}


def test_instructions_and_the_first_developer_messages_are_the_system_prompt():
    developer = {"type": "message", "role": "developer", "content": [{"type": "input_text", "text": "Two."}]}
    made = messages(developer, {"role": "user", "content": "hi"}, developer, instructions="One.")
    assert made == [
        {"role": "system", "content": "One.\n\nTwo."},
        {"role": "user", "content": "hi\n\n<system-reminder>\nTwo.\n</system-reminder>"},
    ]


def test_calls_and_their_answers_and_thoughts():
    made = messages(
        {"role": "user", "content": [{"type": "input_text", "text": "go"}]},
        {"type": "reasoning", "summary": [{"type": "summary_text", "text": "hm"}], "encrypted_content": "x"},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Both."}]},
        {"type": "function_call", "call_id": "c1", "name": "a", "arguments": "{}"},
        {"type": "function_call", "call_id": "c2", "name": "a", "namespace": "n", "arguments": "{}"},
        {"type": "custom_tool_call", "call_id": "c3", "name": "patch", "input": "x\ny"},
        {"type": "function_call_output", "call_id": "c1", "output": "one"},
        {
            "type": "function_call_output",
            "call_id": "c2",
            "output": [{"type": "input_text", "text": "two"}, {"type": "input_image", "image_url": "data:x"}],
        },
        {"type": "custom_tool_call_output", "call_id": "c3", "output": "three"},
        {"type": "web_search_call", "status": "completed"},
        tools=[FUNCTION, {"type": "namespace", "name": "n", "tools": [FUNCTION]}, {"type": "custom", "name": "patch"}],
    )
    names = [each["function"] for each in made[1].pop("tool_calls")]
    assert names == [
        {"name": "a", "arguments": "{}"},
        {"name": "n__a", "arguments": "{}"},
        {"name": "patch", "arguments": '{"input":"x\\ny"}'},
    ]
    assert made == [
        {"role": "user", "content": "go"},
        {"role": "assistant", "content": "Both.", "reasoning_content": "hm"},
        {"role": "tool", "tool_call_id": "c1", "content": "one"},
        {"role": "tool", "tool_call_id": "c2", "content": "two"},
        {"role": "tool", "tool_call_id": "c3", "content": "three"},
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:x"}}]},
    ]


def test_tools_that_codex_offers_to_everybody_are_left_out_and_the_others_become_functions():
    tools = [
        FUNCTION,
        {"type": "web_search", "external_web_access": False},
        {"type": "namespace", "name": "n", "tools": []},
    ]
    made = chat(tools=tools, tool_choice="auto", parallel_tool_calls=True)
    kept = {key: value for key, value in FUNCTION.items() if key != "type"}
    assert made["tools"] == [{"type": "function", "function": kept}]
    assert made["tool_choice"] == "auto"
    assert "tool_choice" not in chat(tools=[{"type": "web_search"}], tool_choice="auto")


def test_choices_among_tools():
    choice = {"type": "function", "name": "a"}
    assert chat(tools=[FUNCTION], tool_choice=choice)["tool_choice"]["function"] == {"name": "a"}
    allowed = {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "a"}]}
    made = chat(tools=[FUNCTION, {**FUNCTION, "name": "b"}], tool_choice=allowed)
    assert made["tool_choice"] == "required"
    assert [tool["function"]["name"] for tool in made["tools"]] == ["a"]


def test_structured_output_reasoning_and_logprobs():
    shape = {"type": "json_schema", "name": "n", "schema": {"type": "object"}, "strict": True}
    made = chat(
        text={"format": shape, "verbosity": "low"},
        reasoning={"effort": "minimal", "summary": "auto"},
        include=["message.output_text.logprobs"],
        top_logprobs=2,
    )
    assert made["response_format"]["json_schema"] == {"name": "n", "schema": {"type": "object"}, "strict": True}
    assert made["reasoning_effort"] == "low"
    assert (made["logprobs"], made["top_logprobs"]) == (True, 2)
    assert "chat_template_kwargs" not in chat(reasoning={"effort": "none"})


REFUSED = {
    "tools.0": {"tools": [{"type": "file_search"}]},
    "tools.1.tools.0": {"tools": [FUNCTION, {"type": "namespace", "name": "n", "tools": [{"type": "mcp"}]}]},
    "tool_choice": {"tools": [FUNCTION], "tool_choice": {"type": "web_search"}},
    "background": {"background": True},
    "conversation": {"conversation": "conv_1"},
    "prompt": {"prompt": {"id": "p"}},
    "input": {"input": None},
    "input.0": {"input": [{"type": "computer_call"}]},
    "input.0.role": {"input": [{"role": "owner", "content": ""}]},
    "input.0.content.0": {"input": [{"role": "user", "content": [{"type": "input_file", "file_id": "f"}]}]},
    "input.0.content.0.file_id": {"input": [{"role": "user", "content": [{"type": "input_image", "file_id": "f"}]}]},
    "text.format": {"text": {"format": {"type": "xml"}}},
}


@pytest.mark.parametrize("part", REFUSED)
def test_what_cannot_be_translated_is_refused_by_name(part):
    with pytest.raises(InvalidRequest) as caught:
        chat(**REFUSED[part])
    assert caught.value.param == part
    assert part in caught.value.message
