"""[pure] The prompt inside a request of Responses or Messages, as routing knows prompts.

Clients move cache marks from message to message and send the same text now as a text, now as a block; an engine sees
none of that. So the fingerprint is of the texts alone, message by message, and without the line by which Claude Code
is billed, which differs while the prompt behind it does not.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from geniehive.routing.affinity import fingerprint
from geniehive.routing.ledger import Ask

_UNSEEN: Final = frozenset(
    {"cache_control", "encrypted_content", "id", "signature", "status", "strict", "tool_use_id", "type"}
)
_BILLING: Final = "x-anthropic-billing-header:"
_HEADS: Final = ("system", "instructions")
_LIMITS: Final = ("max_tokens", "max_output_tokens")


def ask_of(fields: dict[str, Any], now: float, put_before: bytes = b"") -> Ask:
    """The request as strategies know it; `put_before` stands for what the gateway sets ahead of the prompt."""
    tools = msgspec.json.encode(fields.get("tools"))
    limits = (fields.get(name) for name in _LIMITS)
    limit = next((value for value in limits if type(value) is int and value > 0), None)
    return Ask(now, fingerprint(prompt_of(fields), put_before, tools), limit)


def prompt_of(fields: dict[str, Any]) -> bytes:
    """The texts of a prompt, written as messages are, so that marks stand where messages begin."""
    heads = [_message("system", fields[key]) for key in _HEADS if fields.get(key)]
    turns = fields.get("messages") or fields.get("input")
    if not isinstance(turns, list):
        turns = [turns]
    return b"[%b]" % b",".join([*heads, *(_message(_speaker(turn), turn) for turn in turns)])


def _speaker(turn: Any) -> str:
    said = (turn.get("role") or turn.get("type")) if isinstance(turn, dict) else None
    return said if isinstance(said, str) else "user"


def _message(speaker: str, value: Any) -> bytes:
    return b'{"role":"%b","content":"%b"}' % (speaker.encode(), b"\0".join(_texts(value)))


def _texts(turn: Any) -> list[bytes]:
    """The texts of a turn, or of a system prompt; what is no text (a call, a picture) as it is, without its marks."""
    if isinstance(turn, dict) and "content" in turn:
        turn = turn["content"]
    blocks = turn if isinstance(turn, list) else [turn]
    return [_block(block) for block in blocks]


def _block(block: Any) -> bytes:
    text = block.get("text") if isinstance(block, dict) else block
    if isinstance(text, str):
        return b"" if text.startswith(_BILLING) else text.encode()
    if isinstance(block, dict):
        block = {key: value for key, value in block.items() if key not in _UNSEEN}
    return msgspec.json.encode(block)
