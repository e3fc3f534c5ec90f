"""[pure] Answers of OpenAI's API in Ollama's words: whole ones, and streams of a JSON object a line.

Times are nanoseconds. They are the engine's own where it tells them (llama.cpp's `timings`), else what was seen here,
and left out where neither knows. A stream ends with `done: true` only if the engine came to its end; one that breaks
ends with a line that has `error`. One that was cut and went on elsewhere says so at its end, in `geniehive_resumed`:
a line of JSON takes no comment.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NamedTuple

import msgspec

from gateway.errors import message_in
from gateway.resume_sent import RESUMED
from gateway.sse import data_of, split_events
from geniehive.errors import GenieHiveError, UpstreamUnavailable

Json = dict[str, Any]

LINES: Final = "application/x-ndjson"
"""Media type of a stream. Nothing keeps a client waiting in it: an empty line is no JSON."""
_REASONING: Final = ("reasoning_content", "reasoning")


class Clock(NamedTuple):
    """`elapsed_s` is how long the request has taken so far, `today` the time of day as RFC 3339 writes it."""

    elapsed_s: Callable[[], float]
    today: Callable[[], str]


def whole(kind: str, model: str, body: bytes, clock: Clock) -> bytes:
    """An answer to chat or generate. Raises UpstreamUnavailable for what is no completion."""
    answer = _object(body)
    choices = answer.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], dict) else None
    if choice is None:
        raise UpstreamUnavailable("the engine's answer has no choices")
    message = choice.get("message")
    said = message if isinstance(message, dict) else {"content": choice.get("text")}
    calls = [_call(call, place) for place, call in enumerate(_listed(said.get("tool_calls")))]
    line = _line(kind, model, clock, _words(said.get("content")), _thought(said), calls)
    if probabilities := _probabilities(choice):
        line["logprobs"] = probabilities
    return msgspec.json.encode({**line, **_last(choice.get("finish_reason"), answer, clock, None)})


def embeddings(model: str, body: bytes, clock: Clock, *, one: bool) -> bytes:
    """An answer to embed; `one` is the older shape, for one text."""
    answer = _object(body)
    found = answer.get("data")
    rows = [row for row in found if isinstance(row, dict)] if isinstance(found, list) else []
    vectors = [row.get("embedding") for row in sorted(rows, key=_index)]
    if not all(isinstance(vector, list) for vector in vectors):
        raise UpstreamUnavailable("the engine's answer has no embeddings")
    if one:
        return msgspec.json.encode({"embedding": vectors[0] if vectors else []})
    told = {"model": model, "embeddings": vectors, "total_duration": _ns(clock.elapsed_s())}
    usage = answer.get("usage")
    if isinstance(usage, dict) and type(usage.get("prompt_tokens")) is int:
        told["prompt_eval_count"] = usage["prompt_tokens"]
    return msgspec.json.encode(told)


def nothing(kind: str, model: str, clock: Clock, *, unload: bool) -> bytes:
    """The answer to a request without a prompt."""
    if kind == "embed":
        return msgspec.json.encode({"model": model, "embeddings": [], "total_duration": _ns(clock.elapsed_s())})
    reason = "unload" if unload else "load"
    return msgspec.json.encode({**_line(kind, model, clock, "", "", []), "done": True, "done_reason": reason})


class Lines:
    """One engine's stream as lines; gets whole events, gives whole lines."""

    def __init__(self, kind: str, model: str, clock: Clock) -> None:
        self._kind = kind
        self._model = model
        self._clock = clock
        self._calls: dict[int, Json] = {}
        self._told_calls = 0
        self._reason: Any = None
        self._seen: Json = {}
        self._first_s: float | None = None
        self._over = False
        self._resumed: list[str] = []  # who went on with it, and how

    def __call__(self, block: bytes) -> bytes:
        """The lines that these events make."""
        lines = []
        for event in split_events(block):
            data = data_of(event)
            if data is not None:
                lines.append(self._event(data))
            elif event.startswith(RESUMED):
                self._resumed.append(event[len(RESUMED) :].strip().decode())
        return b"".join(lines)

    def end(self) -> bytes:
        """The last line, once: the stream came to its end."""
        if self._over:
            return b""
        self._over = True
        lines = self._tool_calls()
        last = _line(self._kind, self._model, self._clock, "", "", [])
        if self._resumed:  # the clock of the last engine knows nothing of those before
            self._seen.pop("timings", None)
            last["geniehive_resumed"] = self._resumed
        return lines + _written({**last, **_last(self._reason, self._seen, self._clock, self._first_s)})

    def _event(self, data: bytes) -> bytes:
        if data == b"[DONE]":
            return self.end()
        try:
            seen = _object(data)
        except UpstreamUnavailable:
            return b""  # JSON of another kind tells nothing
        self._seen |= {key: seen[key] for key in ("usage", "timings") if isinstance(seen.get(key), dict)}
        choices = seen.get("choices")
        choice = choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], dict) else {}
        return self._choice(choice)

    def _choice(self, choice: Json) -> bytes:
        delta = choice.get("delta")
        said = delta if isinstance(delta, dict) else {"content": choice.get("text")}
        for place, call in enumerate(_listed(said.get("tool_calls"))):
            self._gather(call, place)
        text, thought = _words(said.get("content")), _thought(said)
        lines = b""
        if text or thought:
            if self._first_s is None:
                self._first_s = self._clock.elapsed_s()
            line = _line(self._kind, self._model, self._clock, text, thought, [])
            if probabilities := _probabilities(choice):
                line["logprobs"] = probabilities
            lines = _written({**line, "done": False})
        if choice.get("finish_reason"):
            self._reason = choice["finish_reason"]
            lines += self._tool_calls()
        return lines

    def _gather(self, call: Any, place: int) -> None:
        """A piece of a tool call: Ollama tells calls whole, so they wait for the rest."""
        if not isinstance(call, dict):
            return
        if self._first_s is None:
            self._first_s = self._clock.elapsed_s()
        index = call.get("index")
        held = self._calls.setdefault(index if isinstance(index, int) else place, {"name": "", "arguments": []})
        function = call.get("function")
        if isinstance(call.get("id"), str):
            held["id"] = call["id"]
        if isinstance(function, dict):
            held["name"] += _words(function.get("name"))
            held["arguments"].append(_words(function.get("arguments")))

    def _tool_calls(self) -> bytes:
        held, self._calls = self._calls, {}
        if not held:
            return b""
        calls = [
            _call({"id": call.get("id"), "function": {**call, "arguments": "".join(call["arguments"])}}, place)
            for place, call in sorted(held.items())
        ]
        return _written({**_line(self._kind, self._model, self._clock, "", "", calls), "done": False})


def broken(error: GenieHiveError, body: bytes) -> bytes:
    """The line that ends a stream which broke; `body` is the error in OpenAI's envelope. See gateway.answers.Ending."""
    return _written({"error": message_in(body) or error.message})


def _line(kind: str, model: str, clock: Clock, text: str, thought: str, calls: list[Json]) -> Json:
    line: Json = {"model": model, "created_at": clock.today()}
    if kind == "generate":
        line["response"] = text
        return {**line, "thinking": thought} if thought else line
    message: Json = {"role": "assistant", "content": text}
    if thought:
        message["thinking"] = thought
    if calls:
        message["tool_calls"] = calls
    return {**line, "message": message}


def _last(reason: Any, seen: Json, clock: Clock, first_s: float | None) -> Json:
    """What stands in the last object: why it ended, counts, times."""
    elapsed = clock.elapsed_s()
    why = "length" if reason == "length" else "stop"
    told: Json = {"done": True, "done_reason": why, "total_duration": _ns(elapsed)}
    usage, timings = seen.get("usage"), seen.get("timings")
    usage, timings = usage if isinstance(usage, dict) else {}, timings if isinstance(timings, dict) else {}
    details = usage.get("prompt_tokens_details")
    cached = details.get("cached_tokens") if isinstance(details, dict) else None
    read = _ns_of_ms(timings.get("prompt_ms"))
    wrote = _ns_of_ms(timings.get("predicted_ms"))
    if read is None and first_s is not None:
        read, wrote = _ns(first_s), _ns(elapsed - first_s) if wrote is None else wrote
    counted = {
        "prompt_eval_count": usage.get("prompt_tokens"),
        "prompt_eval_cached_count": cached,
        "prompt_eval_duration": read,
        "eval_count": usage.get("completion_tokens"),
        "eval_duration": wrote,
    }
    return told | {key: value for key, value in counted.items() if type(value) is int}


def _call(call: Any, place: int) -> Json:
    """One tool call; arguments that are no JSON object are told as they are, under `arguments`."""
    function = call.get("function") if isinstance(call, dict) else None
    function = function if isinstance(function, dict) else {}
    written = function.get("arguments")
    try:
        arguments = msgspec.json.decode(written) if isinstance(written, str) and written.strip() else (written or {})
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        arguments = written
    if not isinstance(arguments, dict):
        arguments = {"arguments": arguments}
    told: Json = {"function": {"index": place, "name": _words(function.get("name")), "arguments": arguments}}
    identity = call.get("id") if isinstance(call, dict) else None
    return {"id": identity, **told} if isinstance(identity, str) else told


def _thought(said: Json) -> str:
    return next((_words(said[name]) for name in _REASONING if isinstance(said.get(name), str)), "")


def _probabilities(choice: Json) -> list[Any]:
    told = choice.get("logprobs")
    content = told.get("content") if isinstance(told, dict) else None
    return content if isinstance(content, list) else []


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _index(row: Json) -> int:
    given = row.get("index")
    return given if isinstance(given, int) else 0


def _words(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _object(body: bytes) -> Json:
    try:
        value = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise UpstreamUnavailable("the engine's answer is no JSON object, or too large to be translated")
    return value


def _ns(seconds: float) -> int:
    return max(0, int(seconds * 1e9))


def _ns_of_ms(milliseconds: Any) -> int | None:
    return _ns(milliseconds / 1000) if isinstance(milliseconds, int | float) else None


def _written(line: Json) -> bytes:
    return msgspec.json.encode(line) + b"\n"
