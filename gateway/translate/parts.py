"""[pure] Pieces of chat requests that both dialects need, and how a part that has no counterpart is refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from geniehive.errors import InvalidRequest

Json = dict[str, Any]

_EFFORTS: Final = {"minimal": "low", "xhigh": "high", "max": "high"}
"""Words that engines do not know, and the nearest that they do."""


def refuse(part: str, why: str) -> InvalidRequest:
    """The error for a part of a request that no chat completion can carry; `part` is its path in the body."""
    return InvalidRequest(f"`{part}` {why}", param=part)


def object_at(value: Any, path: str) -> Json:
    """A JSON object. Raises InvalidRequest."""
    if not isinstance(value, dict):
        raise refuse(path, "must be an object")
    return value


def list_at(value: Any, path: str) -> list[Any]:
    """A JSON list; null is an empty one. Raises InvalidRequest."""
    if value is None:
        return []
    if not isinstance(value, list):
        raise refuse(path, "must be a list")
    return value


def text_at(value: Any, path: str) -> str:
    """A text. Raises InvalidRequest."""
    if not isinstance(value, str):
        raise refuse(path, "must be a text")
    return value


def text_part(text: str) -> Json:
    """A text of a message in parts."""
    return {"type": "text", "text": text}


def image_part(url: str, detail: Any = None) -> Json:
    """A picture of a message in parts."""
    return {"type": "image_url", "image_url": {"url": url, **({"detail": detail} if detail else {})}}


def reminder(text: str) -> str:
    """Instructions that stand in the middle of a conversation, for the user's turn they come in.

    Many chat templates refuse a system message that is not the first.
    """
    return f"<system-reminder>\n{text}\n</system-reminder>"


def effort(word: Any) -> str | None:
    """How hard to think, in words that engines know; None for what is no word."""
    return _EFFORTS.get(word, word) if isinstance(word, str) else None


class Conversation:
    """Chat messages in the making: turns of one speaker that follow each other become one message.

    Both dialects let one speaker have several turns in a row; many chat templates do not.
    """

    def __init__(self) -> None:
        self._system: list[str] = []
        self._messages: list[Json] = []
        self._pictures: list[Json] = []  # of tools' answers, whose messages hold text alone: the user's turn shows them

    def instruct(self, text: str) -> None:
        """A system prompt: of the head of the conversation while there is only that."""
        if not text:
            return
        if self._messages or self._pictures:
            self.user([text_part(reminder(text))])
        else:
            self._system.append(text)

    def user(self, parts: list[Json]) -> None:
        """What the user says."""
        parts = [*self._shown(), *parts]
        if not parts:
            return
        last = self._last("user")
        if last is None:
            self._messages.append({"role": "user", "content": list(parts)})
        else:
            last["content"].extend(parts)

    def tool(self, call_id: str, content: str, pictures: list[Json]) -> None:
        """What a tool answered; its pictures wait until all tools have, so that answers stand behind their calls."""
        self._messages.append({"role": "tool", "tool_call_id": call_id, "content": content})
        self._pictures += pictures

    def assistant(self, text: str = "", thought: str = "", refusal: str = "") -> None:
        """What the model said; a thought belongs to what follows it."""
        last = self._assistant()
        for key, value in (("content", text), ("reasoning_content", thought), ("refusal", refusal)):
            if value:
                last[key] = (last.get(key) or "") + value

    def call(self, call_id: str, name: str, arguments: str) -> None:
        """A tool that the model called."""
        function = {"name": name, "arguments": arguments}
        self._assistant().setdefault("tool_calls", []).append({"id": call_id, "type": "function", "function": function})

    def messages(self) -> list[Json]:
        """The messages."""
        self.user([])
        head = [{"role": "system", "content": "\n\n".join(self._system)}] if self._system else []
        return [*head, *map(_plain, self._messages)]

    def _shown(self) -> list[Json]:
        pictures, self._pictures = self._pictures, []
        return pictures

    def _assistant(self) -> Json:
        self.user([])
        last = self._last("assistant")
        if last is None:
            last = {"role": "assistant", "content": None}
            self._messages.append(last)
        return last

    def _last(self, role: str) -> Json | None:
        last = self._messages[-1] if self._messages else None
        return last if last is not None and last["role"] == role else None


def _plain(message: Json) -> Json:
    """A message of texts alone as one text: some engines take no parts."""
    parts = message["content"]
    if not isinstance(parts, list) or any(part.get("type") != "text" for part in parts):
        return message
    return {**message, "content": "\n\n".join(part["text"] for part in parts)}


def json_schema(schema: Mapping[str, Any], name: Any = None, *, strict: Any = True) -> Json:
    """The chat completion's way to ask for JSON of a shape."""
    shape = {"name": name if isinstance(name, str) and name else "answer", "schema": schema, "strict": strict}
    return {"type": "json_schema", "json_schema": shape}
