"""[pure] What a client has of a stream, read from the events that were passed on.

A text of a stream belongs to a choice and a channel: `content`, `text`, `refusal`, a reasoning field, or the name
or the arguments of one tool call. `Transcript` keeps the events of a stream as they were, by reference; they are
read only when there is need: when the stream was cut, or when they have become too many to be kept.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

import msgspec

from gateway.sse import Rewrite, data_of, split_events

Json = dict[str, Any]
Channel = tuple[str, int]
"""A field of a delta and 0; or the name or arguments of a tool call, and its index."""

CONTENT: Final[Channel] = ("content", 0)
TEXT: Final[Channel] = ("text", 0)
NAME: Final = "tool_calls.name"
ARGUMENTS: Final = "tool_calls.arguments"
REASONING: Final = frozenset({"reasoning_content", "reasoning"})
REASONING_PARTS: Final = "reasoning_details"  # says again, in parts, what `reasoning` says
RESUMED: Final = b": geniehive resumed on "
"""How the comment begins that stands where a stream goes on; who and how follow."""
_TEXTS: Final = frozenset({"content", "refusal"}) | REASONING
_SAME: Final = ("id", "created", "model", "system_fingerprint")
_READ_AT: Final = 64 * 1024
_MANY: Final = 16 * 1024

# Only a key can look like this: inside of a text a quote is escaped.
_SLOT: Final = re.compile(rb'"(content|text|reasoning_content|reasoning)": ?"')

_event = msgspec.json.Decoder(Json)


class Unclear(Exception):
    """An event says something that cannot be compared or continued."""


class Part(NamedTuple):
    """A piece of text in an event."""

    channel: Channel
    text: str


class Said:
    """One choice as the client has it."""

    __slots__ = ("finished", "pieces", "role")

    def __init__(self) -> None:
        self.pieces: dict[Channel, list[str]] = {}
        self.role = False
        self.finished = False

    def text(self, channel: Channel) -> str:
        """All of one channel."""
        return "".join(self.pieces.get(channel, ()))

    def add(self, part: Part) -> None:
        """One more piece."""
        self.pieces.setdefault(part.channel, []).append(part.text)


class Sent:
    """A stream as the client has it; `clear` is whether all of it was understood."""

    __slots__ = ("_frame", "choices", "clear", "head", "hides", "size", "thought", "tokens")

    def __init__(self, *, hides: bool) -> None:
        self.choices: dict[int, Said] = {}
        self.head: Json = {}
        """What is the same in all events: id, created, model."""
        self.hides = hides
        """Whether the client gets no reasoning."""
        self.thought = False
        """Whether the model reasoned, shown or not."""
        self.tokens = 0
        """Events with text: engines send one for each token, seldom one for several."""
        self.size = 0
        """Characters of text."""
        self.clear = True
        self._frame: Frame | None = None

    def absorb(self, block: bytes) -> None:
        """Read whole events that were passed on."""
        try:
            if self._frame is not None and (alike := self._frame.texts(block)) is not None:
                self._flush(alike)
                return
            texts: list[bytes] = []
            for event in split_events(block):
                text = None if self._frame is None else self._frame.text(event)
                if text is None:
                    self._flush(texts)
                    self._read(event)
                else:
                    texts.append(text)
            self._flush(texts)
        except Unclear:
            self.clear = False

    def said(self, choice: Json) -> Said:
        """The record of the choice that a piece of an event belongs to."""
        index = choice.get("index", 0)
        if type(index) is not int:
            raise Unclear
        return self.choices.setdefault(index, Said())

    def add(self, said: Said, part: Part) -> None:
        """One more piece of text."""
        said.add(part)
        self.size += len(part.text)

    def _flush(self, texts: list[bytes]) -> None:
        """Write down the texts of events that were alike."""
        if texts and self._frame is not None:
            channel = self._frame.channel
            if not (self.hides and channel[0] in REASONING):
                self.add(self.choices[self._frame.index], Part(channel, b"".join(texts).decode()))
                self.tokens += len(texts)
            texts.clear()

    def _read(self, raw: bytes) -> None:
        self._frame = None
        for event in events_in(raw):
            parts = self._absorb(event)
            if len(parts) == 1 and len(event["choices"]) == 1 and not event["choices"][0].get("finish_reason"):
                self._frame = Frame.of(raw, event["choices"][0].get("index", 0), parts[0])

    def _absorb(self, event: Json) -> list[Part]:
        if not self.head:
            self.head = {key: event[key] for key in _SAME if key in event}
        parts: list[Part] = []
        spoke = False
        for choice in choices_of(event):
            said = self.said(choice)
            said.role = said.role or "role" in delta_of(choice)
            for part in parts_of(choice):
                parts.append(part)
                self.thought = self.thought or part.channel[0] in REASONING
                if not (self.hides and part.channel[0] in REASONING):
                    self.add(said, part)
                    spoke = True
            said.finished = said.finished or bool(choice.get("finish_reason"))
        self.tokens += spoke
        return parts


class Frame:
    """What events have in common that are alike but for their one text: read so, a long stream costs little."""

    __slots__ = ("_before", "_behind", "_pattern", "channel", "index")

    def __init__(self, before: bytes, behind: bytes, index: int, channel: Channel) -> None:
        self._before = before
        self._behind = behind
        self._pattern: re.Pattern[bytes] | None = None
        self.index = index
        self.channel = channel

    @classmethod
    def of(cls, raw: bytes, index: int, part: Part) -> Frame | None:
        """What stands before and behind the one text of an event, if that can be told."""
        found = _SLOT.findall(raw)
        if len(found) != 1 or (slot := _SLOT.search(raw)) is None or slot[1].decode() != part.channel[0]:
            return None
        end = raw.find(b'"', slot.end())
        text = raw[slot.end() : end]
        if b"\\" in text or text.decode() != part.text:
            return None
        return cls(raw[: slot.end()], raw[end:], index, part.channel)

    def text(self, event: bytes) -> bytes | None:
        """The text of an event that is alike, if it is plain."""
        if not (event.startswith(self._before) and event.endswith(self._behind)):
            return None
        text = event[len(self._before) : len(event) - len(self._behind)]
        return None if b'"' in text or b"\\" in text else text

    def texts(self, block: bytes) -> list[bytes] | None:
        """The texts of many events, if all of them are alike."""
        if len(block) < _MANY:
            return None
        if self._pattern is None:
            self._pattern = re.compile(re.escape(self._before) + rb'([^"\\]*)' + re.escape(self._behind))
        found: list[bytes] = self._pattern.findall(block)
        framed = len(found) * (len(self._before) + len(self._behind)) + sum(map(len, found))
        return found if framed == len(block) else None


class Transcript:
    """Keeps a stream that may have to be continued, up to `limit` characters and the bytes of some events."""

    __slots__ = ("_kept", "_limit", "_sent", "_size")

    def __init__(self, limit: int, *, hides: bool) -> None:
        self._limit = limit
        self._sent = Sent(hides=hides)
        self._kept: list[bytes] = []
        self._size = 0

    def keep(self, block: bytes) -> None:
        """Whole events that go to the client."""
        self._kept.append(block)
        self._size += len(block)
        if self._size > _READ_AT:
            self._read()

    def sent(self) -> Sent | None:
        """What the client has; None if that was too much to be kept, or not understood."""
        self._read()
        return self._sent if self._sent.clear and self._sent.size <= self._limit else None

    def onward(self, rewrite: Rewrite | None) -> Rewrite | None:
        """See gateway.plan.Kept: as it was."""
        return rewrite

    def _read(self) -> None:
        kept, self._kept, self._size = self._kept, [], 0
        if self._sent.clear and self._sent.size <= self._limit:
            self._sent.absorb(b"".join(kept))


class Spliced:
    """What the client has of a stream that goes on already: its splice writes down itself what passes."""

    keep = None

    def __init__(self, sent: Sent) -> None:
        self._sent = sent

    def sent(self) -> Sent | None:
        """What the client has; None if that is not known any more."""
        return self._sent if self._sent.clear else None

    def onward(self, rewrite: Rewrite | None) -> Rewrite | None:
        """See gateway.plan.Kept: as it was."""
        return rewrite


def events_in(block: bytes) -> Iterator[Json]:
    """The data of each event. Raises Unclear for what is no JSON object."""
    for event in split_events(block):
        data = data_of(event)
        if data is None or data == b"[DONE]":
            continue
        try:
            yield _event.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise Unclear from error


def choices_of(event: Json) -> list[Json]:
    """The choices of an event. Raises Unclear where they are none."""
    choices = event.get("choices")
    if not isinstance(choices, list) or not all(isinstance(each, dict) for each in choices):
        raise Unclear
    return choices


def delta_of(choice: Json) -> Json:
    """What a choice adds; empty for completions, and where nothing is added."""
    delta = choice.get("delta")
    if delta is None:
        return {}
    if not isinstance(delta, dict):
        raise Unclear
    return delta


def parts_of(choice: Json) -> Iterator[Part]:
    """The pieces of text that an event adds to a choice, in their order. Raises Unclear for anything else."""
    if choice.get("text"):
        yield Part(TEXT, _text(choice["text"]))
    for key, value in delta_of(choice).items():
        if key in {"role", REASONING_PARTS} or not value:
            continue
        if key == "tool_calls":
            for call in calls_of(value):
                yield from _call(call)
        elif key in _TEXTS:
            yield Part((key, 0), _text(value))
        else:
            raise Unclear


def calls_of(value: Any) -> list[Json]:
    """The tool calls of a delta. Raises Unclear unless each is of a function and has an index."""
    if not isinstance(value, list):
        raise Unclear
    for call in value:
        if not isinstance(call, dict) or type(call.get("index")) is not int:
            raise Unclear
        if not isinstance(call.get("function"), dict) or call.get("type") not in (None, "function"):
            raise Unclear
    return value


def _call(call: Json) -> Iterator[Part]:
    for channel, key in ((NAME, "name"), (ARGUMENTS, "arguments")):
        if value := call["function"].get(key):
            yield Part((channel, call["index"]), _text(value))


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise Unclear
    return value
