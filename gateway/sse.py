"""[pure] Server-sent events on their way through: whole events pass byte for byte, only looked at.

`feed` takes chunks as they come off the wire and gives back what may go on: complete events, exactly
as they were sent (CRLF, comments and several data lines included). The start of an event that is not
yet complete is held back, so a stream that breaks never leaves half an event at the client. From the
events the scanner learns what decides how the stream may end: whether content has begun, whether it
finished, whether the engine reported an error. Events whose data is not JSON are dropped. A `rewrite`
(reasoning taken out) comes last: what is learned is learned from what the engine sent.

The format: https://html.spec.whatwg.org/multipage/server-sent-events.html
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from typing import Any

import msgspec

from gateway.told import ENDS, LONGEST_REASON, OPENINGS, TELLING, Usage, timed, told_by_event
from gateway.told import told_in as told_in  # noqa: PLC0414 - whoever reads streams finds both here
from geniehive.errors import UpstreamUnavailable
from geniehive.routing.receipt import Told

Rewrite = Callable[[bytes], bytes]
"""Changes whole events on their way; gets one or more at a time. May raise Untold."""


class Untold(UpstreamUnavailable):
    """Events that came well, and whose rewrite is none for the client: it does not have what they say."""


class Unreadable(Untold):
    """Nothing can be made of them. What they said is not known, so nobody can go on from there."""


MAX_EVENT_BYTES = 10 * 1024 * 1024
DONE = b"data: [DONE]\n\n"

# An empty line ends an event. A lone CR at the very end may be half of a CRLF: it waits for the next chunk.
_BOUNDARY = re.compile(rb"(?:\r\n|\n|\r(?!\n|\Z))(?:\r\n|\n|\r(?!\n|\Z))")
_LINE_END = re.compile(rb"\r\n|\n|\r")
_BOUNDARY_REACH = 4  # bytes of a boundary that may stand at the end of what was searched before
_BOM = b"\xef\xbb\xbf"


_ABSENT = msgspec.Raw()


class _Choice(msgspec.Struct):
    index: Any = 0
    finish_reason: Any = None
    delta: dict[str, msgspec.Raw] | None = None
    text: str | None = None


class _Event(msgspec.Struct):
    """What is read of an event; `type` is of the Responses and transcription streams."""

    error: msgspec.Raw = _ABSENT
    usage: Usage | None = None
    choices: list[_Choice] | None = None
    timings: msgspec.Raw = _ABSENT
    type: str | None = None


class _Ended(msgspec.Struct):
    index: Any = 0
    finish_reason: Any = None


class _Later(msgspec.Struct):
    """What is read of an event once content has begun: what it says is not looked at any more."""

    error: msgspec.Raw = _ABSENT
    usage: Usage | None = None
    choices: list[_Ended] | None = None
    timings: msgspec.Raw = _ABSENT
    type: str | None = None


_decoder = msgspec.json.Decoder(_Event)
_later = msgspec.json.Decoder(_Later)
_E = ord("e")  # as in `event: `
# A byte is looked for by its number: in CPython `b"\r" in data` costs an exception that is made and thrown away.
_CR = ord("\r")
_LF = ord("\n")
_EMPTY = frozenset({b"null", b'""', b"[]"})
_NO_ERROR = frozenset({b"", b"null"})
_ERROR_TYPES = frozenset({"error", "response.failed"})
# Reasons of an engine that was stopped (vLLM and SGLang: shut down, paused, told to), not of a model that ended.
_STOPPED = frozenset({"abort", "error"})
_LAST_TYPES = frozenset(
    {"transcript.text.done", "speech.audio.done", "image_generation.completed", "image_edit.completed", *ENDS}
)


def too_large(limit: int) -> UpstreamUnavailable:
    """What becomes of an answer that does not end."""
    return UpstreamUnavailable(f"the engine's answer is larger than {limit} bytes; see gateway.max_answer_bytes")


class SseScanner:
    """One stream. Read its attributes after each `feed`."""

    def __init__(
        self,
        *,
        max_event_bytes: int = MAX_EVENT_BYTES,
        max_bytes: int = sys.maxsize,
        rewrite: Rewrite | None = None,
        keep: Callable[[bytes], None] | None = None,
        choices: int = 1,
        finishes: bool = False,
    ) -> None:
        self.events = 0
        """Complete events seen, comments not counted."""
        self.content = False
        """Whether anything a client would show or act on was in an event."""
        self.finished = False
        """Whether the engine said that it finished: by a finish_reason of each of `choices`, or a last event."""
        self.done = False
        """Whether `[DONE]` was seen, of a stream that `finishes` behind its finish; what follows it is dropped."""
        self.error: bytes | None = None
        """The data of the first error event; it is not passed on, and what follows it is dropped."""
        self.tokens: int | None = None
        """Generated tokens, where the engine told."""
        self.prompt_tokens: int | None = None
        """Tokens of the prompt, where the engine told."""
        self.cached_tokens: int | None = None
        """Those among them that were in its cache, where the engine told."""
        self.finish_reason: str | None = None
        """Why the engine stopped, where it said so."""
        self._timings = b""
        self.bytes = 0
        """Of the stream, as it came."""
        self.over = False
        """Whether nothing that follows would be passed on: `[DONE]`, an error, or that the engine was stopped."""
        self._unfinished = set(range(choices)) if choices > 1 else None
        self._begun: set[int] = set()  # of them
        self._finishes = finishes
        self._held = bytearray()
        self._max_event_bytes = max_event_bytes
        self.max_bytes = max_bytes
        """What a stream may have."""
        self.rewrite = rewrite
        """What becomes of the events that pass."""
        self.keep = keep
        """Takes the events that pass, before they are rewritten."""

    @property
    def told(self) -> Told:
        """What the stream has told of itself so far."""
        usage = self.prompt_tokens, self.tokens, self.finish_reason, self.cached_tokens
        return timed(usage, self._timings) if self._timings else (*usage, None)

    @property
    def too_long(self) -> bool:
        """Whether more came than an answer may have."""
        return self.bytes > self.max_bytes

    @property
    def steady(self) -> bool:
        """Whether another event like the last, with another text, would change nothing but the counts."""
        return self.content and not (self.finished or self.over or self._held) and self._unfinished is None

    @property
    def complete(self) -> bool:
        """Whether the stream may end here without a lie."""
        return self.error is None and (self.done or self.finished)

    def feed(self, chunk: bytes) -> bytes:
        """The bytes that may go on now. Raises UpstreamUnavailable for an event or a stream beyond its bound."""
        self.bytes += len(chunk)
        if self.bytes > self.max_bytes:
            raise too_large(self.max_bytes)
        if self.over:
            return b""
        held = self._held
        if not held and chunk[-2:] == b"\n\n":  # the usual case: whole events in one chunk
            data = chunk[6:-2]
            if _LF in data or chunk[:6] != b"data: " or _CR in data:
                passed = self._pass_each(chunk)
            else:  # the most usual: just one
                passed = chunk if self._look_at(chunk, data) else b""
            if self.keep is not None and passed:
                self.keep(passed)
            return passed if self.rewrite is None or not passed else self.rewrite(passed)
        start = max(0, len(held) - _BOUNDARY_REACH)
        held += chunk
        end = 0
        for match in _BOUNDARY.finditer(held, start):
            end = match.end()
        if len(held) - end > self._max_event_bytes:
            raise UpstreamUnavailable(f"the engine sent an event of more than {self._max_event_bytes} bytes")
        if not end:
            return b""
        block = bytes(held[:end])
        del held[:end]
        return self._pass(block)

    def end_mark(self) -> bytes:
        """`[DONE]` that the engine did not send, as the client gets it: a rewrite makes its own end of it."""
        self.done = True
        return DONE if self.rewrite is None else self.rewrite(DONE)

    def close(self) -> bytes:
        """The upstream ended: what was held back, if it is an event that only lacks its empty line."""
        block = bytes(self._held)
        self._held.clear()
        if self.over or not block.strip():
            return b""
        end = _LINE_END.search(block)
        return self._pass(block.rstrip(b"\r\n") + (end[0] if end else b"\n") * 2)

    def _pass(self, block: bytes) -> bytes:
        """Look at each event of a block of whole ones; the block itself goes on unless an event must not."""
        if block.count(b"\n") == 2 and block.endswith(b"\n\n") and _CR not in block:  # one event: the usual case
            passed = block if self._look(block) else b""
        else:
            passed = self._pass_each(block)
        if self.keep is not None and passed:
            self.keep(passed)
        return passed if self.rewrite is None else self.rewrite(passed)

    def _pass_each(self, block: bytes) -> bytes:
        if _CR in block or not block.endswith(b"\n\n"):
            return self._pass_any(block)
        parts = block.split(b"\n\n")
        del parts[-1]
        kept = 0
        for at, part in enumerate(parts):  # each an event without its empty line
            if part[:6] == b"data: " and _LF not in part:  # the usual case
                passes = self._look_at(part, part[6:])
            else:
                passes = self._look(part + b"\n\n")
            if passes:
                if kept != at:
                    parts[kept] = part
                kept += 1
            if self.over:
                break
        if kept == len(parts):
            return block
        del parts[kept:]
        return b"\n\n".join([*parts, b""]) if parts else b""

    def _pass_any(self, block: bytes) -> bytes:
        """The same for line ends of all kinds."""
        kept = []
        whole = True
        for event in split_events(block):
            if self._look(event):
                kept.append(event)
            else:
                whole = False
            if self.over:
                break
        passed = b"".join(kept)
        return block if whole and len(passed) == len(block) else passed

    def _look(self, event: bytes) -> bool:
        """Learn from one event; whether it may go on."""
        data = data_of(event)
        return data is None or self._look_at(event, data)  # without data: comments, ids, retry hints

    def _look_at(self, event: bytes, data: bytes) -> bool:
        self.events += 1
        if data == b"[DONE]":
            self.over = True
            self.done = self.finished or not self._finishes or self._rest_never_began()
            return self.done
        try:
            if not data.isascii():
                data.decode()  # texts that are not looked at are not checked by the parser
            seen = _later.decode(data) if self.content else _decoder.decode(data)
        except msgspec.ValidationError:
            self.content = True  # JSON of a shape that is not known here
            return True
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return False
        if seen.error is not _ABSENT or seen.type is not None or seen.usage is not None or self.finished:
            return self._learn(seen, event, data)
        if event[0] == _E:  # it may be named an error
            return self._learn(seen, event, data)
        for choice in seen.choices or ():
            if choice.finish_reason or not self.content or self._unfinished is not None:
                return self._learn(seen, event, data)
        return True

    def _learn_typed(self, kind: str, data: bytes) -> None:
        """Events that carry their type: of transcriptions, Responses, Messages."""
        self.content = self.content or kind not in OPENINGS
        if kind in _LAST_TYPES:
            self.finished = True
            self.done = self.over = kind in ENDS
        if kind in TELLING:
            prompt, tokens, reason, cached = told_by_event(data)
            self.tokens = self.tokens if tokens is None else tokens
            self.finish_reason = reason or self.finish_reason
            if prompt:  # Messages that are translated from chats say 0 at the start, and the truth at the end
                self.prompt_tokens, self.cached_tokens = prompt, cached

    def _learn(self, seen: _Event | _Later, event: bytes, data: bytes) -> bool:
        if bytes(seen.error) not in _NO_ERROR or seen.type in _ERROR_TYPES or event.startswith(b"event: error"):
            self.error = data
            self.over = True
            return False
        if seen.usage is not None and seen.usage.completion_tokens is not None:
            self.tokens = seen.usage.completion_tokens
        if seen.usage is not None and seen.usage.prompt_tokens is not None:
            self.prompt_tokens, self.cached_tokens = seen.usage.prompt_tokens, seen.usage.cached_tokens
        if seen.type is not None:
            self._learn_typed(seen.type, data)
        if seen.usage is not None or self.finished:  # they come with the end or behind it
            self._timings = bytes(seen.timings) or self._timings
        return all(self._learn_choice(choice, seen) for choice in seen.choices or ())

    def _learn_choice(self, choice: _Choice | _Ended, seen: _Event | _Later) -> bool:
        """Whether it may go on: not what says that the engine was stopped."""
        if self._unfinished and type(choice.index) is int and choice.index in self._unfinished:
            self._begun.add(choice.index)
        if choice.finish_reason:
            if self._finishes and str(choice.finish_reason) in _STOPPED:
                self.over = True
                return False
            self.content = True
            self.finished = self._unfinished is None or self._all_finished(choice.index)
            self._timings = bytes(seen.timings) or self._timings
            self.finish_reason = str(choice.finish_reason)[:LONGEST_REASON]
        elif not self.content and isinstance(choice, _Choice):
            self.content = bool(choice.text) or _speaks(choice.delta)
        return True

    def _rest_never_began(self) -> bool:
        """Whether the engine finished each of the choices that it began: Ollama, for one, makes one whatever `n` is."""
        return self.finish_reason is not None and self._begun.isdisjoint(self._unfinished or ())

    def _all_finished(self, index: Any) -> bool:
        """Whether each of several choices has finished, now that this one has."""
        if self._unfinished and type(index) is int:
            self._unfinished.discard(index)
        return not self._unfinished


def _speaks(delta: dict[str, msgspec.Raw] | None) -> bool:
    """Whether a delta has more than a role and empty values."""
    return delta is not None and any(key != "role" and bytes(value) not in _EMPTY for key, value in delta.items())


def split_events(block: bytes) -> list[bytes]:
    """Whole events, each with the empty line that ends it."""
    if _CR not in block:
        events = [part + b"\n\n" for part in block.split(b"\n\n")]
        last = events.pop()
        return events if last == b"\n\n" else [*events, last[:-2]]
    events, at = [], 0
    for match in _BOUNDARY.finditer(block):
        events.append(block[at : match.end()])
        at = match.end()
    return [*events, block[at:]] if at < len(block) else events


def data_of(event: bytes) -> bytes | None:
    """The data of an event, its lines joined by line feeds; None if it has none."""
    if event.startswith(b"data: ") and event.endswith(b"\n\n") and event.count(b"\n") == 2 and _CR not in event:
        return event[6:-2]
    lines = []
    for line in _LINE_END.split(event.removeprefix(_BOM)):
        field, _, value = line.partition(b":")
        if field == b"data":
            lines.append(value.removeprefix(b" "))
    return b"\n".join(lines) if lines else None
