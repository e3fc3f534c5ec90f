"""Streams taken apart for tests of translation."""

from __future__ import annotations

import json
from itertools import count
from pathlib import Path

FIXTURES = Path(__file__).parents[2] / "fixtures"


def fixture(name):
    return (FIXTURES / name).read_bytes()


def events(raw):
    """The events of a stream as JSON; names of events must be the types of their data."""
    found = []
    for block in raw.decode().split("\n\n"):
        lines = dict(line.split(": ", 1) for line in block.strip().split("\n") if line and not line.startswith(":"))
        if not lines:
            continue
        data = json.loads(lines["data"])
        assert lines["event"] == data["type"]
        found.append(data)
    return found


def chunk(finish=None, usage=None, model="m", **delta):
    choices = [{"index": 0, "delta": delta, "finish_reason": finish}]
    return wire({"object": "chat.completion.chunk", "model": model, "choices": choices, "usage": usage})


def usage_chunk(prompt=10, completion=5, cached=4):
    details = {"cached_tokens": cached}
    usage = {"prompt_tokens": prompt, "completion_tokens": completion, "prompt_tokens_details": details}
    return wire({"object": "chat.completion.chunk", "choices": [], "usage": usage})


def wire(value):
    return b"data: " + json.dumps(value, ensure_ascii=False).encode() + b"\n\n"


DONE = b"data: [DONE]\n\n"


def call(index, *, name=None, call_id=None, arguments=""):
    function = {"arguments": arguments, **({"name": name} if name else {})}
    return {"index": index, "type": "function", **({"id": call_id} if call_id else {}), "function": function}


def counted():
    """Ids that tests can know."""
    numbers = count(1)
    return lambda kind="toolu": f"{kind}_{next(numbers)}"
