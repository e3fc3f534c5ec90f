"""Ollama's requests in OpenAI's words."""

import pytest

from gateway.ollama.ask import chat, embed, generate
from geniehive.errors import InvalidRequest
from geniehive.resources import Operation

USER = {"role": "user", "content": "Grüße 👋"}
PNG, JPEG = "iVBORw0KGgoAAA==", "/9j/4AAQSkZJRg=="


def test_a_chat_streams_with_usage_unless_told_otherwise():
    asked = chat({"model": "m", "messages": [USER]})
    assert (asked.kind, asked.path, asked.operation, asked.stream) == (
        "chat",
        "/v1/chat/completions",
        Operation.CHAT,
        True,
    )
    assert asked.fields == {
        "model": "m",
        "messages": [USER],
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    assert chat({"model": "m", "messages": [USER], "stream": False}).fields == {"model": "m", "messages": [USER]}


def test_no_tools_are_none():
    assert "tools" not in chat({"model": "m", "messages": [USER], "tools": []}).fields
    assert chat({"model": "m", "messages": [USER], "tools": [{}]}).fields["tools"] == [{}]


def test_options_get_their_names_in_openais_api_and_those_of_loading_go():
    options = {
        "num_predict": 7,
        "temperature": 0,
        "top_k": 5,
        "min_p": 0.1,
        "repeat_penalty": 1.1,
        "stop": ["a"],
        "seed": 1,
        "num_ctx": 4096,
        "num_gpu": 1,
        "use_mmap": True,
        "mirostat": None,
        "dry_multiplier": 0.5,
    }
    fields = chat({"model": "m", "messages": [USER], "stream": False, "options": options}).fields
    assert {key: fields[key] for key in fields if key not in {"model", "messages"}} == {
        "max_tokens": 7,
        "temperature": 0,
        "top_k": 5,
        "min_p": 0.1,
        "stop": ["a"],
        "seed": 1,
        "dry_multiplier": 0.5,
        "repeat_penalty": 1.1,
        "repetition_penalty": 1.1,
    }
    assert "max_tokens" not in chat({"model": "m", "messages": [USER], "options": {"num_predict": -1}}).fields


def test_unknown_fields_are_kept():
    given = {
        "model": "m",
        "messages": [{**USER, "name": "x", "extra": [None]}],
        "logprobs": True,
        "strange": {"a": None},
    }
    fields = chat(given).fields
    assert (fields["strange"], fields["logprobs"]) == ({"a": None}, True)
    assert fields["messages"] == [{**USER, "name": "x", "extra": [None]}]


def test_images_become_parts_of_their_kind():
    message = {"role": "user", "content": "look", "images": [PNG, JPEG]}
    assert chat({"model": "m", "messages": [message]}).fields["messages"] == [
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "look"},
                {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}},
                {"type": "image_url", "image_url": {"url": f"data:image/jpeg;base64,{JPEG}"}},
            ],
        }
    ]
    fields = generate({"model": "m", "prompt": "", "images": [PNG]}).fields
    assert [part["type"] for part in fields["messages"][0]["content"]] == ["image_url"]


def test_tool_calls_get_ids_and_answers_find_their_call():
    calls = [{"function": {"name": name, "arguments": {"q": "ä", "n": None}}} for name in ("a", "b", "a")]
    history = [
        {"role": "assistant", "content": "", "thinking": "hm", "tool_calls": calls},
        {"role": "tool", "content": "B", "tool_name": "b"},
        {"role": "tool", "content": "A1", "tool_name": "a"},
        {"role": "tool", "content": "A2"},
        {"role": "assistant", "tool_calls": [{"id": "mine", "function": {"name": "c", "arguments": "{}"}}]},
        {"role": "tool", "content": "C", "tool_call_id": "mine"},
    ]
    made = chat({"model": "m", "messages": history}).fields["messages"]
    assert [call["id"] for call in made[0]["tool_calls"]] == ["call_0", "call_1", "call_2"]
    assert made[0]["tool_calls"][0] == {
        "id": "call_0",
        "type": "function",
        "function": {"name": "a", "arguments": '{"q":"ä","n":null}'},
    }
    assert made[0]["reasoning_content"] == "hm"
    assert [message.get("tool_call_id") for message in made] == [None, "call_1", "call_0", "call_2", None, "mine"]
    assert made[4]["tool_calls"][0]["id"] == "mine"
    assert made[4]["content"] == ""


@pytest.mark.parametrize(
    ("wanted", "made"),
    [
        ("", None),
        (None, None),
        ("json", {"type": "json_object"}),
        (
            {"type": "object"},
            {"type": "json_schema", "json_schema": {"name": "answer", "schema": {"type": "object"}, "strict": True}},
        ),
    ],
)
def test_formats_are_structured_output(wanted, made):
    assert chat({"model": "m", "messages": [USER], "format": wanted}).fields.get("response_format") == made


@pytest.mark.parametrize(
    ("think", "enabled", "effort"), [(True, True, None), (False, False, "none"), ("high", True, "high")]
)
def test_thinking_is_asked_for_in_the_words_of_each_engine(think, enabled, effort):
    fields = chat({"model": "m", "messages": [USER], "think": think}).fields
    assert fields["chat_template_kwargs"] == {"enable_thinking": enabled}
    assert (fields["include_reasoning"], fields.get("reasoning_effort")) == (enabled, effort)


def test_generate_is_a_chat_of_one_message_or_a_completion():
    fields = generate({"model": "m", "prompt": "p", "system": "s", "stream": False, "keep_alive": "5m"}).fields
    assert fields == {
        "model": "m",
        "messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "p"}],
    }
    raw = generate({"model": "m", "prompt": "p", "raw": True, "stream": False})
    assert (raw.operation, raw.path, raw.fields) == (
        Operation.COMPLETION,
        "/v1/completions",
        {"model": "m", "prompt": "p"},
    )
    middle = generate({"model": "m", "prompt": "p", "suffix": "s", "stream": False})
    assert middle.fields == {"model": "m", "prompt": "p", "suffix": "s"}


def test_texts_are_embedded_one_or_several_in_either_shape():
    asked = embed({"model": "m", "input": ["a", "b"], "dimensions": 8, "truncate": True, "options": {}})
    assert asked.fields == {"model": "m", "input": ["a", "b"], "dimensions": 8, "encoding_format": "float"}
    assert (asked.path, asked.stream) == ("/v1/embeddings", False)
    assert embed({"model": "m", "prompt": "a"}).fields["input"] == "a"


@pytest.mark.parametrize(
    ("how", "given", "unload"),
    [
        (chat, {}, False),
        (chat, {"messages": [], "keep_alive": 0}, True),
        (generate, {"prompt": ""}, False),
        (generate, {"keep_alive": "0s"}, True),
        (embed, {"input": []}, False),
    ],
)
def test_a_request_without_a_prompt_asks_nothing_of_an_engine(how, given, unload):
    asked = how({"model": "m", **given})
    assert (asked.fields, asked.unload) == (None, unload)


BAD = [
    (chat, {"messages": "hi"}, "messages"),
    (chat, {"messages": ["hi"]}, "messages"),
    (chat, {"messages": [{"role": 7}]}, "messages"),
    (chat, {"messages": [{"role": "user", "images": [7]}]}, "images"),
    (chat, {"messages": [{"role": "assistant", "tool_calls": [{}]}]}, "messages"),
    (chat, {"messages": [{"role": "assistant", "tool_calls": {"a": 1}}]}, "messages"),
    (chat, {"messages": [USER], "options": []}, "options"),
    (chat, {"messages": [USER], "format": "yaml"}, "format"),
    (chat, {"messages": [USER], "think": "hard"}, "think"),
    (generate, {"prompt": "p", "template": "{{ .Prompt }}"}, "template"),
    (generate, {"prompt": "p", "context": [1, 2]}, "context"),
    (generate, {"prompt": ["p"]}, "prompt"),
    (generate, {"prompt": "p", "raw": True, "images": [PNG]}, "images"),
    (embed, {"input": [1]}, "input"),
    (embed, {"input": {}}, "input"),
]


@pytest.mark.parametrize(("how", "given", "part"), BAD)
def test_what_cannot_be_translated_is_named(how, given, part):
    with pytest.raises(InvalidRequest) as caught:
        how({"model": "m", **given})
    assert caught.value.param == part
    assert f"{part}" in caught.value.message


def test_options_cannot_say_what_stands_beside_them():
    given = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "stream": False, "n": 2}
    asked = chat({**given, "options": {"stream": True, "messages": [], "n": 3, "top_k": 1}})
    assert asked.fields == {"model": "m", "messages": given["messages"], "top_k": 1}
    assert asked.stream is False
