"""[pure] What an answer tells of its own cost and end: chat completions, Responses and Messages, whole or as events.

A chat completion's prompt counts what was in the cache, as a response's does; a message counts it apart.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from geniehive.routing.receipt import Told

LONGEST_REASON: Final = 64
OPENINGS: Final = frozenset({"response.created", "response.queued", "response.in_progress", "message_start", "ping"})
"""Events of streams whose answer has not begun: until more comes, another engine may be asked."""
ENDS: Final = frozenset({"response.completed", "response.incomplete", "message_stop"})
"""Events behind which nothing follows; they stand for `[DONE]`."""
TELLING: Final = frozenset({"response.completed", "response.incomplete", "message_start", "message_delta"})
"""Events that tell of usage."""

Cost = tuple[int | None, int | None, str | None, int | None]
"""Tokens of the prompt, generated tokens, why it stopped, tokens of the prompt that were in the engine's cache."""
_NO_COST: Final[Cost] = (None, None, None, None)
ABSENT: Final = msgspec.Raw()
"""A value that is not there."""


class Usage(msgspec.Struct, gc=False):
    """What a chat completion cost, as far as it is told."""

    completion_tokens: int | None = None
    prompt_tokens: int | None = None
    prompt_tokens_details: Any = None

    @property
    def cached_tokens(self) -> int | None:
        """Tokens of the prompt that the engine had in its cache."""
        return _cached(self.prompt_tokens_details)


class _Timings(msgspec.Struct):
    """llama.cpp's clock: tokens of the prompt that were cached and read, generated ones, and milliseconds."""

    cache_n: int | None = None
    prompt_n: int | None = None
    prompt_ms: float | None = None
    predicted_n: int | None = None
    predicted_ms: float | None = None


class _TypedUsage(msgspec.Struct):
    """Of a response or a message."""

    input_tokens: int | None = None
    output_tokens: int | None = None
    input_tokens_details: Any = None
    cache_read_input_tokens: int | None = None
    cache_creation_input_tokens: int | None = None


class _Delta(msgspec.Struct):
    stop_reason: Any = None


class _Typed(msgspec.Struct):
    """A response, a message, or an event with one inside."""

    usage: _TypedUsage | None = None
    stop_reason: Any = None
    status: Any = None
    incomplete_details: Any = None
    delta: _Delta | None = None
    response: _Typed | None = None
    message: _Typed | None = None


class _Ended(msgspec.Struct, gc=False):  # as those around it: never part of a cycle
    finish_reason: Any = None


class Body(msgspec.Struct, gc=False):
    """What is read of an answer without a stream, in one go."""

    error: msgspec.Raw = ABSENT
    usage: Usage | None = None
    choices: list[_Ended] | None = None
    object: Any = None
    type: Any = None
    timings: msgspec.Raw = ABSENT


_body_decoder = msgspec.json.Decoder(Body)
_timings_decoder = msgspec.json.Decoder(_Timings)
_typed_decoder = msgspec.json.Decoder(_Typed)


def look(body: bytes) -> Body | None:
    """An answer without a stream, looked at; None if it is no JSON object, or has another shape."""
    try:
        return _body_decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def told_in(body: bytes, seen: Body | None = None) -> Told:
    """What an answer without a stream tells of itself; `seen` is what `look` made of it, if it was looked at."""
    seen = seen or look(body)
    if seen is None:
        return *_NO_COST, None
    if seen.object == "response" or seen.type == "message":
        return timed(told_by_event(body), bytes(seen.timings))
    usage = seen.usage or Usage()
    reason = seen.choices[0].finish_reason if seen.choices else None
    stopped = str(reason)[:LONGEST_REASON] if reason else None
    cached = None if usage.prompt_tokens_details is None else usage.cached_tokens
    if seen.timings is ABSENT:
        return usage.prompt_tokens, usage.completion_tokens, stopped, cached, None
    return timed((usage.prompt_tokens, usage.completion_tokens, stopped, cached), bytes(seen.timings))


def timed(usage: Cost, raw: bytes) -> Told:
    """What usage told, and what llama.cpp's timings add to it; timings of another shape are nobody's."""
    prompt, written, stopped, cached = usage
    try:
        seen = _timings_decoder.decode(raw) if raw else None
    except msgspec.DecodeError:
        seen = None
    if seen is None or seen.prompt_n is None or seen.prompt_ms is None or seen.predicted_ms is None:
        return *usage, None
    if prompt is None:
        prompt, cached = seen.prompt_n + (seen.cache_n or 0), seen.cache_n
    times = (seen.prompt_ms / 1000, seen.predicted_ms / 1000)
    return prompt, seen.predicted_n if written is None else written, stopped, cached, times


def told_by_event(data: bytes) -> Cost:
    """What an event of `TELLING` tells; also a whole response or message."""
    try:
        seen = _typed_decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _NO_COST
    inner = seen.response or seen.message or seen
    usage = inner.usage or _TypedUsage()
    reason = (seen.delta.stop_reason if seen.delta else None) or inner.stop_reason or _why(inner)
    apart = usage.cache_read_input_tokens
    prompt = usage.input_tokens
    if prompt is not None:
        prompt += (apart or 0) + (usage.cache_creation_input_tokens or 0)
    cached = _cached(usage.input_tokens_details) if apart is None else apart
    return prompt, usage.output_tokens, str(reason)[:LONGEST_REASON] if reason else None, cached


def _why(seen: _Typed) -> Any:
    """Why a response ended."""
    details = seen.incomplete_details
    return (details.get("reason") if isinstance(details, dict) else None) or seen.status


def _cached(details: Any) -> int | None:
    cached = details.get("cached_tokens") if isinstance(details, dict) else None
    return cached if type(cached) is int else None
