"""[pure] An Anthropic Messages request as a chat completion.

https://platform.claude.com/docs/en/api/messages/create. What only steers Anthropic's own service (cache marks,
service tiers, context editing, metadata) is left out. What has a meaning that a chat completion cannot carry is
refused by name. Fields that are not Anthropic's (`seed`, `min_p`, …) go through as they are.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from gateway.translate.parts import (
    Conversation,
    Json,
    effort,
    image_part,
    json_schema,
    list_at,
    object_at,
    refuse,
    text_at,
    text_part,
)

_LEFT_OUT: Final = frozenset(
    {
        "cache_control", "container", "context_management", "inference_geo", "mcp_servers", "messages", "metadata", "n",
        "output_config", "output_format", "service_tier", "speed", "stop_sequences", "system", "thinking",
        "tool_choice", "tools",
    }
)  # fmt: skip
_THINKS: Final = ("enabled", "adaptive")  # as elsewhere: what a client sends may have no hash
_SERVER_TOOL: Final = "is a tool that runs at Anthropic; no engine here has it. Give tools with an `input_schema`"


def to_chat(body: Json) -> Json:
    """The chat completion that asks for the same. Raises InvalidRequest naming the part that cannot be translated."""
    chat = {key: value for key, value in body.items() if key not in _LEFT_OUT}
    if list_at(body.get("mcp_servers"), "mcp_servers"):
        raise refuse("mcp_servers", "are reached by Anthropic's own service; connect to them from the client")
    if body.get("container"):
        raise refuse("container", "runs at Anthropic; no engine here has one")
    chat["messages"] = messages(body)
    if stops := list_at(body.get("stop_sequences"), "stop_sequences"):
        chat["stop"] = stops
    if tools := [_tool(tool, f"tools.{at}") for at, tool in enumerate(list_at(body.get("tools"), "tools"))]:
        chat["tools"] = tools
    if body.get("tool_choice") is not None:
        chat |= _tool_choice(object_at(body["tool_choice"], "tool_choice"))
    if thinks(body):
        chat["chat_template_kwargs"] = {"enable_thinking": True, **_kwargs(body)}
    chat |= _output(body)
    if body.get("stream") is True:
        chat["stream_options"] = {"include_usage": True}
    return chat


def thinks(body: Json) -> bool:
    """Whether the client asked the model to think, and so expects its thoughts."""
    thinking = body.get("thinking")
    return isinstance(thinking, dict) and thinking.get("type") in _THINKS


def messages(body: Json) -> list[Json]:
    """`system` and `messages` as chat messages."""
    conversation = Conversation()
    conversation.instruct(_texts(body.get("system"), "system"))
    given = body.get("messages")
    if not isinstance(given, list):
        raise refuse("messages", "is missing" if given is None else "must be a list")
    for at, message in enumerate(given):
        path = f"messages.{at}"
        message = object_at(message, path)  # noqa: PLW2901 - the same, checked
        role, content = message.get("role"), message.get("content")
        if role == "user":
            _user(conversation, content, f"{path}.content")
        elif role == "assistant":
            _assistant(conversation, content, f"{path}.content")
        elif role == "system":
            conversation.instruct(_texts(content, f"{path}.content"))
        else:
            raise refuse(f"{path}.role", "must be user, assistant or system")
    return conversation.messages()


def _kwargs(body: Json) -> Json:
    given = body.get("chat_template_kwargs")
    return given if isinstance(given, dict) else {}


def _texts(content: Any, path: str) -> str:
    """A text, or blocks of text."""
    if content is None or isinstance(content, str):
        return content or ""
    found = []
    for at, block in enumerate(list_at(content, path)):
        block = object_at(block, f"{path}.{at}")  # noqa: PLW2901 - the same, checked
        if block.get("type") != "text":
            raise refuse(f"{path}.{at}", f"is of type {_shown(block.get('type'))}; only text can stand here")
        found.append(text_at(block.get("text"), f"{path}.{at}.text"))
    return "\n\n".join(text for text in found if text)


def _user(conversation: Conversation, content: Any, path: str) -> None:
    """A turn of the user: the answers of tools first, which belong to the calls just before."""
    if isinstance(content, str):
        conversation.user([text_part(content)])
        return
    parts: list[Json] = []
    for at, block in enumerate(list_at(content, path)):
        block = object_at(block, f"{path}.{at}")  # noqa: PLW2901 - the same, checked
        if block.get("type") == "tool_result":
            conversation.tool(*_tool_result(block, f"{path}.{at}"))
        else:
            parts += _block(block, f"{path}.{at}")
    conversation.user(parts)


def _tool_result(block: Json, path: str) -> tuple[str, str, list[Json]]:
    content = block.get("content")
    call_id = text_at(block.get("tool_use_id"), f"{path}.tool_use_id")
    if content is None or isinstance(content, str):
        return call_id, content or ("error" if block.get("is_error") is True else ""), []
    texts: list[str] = []
    pictures: list[Json] = []
    for at, each in enumerate(list_at(content, f"{path}.content")):
        for part in _block(object_at(each, f"{path}.content.{at}"), f"{path}.content.{at}"):
            if part["type"] == "text":
                texts.append(part["text"])
            else:
                pictures.append(part)
    return call_id, "\n".join(texts), pictures


def _block(block: Json, path: str) -> list[Json]:
    """A block of the user, or of a tool's answer, as parts."""
    kind = block.get("type")
    if kind == "text":
        return [text_part(text_at(block.get("text"), f"{path}.text"))]
    if kind == "image":
        return [image_part(_image_url(object_at(block.get("source"), f"{path}.source"), f"{path}.source"))]
    if kind == "document":
        return _document(block, path)
    raise refuse(path, f"is a block of type {_shown(kind)}, which engines with chat completions alone do not take")


def _image_url(source: Json, path: str) -> str:
    kind = source.get("type")
    if kind == "base64":
        return f"data:{text_at(source.get('media_type'), f'{path}.media_type')};base64,{source.get('data', '')}"
    if kind == "url":
        return text_at(source.get("url"), f"{path}.url")
    raise refuse(path, f"is of type {_shown(kind)}; send the picture as base64 or url")


def _document(block: Json, path: str) -> list[Json]:
    source = object_at(block.get("source"), f"{path}.source")
    head = [block[key] for key in ("title", "context") if isinstance(block.get(key), str) and block[key]]
    if source.get("type") == "text":
        return [text_part("\n\n".join([*head, text_at(source.get("data"), f"{path}.source.data")]))]
    if source.get("type") == "content":
        content = source.get("content")
        inner = [text_part(content)] if isinstance(content, str) else []
        for at, each in enumerate(content if isinstance(content, list) else ()):
            inner += _block(object_at(each, f"{path}.source.content.{at}"), f"{path}.source.content.{at}")
        return [*map(text_part, head), *inner]
    raise refuse(f"{path}.source", f"is of type {_shown(source.get('type'))}; documents are read as text alone")


def _assistant(conversation: Conversation, content: Any, path: str) -> None:
    if isinstance(content, str):
        conversation.assistant(content)
        return
    for at, block in enumerate(list_at(content, path)):
        block = object_at(block, f"{path}.{at}")  # noqa: PLW2901 - the same, checked
        kind = block.get("type")
        if kind == "text":
            conversation.assistant(text_at(block.get("text"), f"{path}.{at}.text"))
        elif kind == "thinking":
            conversation.assistant(thought=text_at(block.get("thinking"), f"{path}.{at}.thinking"))
        elif kind == "tool_use":
            arguments = msgspec.json.encode(object_at(block.get("input"), f"{path}.{at}.input")).decode()
            name = text_at(block.get("name"), f"{path}.{at}.name")
            conversation.call(text_at(block.get("id"), f"{path}.{at}.id"), name, arguments)
        elif kind != "redacted_thinking":  # which nobody but Anthropic can read
            raise refuse(f"{path}.{at}", f"is a block of type {_shown(kind)}; only Anthropic's own service makes those")


def _tool(tool: Any, path: str) -> Json:
    tool = object_at(tool, path)
    if tool.get("type") not in (None, "custom"):
        raise refuse(path, f"({_shown(tool['type'])}) {_SERVER_TOOL}")
    function: Json = {"name": text_at(tool.get("name"), f"{path}.name")}
    if tool.get("description"):
        function["description"] = tool["description"]
    function["parameters"] = object_at(tool.get("input_schema"), f"{path}.input_schema")
    if isinstance(tool.get("strict"), bool):
        function["strict"] = tool["strict"]
    return {"type": "function", "function": function}


def _tool_choice(choice: Json) -> Json:
    kind = choice.get("type")
    made: Json = {"parallel_tool_calls": False} if choice.get("disable_parallel_tool_use") is True else {}
    if kind == "tool":
        name = text_at(choice.get("name"), "tool_choice.name")
        return {**made, "tool_choice": {"type": "function", "function": {"name": name}}}
    words = {"auto": "auto", "any": "required", "none": "none"}
    if not isinstance(kind, str) or kind not in words:
        raise refuse("tool_choice.type", "must be auto, any, tool or none")
    return {**made, "tool_choice": words[kind]}


def _output(body: Json) -> Json:
    """`output_config`, and `output_format` from before it."""
    config = body.get("output_config")
    config = config if isinstance(config, dict) else {}
    made: Json = {}
    if thinks(body) and (word := effort(config.get("effort"))):
        made["reasoning_effort"] = word
    wanted = config.get("format") or body.get("output_format")
    if isinstance(wanted, dict):
        if wanted.get("type") != "json_schema":
            raise refuse("output_config.format", "must be of type json_schema")
        made["response_format"] = json_schema(object_at(wanted.get("schema"), "output_config.format.schema"))
    return made


def _shown(kind: Any) -> str:
    return ascii(kind)[:64]
