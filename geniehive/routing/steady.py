"""[pure] Keeps the beginning of agents' prompts the same from turn to turn, so that it stays warm in an engine's cache.

An engine reuses what it has read of a prompt up to the first byte that differs. Some agents change something near the
beginning at every turn, or in every session, that says little to a model:

- Claude Code puts a line `x-anthropic-billing-header: cc_version=…; cch=…;` before its system prompt, for Anthropic's
  accounts; `cch` changes with each request. The line goes.
- Programs put the time of day into the system prompt ("Current time: 2026-11-23 08:12:44", as templates of Open WebUI
  and others do). The date stays, the time of day goes.
- Tools come in another order where they are gathered from several servers. They are put in order of their names.

Only prompts of the system, and tools, are touched: what the user says stays as it is. It works on the bodies of chat
completions, Messages and Responses alike.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import msgspec

Json = dict[str, Any]

BILLING: Final = "billing line"
CLOCK: Final = "time of day"
TOOLS: Final = "order of tools"

_BILLING: Final = re.compile(r"^x-anthropic-billing-header:[^\n]*\n*")
# A date, and a time of day behind it, on a line that speaks of now; what follows the minutes goes with them.
_CLOCK: Final = re.compile(
    r"(?im)^([^\n]{0,80}?\b(?:current|today|now|date|time)\b[^\n\d]{0,40}\d{4}-\d{2}-\d{2})"
    r"(?:T|,?[ ]+(?:at[ ]+)?)\d{1,2}:\d{2}(?::\d{2}(?:\.\d+)?)?(?:[ ]?[AaPp][Mm]\b)?"
    r"(?:[ ]?(?:Z|UTC|GMT)|[+-]\d{2}:?\d{2})?"
)
_TIME_ALONE: Final = re.compile(
    r"(?im)^([ \t*_#>-]{0,8}(?:the )?(?:current |local )*time(?: is| now)?[ ]?[:=]?)[ *_`]{0,4}"
    r"\d{1,2}:\d{2}(?::\d{2}(?:\.\d+)?)?(?:[ ]?[AaPp][Mm]\b)?[^\n]{0,24}$"
)
_SYSTEM: Final = frozenset({"system", "developer"})
_HEADS: Final = ("system", "instructions")


class Steadied(NamedTuple):
    """What was made steady: in words, and the bytes of prompt behind it that an engine may now find in its cache."""

    what: tuple[str, ...]
    kept_bytes: int


class Steady(NamedTuple):
    """Fields of a body to write anew, and what that did; None if nothing was to do."""

    put: Json
    done: Steadied | None = None


class _Work:
    """One body; `before` counts the bytes of prompt up to the first thing that was changed."""

    def __init__(self) -> None:
        self.what: list[str] = []
        self.before: int | None = None
        self.total = 0

    def text(self, text: str) -> str:
        """A system prompt, made steady."""
        kept, first = text, len(text)
        for pattern, name, instead in ((_BILLING, BILLING, ""), (_CLOCK, CLOCK, r"\1"), (_TIME_ALONE, CLOCK, "")):
            if (found := pattern.search(kept)) is not None:
                first = min(first, found.start())
                kept = pattern.sub(instead, kept)
                self._changed(name)
        if kept is not text and self.before is None:
            self.before = self.total + len(text[:first].encode())
        self.total += len(kept.encode())
        return kept

    def passed(self, value: Any) -> None:
        """A part of the prompt that stays as it is; its JSON is about as long as what an engine makes of it."""
        self.total += len(msgspec.json.encode(value))

    def tools(self, tools: list[Any]) -> list[Any]:
        """Tools by name; engines put them before everything else."""
        ordered = sorted(tools, key=_name)
        if any(one is not other for one, other in zip(tools, ordered, strict=True)):
            self._changed(TOOLS)
            self.before = 0
        self.passed(ordered)
        return ordered

    def _changed(self, name: str) -> None:
        if name not in self.what:
            self.what.append(name)


def steady(fields: Mapping[str, Any]) -> Steady:
    """What to change in a body of chat completions, Messages or Responses."""
    work = _Work()
    put: Json = {}
    tools = fields.get("tools")
    if isinstance(tools, list):
        put["tools"] = work.tools(tools)
    for key in _HEADS:
        if fields.get(key):
            put[key] = _content(fields[key], work)
    for key in ("messages", "input"):
        value = fields.get(key)
        if isinstance(value, list):
            put[key] = [_message(each, work) for each in value]
    if not work.what:
        return Steady({})
    changed = {key: value for key, value in put.items() if value != fields[key]}
    return Steady(changed, Steadied(tuple(work.what), work.total - (work.before or 0)))


def _message(message: Any, work: _Work) -> Any:
    if isinstance(message, dict) and message.get("role") in _SYSTEM:
        content = _content(message.get("content"), work)
        return message if content == message.get("content") else {**message, "content": content}
    work.passed(message)
    return message


def _content(content: Any, work: _Work) -> Any:
    """A system prompt: a text, or blocks of text, of which those that are left empty go."""
    if isinstance(content, str):
        return work.text(content)
    if not isinstance(content, list):
        return content
    kept = []
    for block in content:
        text = block.get("text") if isinstance(block, dict) else None
        if not isinstance(text, str):
            work.passed(block)
            kept.append(block)
        elif (found := work.text(text)) or not text:
            kept.append(block if found == text else {**block, "text": found})
    return kept


def _name(tool: Any) -> tuple[str, str]:
    """What a tool is put in order by."""
    if not isinstance(tool, dict):
        return "", ""
    inner = tool.get("function")
    name = tool.get("name") or (inner.get("name") if isinstance(inner, dict) else None)
    return (name if isinstance(name, str) else "~"), str(tool.get("type", ""))
