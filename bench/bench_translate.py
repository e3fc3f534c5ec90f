"""What translation of agents' requests and streams costs: CPU time, per request and per event.

`python bench/bench_translate.py` from the repository's root. A chat stream of 500 words goes through the translators
as it would through the gateway, beside the same stream passed on untouched.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import msgspec

from gateway.sse import Rewrite, SseScanner
from gateway.translate import messages_request, responses_request
from gateway.translate.messages_answer import MessageStream
from gateway.translate.prompt import ask_of
from gateway.translate.responses_answer import Frame
from gateway.translate.responses_stream import ResponseStream
from gateway.translate.tools import Toolbox
from geniehive.routing.steady import steady

_WORDS = 500
_TOOLS = 12
_ROUNDS = 40


def _chunk(delta: dict[str, Any], finish: str | None = None) -> bytes:
    choices = [{"index": 0, "delta": delta, "finish_reason": finish}]
    return b"data: " + json.dumps({"id": "c", "model": "m", "choices": choices}).encode() + b"\n\n"


def _stream() -> list[bytes]:
    words = [_chunk({"content": f"word{n} "}) for n in range(_WORDS)]
    return [_chunk({"role": "assistant", "content": None}), *words, _chunk({}, "stop"), b"data: [DONE]\n\n"]


def _claude() -> dict[str, Any]:
    """About 60 KB, as Claude Code asks after 40 turns."""
    schema = {"type": "object", "properties": {f"p{n}": {"type": "string", "description": "d" * 60} for n in range(8)}}
    tools = [{"name": f"tool{n}", "description": "d" * 1000, "input_schema": schema} for n in range(_TOOLS)]
    turns: list[dict[str, Any]] = [{"role": "user", "content": "word " * 400}]
    for n in range(20):
        call = {"type": "tool_use", "id": f"c{n}", "name": "tool1", "input": {"p1": "x" * 200}}
        turns.append({"role": "assistant", "content": [{"type": "text", "text": "ok"}, call]})
        turns.append(
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": f"c{n}", "content": "y" * 900}]}
        )
    system = [{"type": "text", "text": "x-anthropic-billing-header: cch=1;"}, {"type": "text", "text": "word " * 1400}]
    return {"model": "m", "max_tokens": 9, "system": system, "messages": turns, "tools": tools, "stream": True}


def _codex() -> dict[str, Any]:
    """The same conversation as Codex would send it."""
    claude = _claude()
    items: list[dict[str, Any]] = [{"role": "developer", "content": claude["system"][1]["text"]}]
    items.append({"role": "user", "content": claude["messages"][0]["content"]})
    for n in range(20):
        items.append({"type": "function_call", "call_id": f"c{n}", "name": "tool1", "arguments": '{"p1":"x"}'})
        items.append({"type": "function_call_output", "call_id": f"c{n}", "output": "y" * 900})
    tools = [{"type": "function", "name": t["name"], "parameters": t["input_schema"]} for t in claude["tools"]]
    return {"model": "m", "input": items, "tools": tools, "stream": True}


def _best(work: Callable[[], object]) -> float:
    """CPU microseconds, the best of some rounds."""
    times = []
    for _ in range(_ROUNDS):
        began = time.process_time()
        work()
        times.append(time.process_time() - began)
    return min(times) * 1e6


def _through(rewrite: Callable[[], Rewrite | None], events: list[bytes]) -> None:
    scanner = SseScanner(rewrite=rewrite())
    for event in events:
        scanner.feed(event)


def main() -> None:
    """Print the table."""
    claude, codex, events = _claude(), _codex(), _stream()
    raw = [msgspec.json.encode(body) for body in (claude, codex)]
    toolbox = Toolbox(codex["tools"])
    ways: dict[str, Callable[[], Rewrite | None]] = {
        "passed on": lambda: None,
        "as Messages": lambda: MessageStream("msg", "m", lambda: "id", thoughts=True),
        "as Responses": lambda: ResponseStream(Frame(codex, "resp", 1, lambda kind: kind, toolbox), "m"),
    }
    print(f"requests: Messages of {len(raw[0])} bytes, Responses of {len(raw[1])}; CPU microseconds each")
    print(f"  Messages to chat           {_best(lambda: msgspec.json.encode(messages_request.to_chat(claude))):8.0f}")
    responses = lambda: msgspec.json.encode(responses_request.to_chat(codex, Toolbox(codex["tools"])))  # noqa: E731 - short
    print(f"  Responses to chat          {_best(responses):8.0f}")
    print(f"  fingerprint for routing    {_best(lambda: ask_of(claude, 0.0)):8.0f}")
    print(f"  steady prefix              {_best(lambda: steady(claude)):8.0f}")
    print("streams: CPU microseconds for each event, and until the first words are out")
    for name, made in ways.items():
        whole = _best(lambda made=made: _through(made, events)) / len(events)  # type: ignore[misc]  # mypy: a lambda's default
        first = _best(lambda made=made: _through(made, events[:2]))  # type: ignore[misc]  # see above
        print(f"  {name:26} {whole:8.1f} {first:8.1f}")


if __name__ == "__main__":
    main()
