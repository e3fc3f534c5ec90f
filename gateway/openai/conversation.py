"""[pure] What a body tells of the work that it asks for: the beginning of its prompt, and how long an answer may be."""

from __future__ import annotations

from typing import Any

import msgspec

from gateway.openai.body import JsonBody
from geniehive.routing.affinity import NOTHING, Prefix, fingerprint
from geniehive.routing.ledger import Ask

_ABSENT = msgspec.Raw()


def ask_of(body: JsonBody, now: float, put_before: bytes = b"") -> Ask:
    """The request as strategies know it; `put_before` stands for what the gateway sets ahead of the prompt."""
    return Ask(now, _prefix(body, put_before), _limit(body.fields))


def _prefix(body: JsonBody, put_before: bytes) -> Prefix:
    values = body.values
    prompt = bytes(values.get("messages", _ABSENT))
    if not prompt:
        prompt = bytes(values.get("prompt", _ABSENT)).strip(b'"')  # so that a longer one begins like it
    if not prompt:
        return NOTHING
    return fingerprint(prompt, put_before, bytes(values.get("tools", _ABSENT)))


def _limit(fields: dict[str, Any]) -> int | None:
    for name in ("max_completion_tokens", "max_tokens"):
        value = fields.get(name)
        if type(value) is int and value > 0:
            return value
    return None
