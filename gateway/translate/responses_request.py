"""[pure] An OpenAI Responses request as a chat completion.

https://platform.openai.com/docs/api-reference/responses/create. What is about OpenAI's own service (storage tiers,
cache keys, metadata) is left out; what would need it (background, conversations, prompt templates) is refused by
name. Fields that are not OpenAI's go through as they are.
"""

from __future__ import annotations

from typing import Any, Final

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
from gateway.translate.tools import Toolbox, custom_arguments

_LEFT_OUT: Final = frozenset(
    {
        "background", "client_metadata", "context_management", "conversation", "include", "input", "instructions",
        "max_output_tokens", "max_tool_calls", "metadata", "n", "previous_response_id", "prompt", "prompt_cache_key",
        "prompt_cache_retention", "reasoning", "safety_identifier", "service_tier", "store", "stream_options", "text",
        "tool_choice", "tools", "top_logprobs", "truncation",
    }
)  # fmt: skip
_UNKNOWN_HERE: Final = {
    "background": "is not done here: ask with `stream`, and keep the connection",
    "conversation": "is not kept here; send the input whole, or `previous_response_id`",
    "prompt": "is a template that OpenAI keeps; send `instructions` and `input`",
}
_PASSED_OVER: Final = ("web_search_call", "image_generation_call")  # by tools that are left out


def to_chat(body: Json, toolbox: Toolbox) -> Json:
    """The chat completion that asks for the same. Raises InvalidRequest naming the part that cannot be translated."""
    check(body)
    chat = {key: value for key, value in body.items() if key not in _LEFT_OUT}
    chat["messages"] = messages(body, toolbox)
    if body.get("max_output_tokens") is not None:
        chat["max_tokens"] = body["max_output_tokens"]
    if toolbox.functions:
        chat["tools"] = toolbox.functions
    else:
        chat.pop("parallel_tool_calls", None)  # some engines refuse it without tools
    chat |= _tool_choice(body.get("tool_choice"), toolbox)
    chat |= _format(body.get("text"))
    chat |= _reasoning(body)
    chat |= _logprobs(body)
    if body.get("stream") is True:
        chat["stream_options"] = {"include_usage": True}
    return chat


def check(body: Json) -> None:
    """Raises InvalidRequest for what no engine here does, translated or not."""
    for key, why in _UNKNOWN_HERE.items():
        if body.get(key):
            raise refuse(key, why)
    if body.get("input") is None:
        raise refuse("input", "is missing")


def messages(body: Json, toolbox: Toolbox) -> list[Json]:
    """`instructions` and `input` as chat messages."""
    conversation = Conversation()
    if body.get("instructions") is not None:
        conversation.instruct(_instructions(body["instructions"]))
    given = body.get("input")
    if isinstance(given, str):
        conversation.user([text_part(given)])
        return conversation.messages()
    for at, item in enumerate(list_at(given, "input")):
        _item(conversation, object_at(item, f"input.{at}"), f"input.{at}", toolbox)
    return conversation.messages()


def _instructions(given: Any) -> str:
    return given if isinstance(given, str) else _texts(given, "instructions")


def _item(conversation: Conversation, item: Json, path: str, toolbox: Toolbox) -> None:
    kind = item.get("type") or ("message" if "role" in item else None)
    if kind == "message":
        _message(conversation, item, path)
    elif kind in ("function_call", "custom_tool_call"):
        namespace = item.get("namespace")
        name = text_at(item.get("name"), f"{path}.name")
        name = toolbox.name_of(name, namespace if isinstance(namespace, str) else "")
        if kind == "function_call":
            arguments = text_at(item.get("arguments"), f"{path}.arguments")
        else:
            arguments = custom_arguments(text_at(item.get("input"), f"{path}.input"))
        conversation.call(text_at(item.get("call_id"), f"{path}.call_id"), name, arguments)
    elif kind in ("function_call_output", "custom_tool_call_output"):
        text, pictures = _output(item.get("output"), f"{path}.output")
        conversation.tool(text_at(item.get("call_id"), f"{path}.call_id"), text, pictures)
    elif kind == "reasoning":
        conversation.assistant(thought=_thought(item))
    elif kind not in _PASSED_OVER:
        raise refuse(path, f"is an item of type {ascii(kind)[:64]}, which engines with chat completions do not take")


def _message(conversation: Conversation, item: Json, path: str) -> None:
    role, content = item.get("role"), item.get("content")
    if role in ("system", "developer"):
        conversation.instruct(_texts(content, f"{path}.content"))
    elif role == "user":
        parts = [text_part(content)] if isinstance(content, str) else _parts(content, f"{path}.content")
        conversation.user(parts)
    elif role == "assistant":
        if isinstance(content, str):
            conversation.assistant(content)
            return
        for at, part in enumerate(list_at(content, f"{path}.content")):
            part = object_at(part, f"{path}.content.{at}")  # noqa: PLW2901 - the same, checked
            if part.get("type") == "refusal":
                conversation.assistant(refusal=text_at(part.get("refusal"), f"{path}.content.{at}.refusal"))
            else:
                conversation.assistant(_text(part, f"{path}.content.{at}"))
    else:
        raise refuse(f"{path}.role", "must be user, assistant, system or developer")


def _parts(content: Any, path: str) -> list[Json]:
    made = []
    for at, part in enumerate(list_at(content, path)):
        where = f"{path}.{at}"
        part = object_at(part, where)  # noqa: PLW2901 - the same, checked
        kind = part.get("type")
        if kind == "input_image":
            made.append(image_part(_image(part, where), part.get("detail")))
        elif kind == "input_audio":
            made.append({"type": "input_audio", "input_audio": object_at(part.get("input_audio"), where)})
        elif kind == "input_file":
            made.append(_file(part, where))
        else:
            made.append(text_part(_text(part, where)))
    return made


def _image(part: Json, path: str) -> str:
    if not part.get("image_url"):
        raise refuse(f"{path}.file_id", "is a file at OpenAI; send the picture as `image_url`")
    return text_at(part["image_url"], f"{path}.image_url")


def _file(part: Json, path: str) -> Json:
    if not isinstance(part.get("file_data"), str):
        raise refuse(path, "is a file that OpenAI would fetch; send it as `file_data`")
    kept = {key: part[key] for key in ("filename", "file_data") if key in part}
    return {"type": "file", "file": kept}


def _text(part: Json, path: str) -> str:
    if part.get("type") not in ("input_text", "output_text", "text", "summary_text", "reasoning_text"):
        raise refuse(
            path, f"is of type {ascii(part.get('type'))[:64]}, which engines with chat completions do not take"
        )
    return text_at(part.get("text"), f"{path}.text")


def _texts(content: Any, path: str) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    parts = [object_at(part, f"{path}.{at}") for at, part in enumerate(list_at(content, path))]
    return "\n\n".join(_text(part, f"{path}.{at}") for at, part in enumerate(parts))


def _output(output: Any, path: str) -> tuple[str, list[Json]]:
    """What a tool answered: its text, and its pictures."""
    if isinstance(output, str):
        return output, []
    parts = _parts(output, path)
    texts = [part["text"] for part in parts if part["type"] == "text"]
    return "\n".join(texts), [part for part in parts if part["type"] != "text"]


def _thought(item: Json) -> str:
    """The text of a reasoning item, or its summary; what is encrypted only OpenAI can read."""
    for key in ("content", "summary"):
        parts = item.get(key)
        if isinstance(parts, list):
            texts = [part["text"] for part in parts if isinstance(part, dict) and isinstance(part.get("text"), str)]
            if texts:
                return "\n\n".join(texts)
    return ""


def _tool_choice(choice: Any, toolbox: Toolbox) -> Json:
    if choice is None or not toolbox.functions:
        if choice == "required" or (isinstance(choice, dict) and choice.get("mode") == "required"):
            raise refuse("tool_choice", "demands a tool, and there is none that an engine here has")
        return {}
    if isinstance(choice, str):
        return {"tool_choice": choice}
    choice = object_at(choice, "tool_choice")
    if choice.get("type") in ("function", "custom"):
        name = toolbox.name_of(text_at(choice.get("name"), "tool_choice.name"))
        return {"tool_choice": {"type": "function", "function": {"name": name}}}
    if choice.get("type") == "allowed_tools":
        return {"tool_choice": choice.get("mode", "auto"), "tools": toolbox.only(choice.get("tools"))}
    raise refuse("tool_choice", f"demands {ascii(choice.get('type'))[:64]}, a tool that no engine here has")


def _format(text: Any) -> Json:
    wanted = text.get("format") if isinstance(text, dict) else None
    if not isinstance(wanted, dict) or wanted.get("type") in (None, "text"):
        return {}
    if wanted["type"] == "json_object":
        return {"response_format": {"type": "json_object"}}
    if wanted["type"] == "json_schema":
        schema = object_at(wanted.get("schema"), "text.format.schema")
        return {"response_format": json_schema(schema, wanted.get("name"), strict=wanted.get("strict", True))}
    raise refuse("text.format", "must be of type text, json_object or json_schema")


def _reasoning(body: Json) -> Json:
    """How hard to think; whoever speaks of reasoning at all wants the model to think, but for effort "none"."""
    reasoning = body.get("reasoning")
    if not isinstance(reasoning, dict):
        return {}
    word = effort(reasoning.get("effort"))
    made: Json = {"reasoning_effort": word} if word else {}
    if word != "none":
        given = body.get("chat_template_kwargs")
        made["chat_template_kwargs"] = {"enable_thinking": True, **(given if isinstance(given, dict) else {})}
    return made


def _logprobs(body: Json) -> Json:
    include = body.get("include")
    asked = isinstance(include, list) and "message.output_text.logprobs" in include
    if not asked and not body.get("top_logprobs"):
        return {}
    return {"logprobs": True, **({"top_logprobs": body["top_logprobs"]} if body.get("top_logprobs") else {})}
