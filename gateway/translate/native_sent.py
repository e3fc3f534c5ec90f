"""[pure] What a client has of a stream that an engine wrote in the dialect itself, read as if it were a chat's.

Such a stream passes as it is, and its events are kept by reference. When it is cut they are read: what they said
becomes what was sent of a chat completion, and the translation that could have written them is brought to where they
end. So another engine can be asked for the rest as a chat, and the client's stream goes on in its dialect. Where an
event is of a kind that translations do not know, nobody goes on.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Final

from gateway.resume_sent import ARGUMENTS, CONTENT, NAME, Channel, Json, Part, Sent, Unclear, events_in
from gateway.sse import Rewrite
from gateway.translate.chat import Call
from geniehive.errors import InvalidRequest

THOUGHT: Final[Channel] = ("reasoning_content", 0)
REFUSAL: Final[Channel] = ("refusal", 0)
TEXT: Final = CONTENT
_READ_AT: Final = 64 * 1024
_ONE: Final[Json] = {"index": 0}


class NativeTranscript(ABC):
    """Keeps one stream, up to `most` characters of text; `able` is whether its request can be asked as a chat."""

    def __init__(self, most: int, able: Callable[[], bool]) -> None:
        self._most = most
        self._able = able
        self._kept: list[bytes] = []
        self._size = 0
        self._calls = 0
        self._sent = Sent(hides=False)

    def keep(self, block: bytes) -> None:
        """Whole events that go to the client."""
        self._kept.append(block)
        self._size += len(block)
        if self._size > _READ_AT:
            self._read()

    def sent(self) -> Sent | None:
        """See gateway.plan.Kept."""
        self._read()
        sent = self._sent
        if not sent.clear or sent.size > self._most or not self._ready() or not self._able():
            return None
        return sent

    @abstractmethod
    def onward(self, rewrite: Rewrite | None) -> Rewrite | None:
        """See gateway.plan.Kept: the translation, from where the stream was cut."""

    @abstractmethod
    def _event(self, event: Json) -> None:
        """Take one event into account. Raises Unclear."""

    @abstractmethod
    def _ready(self) -> bool:
        """Whether a translation can begin here."""

    def _read(self) -> None:
        kept, self._kept, self._size = self._kept, [], 0
        if not self._sent.clear or self._sent.size > self._most:
            return
        try:
            for event in events_in(b"".join(kept)):
                self._event(event)
        except (Unclear, InvalidRequest):  # the latter: what was asked has no translation, so neither has its answer
            self._sent.clear = False

    def _say(self, channel: Channel, text: str) -> None:
        """A piece of text; each counts as one token, as everywhere."""
        sent = self._sent
        said = sent.said(_ONE)
        said.role = True
        if text:
            sent.thought = sent.thought or channel == THOUGHT
            sent.add(said, Part(channel, text))
            sent.tokens += 1

    def _begin_call(self, call_id: Any, name: Any) -> Call:
        """A call of a function begins."""
        if not name:
            raise Unclear
        number, self._calls = self._calls, self._calls + 1
        made = Call(number, text_of(call_id), text_of(name), "")
        self._say((NAME, number), made.name)
        return made

    def _argue(self, arguments: Any) -> Call:
        """A piece of the arguments of the call that began last."""
        number = self._calls - 1
        made = Call(number, "", "", text_of(arguments))
        self._say((ARGUMENTS, number), made.arguments)
        return made


def text_of(value: Any) -> str:
    """A text. Raises Unclear for anything else."""
    if not isinstance(value, str):
        raise Unclear
    return value


def object_of(value: Any) -> Json:
    """An object. Raises Unclear for anything else."""
    if not isinstance(value, dict):
        raise Unclear
    return value
