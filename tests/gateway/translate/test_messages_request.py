"""Messages requests as chat completions: what is carried over, what is left out, what is refused by name."""

import pytest

from gateway.translate.messages_answer import answer
from gateway.translate.messages_request import to_chat
from geniehive.errors import InvalidRequest
from tests.gateway.translate.reading import counted, fixture

SCHEMA = {"type": "object", "properties": {"x": {"type": "integer"}}}
USER = [{"role": "user", "content": "hi"}]


def chat(**body):
    return to_chat({"model": "m", "max_tokens": 9, "messages": USER, **body})


def messages(*turns, **more):
    return chat(messages=list(turns), **more)["messages"]


def test_fields_of_both_dialects_keep_their_values_and_unknown_ones_go_through():
    given = {"temperature": 0.5, "top_p": 0.9, "top_k": 3, "seed": 7, "min_p": None, "logit_bias": []}
    made = chat(**given, stop_sequences=["A", "B"], stream=True)
    assert made == {
        "model": "m", "max_tokens": 9, "messages": USER, **given, "stop": ["A", "B"], "stream": True,
        "stream_options": {"include_usage": True},
    }  # fmt: skip


def test_what_only_steers_anthropics_service_is_left_out():
    made = chat(
        metadata={"user_id": "u"},
        service_tier="auto",
        context_management={"edits": []},
        cache_control={},
        mcp_servers=[],
    )
    assert made == {"model": "m", "max_tokens": 9, "messages": USER}


def test_system_stands_in_either_place():
    blocks = [
        {"type": "text", "text": "One.", "cache_control": {"type": "ephemeral"}},
        {"type": "text", "text": "Two."},
    ]
    assert messages(*USER, system="One.")[0] == {"role": "system", "content": "One."}
    assert messages(*USER, system=blocks)[0] == {"role": "system", "content": "One.\n\nTwo."}
    first = {"role": "system", "content": [{"type": "text", "text": "Three."}]}
    assert messages(first, *USER, system="One.")[0] == {"role": "system", "content": "One.\n\nThree."}


def test_a_system_message_between_turns_joins_the_users_turn_since_many_templates_refuse_a_second_one():
    made = messages(*USER, {"role": "system", "content": "Be brief."}, {"role": "assistant", "content": "ok"})
    assert made == [
        {"role": "user", "content": "hi\n\n<system-reminder>\nBe brief.\n</system-reminder>"},
        {"role": "assistant", "content": "ok"},
    ]


def test_turns_of_one_speaker_become_one_message():
    made = messages(*USER, *USER, {"role": "assistant", "content": "a"}, {"role": "assistant", "content": "b"})
    assert made == [{"role": "user", "content": "hi\n\nhi"}, {"role": "assistant", "content": "ab"}]


def test_calls_and_their_answers():
    made = messages(
        *USER,
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "hm", "signature": "s"},
                {"type": "redacted_thinking", "data": "x"},
                {"type": "text", "text": "Both."},
                {"type": "tool_use", "id": "c1", "name": "a", "input": {"ä": 1}},
                {"type": "tool_use", "id": "c2", "name": "b", "input": {}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "look"},
                {"type": "tool_result", "tool_use_id": "c1", "content": "one"},
                {
                    "type": "tool_result",
                    "tool_use_id": "c2",
                    "content": [
                        {"type": "text", "text": "two"},
                        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AA"}},
                    ],
                },
            ],
        },
    )
    calls = [
        {"id": "c1", "type": "function", "function": {"name": "a", "arguments": '{"ä":1}'}},
        {"id": "c2", "type": "function", "function": {"name": "b", "arguments": "{}"}},
    ]
    assert made[1:] == [
        {"role": "assistant", "content": "Both.", "reasoning_content": "hm", "tool_calls": calls},
        {"role": "tool", "tool_call_id": "c1", "content": "one"},
        {"role": "tool", "tool_call_id": "c2", "content": "two"},
        {
            "role": "user",
            "content": [
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA"}},
                {"type": "text", "text": "look"},
            ],
        },
    ]


def test_tools_and_the_choice_among_them():
    made = chat(
        tools=[{"name": "a", "description": "d", "input_schema": SCHEMA, "cache_control": {}, "defer_loading": True}],
        tool_choice={"type": "any", "disable_parallel_tool_use": True},
    )
    assert made["tools"] == [{"type": "function", "function": {"name": "a", "description": "d", "parameters": SCHEMA}}]
    assert made["tool_choice"] == "required"
    assert made["parallel_tool_calls"] is False
    assert chat(tool_choice={"type": "tool", "name": "a"})["tool_choice"]["function"] == {"name": "a"}
    assert chat(tool_choice={"type": "none"})["tool_choice"] == "none"


def test_thinking_and_structured_output():
    shape = {"type": "json_schema", "schema": SCHEMA}
    made = chat(thinking={"type": "adaptive"}, output_config={"effort": "max", "format": shape})
    assert made["chat_template_kwargs"] == {"enable_thinking": True}
    assert made["reasoning_effort"] == "high"
    assert made["response_format"]["json_schema"] == {"name": "answer", "schema": SCHEMA, "strict": True}
    assert "reasoning_effort" not in chat(thinking={"type": "disabled"}, output_config={"effort": "high"})


REFUSED = {
    "tools.1": {
        "tools": [{"name": "a", "input_schema": SCHEMA}, {"type": "web_search_20250305", "name": "web_search"}]
    },
    "mcp_servers": {"mcp_servers": [{"url": "https://x"}]},
    "container": {"container": "c"},
    "messages.0.content.0": {"messages": [{"role": "assistant", "content": [{"type": "server_tool_use"}]}]},
    "messages.0.content.1": {
        "messages": [{"role": "user", "content": [{"type": "text", "text": ""}, {"type": "search_result"}]}]
    },
    "messages.0.content.0.source": {
        "messages": [{"role": "user", "content": [{"type": "document", "source": {"type": "base64"}}]}]
    },
    "messages.0.role": {"messages": [{"role": "owner", "content": ""}]},
    "messages.0": {"messages": ["hi"]},
    "system.0": {"system": [{"type": "image"}]},
    "tool_choice.type": {"tool_choice": {"type": "some"}},
    "output_config.format": {"output_config": {"format": {"type": "xml"}}},
    "tools.0.input_schema": {"tools": [{"name": "a"}]},
}


@pytest.mark.parametrize("part", REFUSED)
def test_what_cannot_be_translated_is_refused_by_name(part):
    with pytest.raises(InvalidRequest) as caught:
        chat(**REFUSED[part])
    assert caught.value.param == part
    assert part in caught.value.message


def test_a_recorded_answer_becomes_the_message_that_llama_cpp_itself_makes():
    import json

    made = json.loads(answer(fixture("llamacpp/same_chat.json"), "msg_1", counted(), thoughts=True))
    own = json.loads(fixture("llamacpp/same_messages.json"))
    assert made | {"id": "", "usage": {}} == own | {"id": "", "usage": {}}
    assert made["usage"].keys() >= own["usage"].keys()


def test_arguments_that_are_no_object_are_kept_as_text():
    import json

    body = {"choices": [{"message": {"tool_calls": [{"function": {"name": "a", "arguments": '{"x'}}]}}]}
    made = json.loads(answer(json.dumps(body).encode(), "msg_1", counted(), thoughts=True))
    assert made["content"] == [{"type": "tool_use", "id": "toolu_1", "name": "a", "input": {"arguments": '{"x'}}]
