"""[pure] A chat completion as an OpenAI response, whole.

https://platform.openai.com/docs/api-reference/responses/object. Also what the stream of one is made of: the items,
and the response around them, which repeats what was asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import msgspec

from gateway.translate.chat import Said, Usage, read
from gateway.translate.parts import Json
from gateway.translate.tools import Toolbox, custom_input

_REPEATED: Final[Json] = {
    "instructions": None,
    "max_output_tokens": None,
    "max_tool_calls": None,
    "metadata": {},
    "parallel_tool_calls": True,
    "previous_response_id": None,
    "prompt_cache_key": None,
    "safety_identifier": None,
    "service_tier": "default",
    "temperature": 1.0,
    "tool_choice": "auto",
    "tools": [],
    "top_logprobs": 0,
    "top_p": 1.0,
    "truncation": "disabled",
    "user": None,
}
"""Fields of the request that a response repeats, and what OpenAI says where they were not given."""
_INCOMPLETE: Final = {"length": "max_output_tokens", "content_filter": "content_filter"}


class Frame:
    """The response around the items: what was asked for, and the ids. `created` in Unix seconds."""

    def __init__(
        self, body: Json, response_id: str, created: int, new_id: Callable[[str], str], toolbox: Toolbox
    ) -> None:
        self.response_id = response_id
        """Of the response."""
        self.new_id = new_id
        self.toolbox = toolbox
        text, reasoning = body.get("text"), body.get("reasoning")
        self._fixed: Json = {
            "id": response_id,
            "object": "response",
            "created_at": created,
            **{key: body[key] if body.get(key) is not None else value for key, value in _REPEATED.items()},
            "background": False,
            "reasoning": {"effort": None, "summary": None, **(reasoning if isinstance(reasoning, dict) else {})},
            "store": body.get("store") is not False,
            "text": {"format": {"type": "text"}, **(text if isinstance(text, dict) else {})},
        }

    def response(self, status: str, model: str, output: list[Json], usage: Usage | None = None) -> Json:
        """The response as it is now; `status` may be a finish reason of a chat completion that is none of success."""
        reason = _INCOMPLETE.get(status)
        return {
            **self._fixed,
            "status": "incomplete" if reason else status,
            "error": None,
            "incomplete_details": {"reason": reason} if reason else None,
            "model": model,
            "output": output,
            "usage": None if usage is None else _usage(usage),
        }

    def call_item(self, item_id: str, call_id: str, function: str, arguments: str, status: str) -> Json:
        """A tool call, in the words of the tool that it calls."""
        origin = self.toolbox.origin(function)
        kind = "custom_tool_call" if origin.custom else "function_call"
        item: Json = {"id": item_id, "type": kind, "status": status, "call_id": call_id, "name": origin.name}
        item["input" if origin.custom else "arguments"] = custom_input(arguments) if origin.custom else arguments
        return {**item, "namespace": origin.namespace} if origin.namespace else item


def answer(body: bytes, frame: Frame) -> bytes:
    """A whole response. Raises UpstreamUnavailable if the body is no chat completion."""
    said = read(body)
    output: list[Json] = []
    if said.thought:
        output.append(reasoning_item(frame.new_id("rs"), said.thought, "completed"))
    content = message_content(said.text, said.refusal, said.logprobs)
    if content or not said.calls:
        output.append(message_item(frame.new_id("msg"), content, "completed"))
    for call in said.calls:
        call_id = call.call_id or frame.new_id("call")
        output.append(frame.call_item(frame.new_id("fc"), call_id, call.name, call.arguments or "{}", "completed"))
    return msgspec.json.encode(frame.response(ended(said), said.model, output, said.usage or Usage()))


def ended(said: Said) -> str:
    """The status of a response: "completed", or the finish reason that made it incomplete."""
    return said.finish if said.finish in _INCOMPLETE else "completed"


def message_item(item_id: str, content: list[Json], status: str) -> Json:
    """What the model says."""
    return {"id": item_id, "type": "message", "status": status, "role": "assistant", "content": content}


def message_content(text: str, refusal: str, logprobs: tuple[Any, ...] = ()) -> list[Json]:
    """The parts of a message: its text, and its refusal."""
    content = [text_content(text, logprobs)] if text else []
    return [*content, {"type": "refusal", "refusal": refusal}] if refusal else content


def text_content(text: str, logprobs: tuple[Any, ...] | list[Any] = ()) -> Json:
    """A text of a message."""
    return {"type": "output_text", "annotations": [], "logprobs": list(logprobs), "text": text}


def reasoning_item(item_id: str, thought: str, status: str) -> Json:
    """What the model thinks."""
    content = [{"type": "reasoning_text", "text": thought}] if thought else []
    return {"id": item_id, "type": "reasoning", "status": status, "summary": [], "content": content}


def _usage(usage: Usage) -> Json:
    return {
        "input_tokens": usage.prompt,
        "input_tokens_details": {"cached_tokens": usage.cached},
        "output_tokens": usage.completion,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning},
        "total_tokens": usage.prompt + usage.completion,
    }
