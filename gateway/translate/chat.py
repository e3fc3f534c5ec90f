"""[pure] Chat completions as engines answer them, read leniently: what translation needs of a body or a chunk.

Reasoning is `reasoning_content` (llama.cpp, SGLang) or `reasoning` (vLLM, Ollama). Arguments of a call are a text at
most engines, an object at some.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import msgspec

from gateway.sse import Unreadable


class _Function(msgspec.Struct):
    name: str | None = None
    arguments: Any = None


class _Call(msgspec.Struct):
    index: int | None = None
    id: str | None = None
    function: _Function | None = None


class _Said(msgspec.Struct):
    content: Any = None
    reasoning_content: Any = None
    reasoning: Any = None
    refusal: Any = None
    tool_calls: list[_Call] | None = None


class _Choice(msgspec.Struct):
    index: int = 0
    delta: _Said | None = None
    message: _Said | None = None
    finish_reason: str | None = None
    stop_reason: Any = None
    logprobs: Any = None


class _Usage(msgspec.Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: Any = None
    completion_tokens_details: Any = None


class _Answer(msgspec.Struct):
    model: Any = None
    choices: list[_Choice] | None = None
    usage: _Usage | None = None


class Usage(NamedTuple):
    """Tokens; `cached` of the prompt were in the engine's cache, `reasoning` of the answer were thoughts."""

    prompt: int = 0
    completion: int = 0
    cached: int = 0
    reasoning: int = 0


class Call(NamedTuple):
    """A tool call, or a piece of one: `number` says which of the answer's calls."""

    number: int | None
    call_id: str
    name: str
    arguments: str


class Said(NamedTuple):
    """What an answer or one chunk of it says; empty is nothing."""

    text: str = ""
    thought: str = ""
    refusal: str = ""
    calls: tuple[Call, ...] = ()
    logprobs: tuple[Any, ...] = ()
    finish: str = ""
    stop_sequence: str | None = None
    """What ended the answer, where the engine names it."""
    usage: Usage | None = None
    model: str = ""


NOTHING: Final = Said()
_decoder = msgspec.json.Decoder(_Answer)


def read(data: bytes) -> Said:
    """A chat completion, or a chunk of one. Raises Unreadable for anything else."""
    try:
        seen = _decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise Unreadable("the engine's answer is not a chat completion; is its endpoint right?") from None
    usage = None if seen.usage is None else _usage(seen.usage)
    model = seen.model if isinstance(seen.model, str) else ""
    choice = next((each for each in seen.choices or () if each.index == 0), None)
    if choice is None:
        return Said(usage=usage, model=model)
    said = choice.delta or choice.message or _Said()
    return Said(
        _text(said.content),
        _text(said.reasoning_content) or _text(said.reasoning),
        _text(said.refusal),
        tuple(_call(each) for each in said.tool_calls or ()),
        _logprobs(choice.logprobs),
        choice.finish_reason or "",
        choice.stop_reason if isinstance(choice.stop_reason, str) else None,
        usage,
        model,
    )


def _text(value: Any) -> str:
    """A text, or the texts of parts."""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return "".join(part["text"] for part in value if isinstance(part, dict) and isinstance(part.get("text"), str))
    return ""


def _call(call: _Call) -> Call:
    function = call.function or _Function()
    arguments = function.arguments
    if arguments is None:
        arguments = ""
    elif not isinstance(arguments, str):
        arguments = msgspec.json.encode(arguments).decode()
    return Call(call.index, call.id or "", function.name or "", arguments)


def _logprobs(value: Any) -> tuple[Any, ...]:
    content = value.get("content") if isinstance(value, dict) else None
    return tuple(content) if isinstance(content, list) else ()


def _usage(usage: _Usage) -> Usage:
    return Usage(
        usage.prompt_tokens or 0,
        usage.completion_tokens or 0,
        _detail(usage.prompt_tokens_details, "cached_tokens"),
        _detail(usage.completion_tokens_details, "reasoning_tokens"),
    )


def _detail(details: Any, name: str) -> int:
    value = details.get(name) if isinstance(details, Mapping) else None
    return value if type(value) is int else 0
