"""The fast way of one stream: its events pass in the lane of the engine's connection, while each is like one before.

What an event is like is learned here, from one that was looked at and changed nothing: its text is found, and what is
around it. A string without a bare quote or backslash is a JSON string whatever it says, so another text there makes
another event that changes nothing. Texts of other keys, and what is rewritten, are looked at one by one.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from gateway.answers import Stream
from gateway.reasoning import strip_events
from gateway.sse import Rewrite, SseScanner
from gateway.upstream import UpstreamResponse

_TEXT = re.compile(rb'(?:content|text|reasoning)": ?"([ !#-\[\]-~\x80-\xff]+)"')
_TRIES = 16  # events in a row that are learned from in vain; the next are too
_EVENT_END = b"\n\n"


class Express:
    """Of one stream to one client. `paused` and `moved` are told as `Lane.join` says."""

    __slots__ = ("_joined", "_lane", "_moved", "_paused", "_scanner", "_stream", "_upstream", "tries")

    def __init__(
        self,
        stream: Stream,
        upstream: UpstreamResponse,
        scanner: SseScanner,
        paused: Callable[[], None],
        moved: Callable[[], None],
    ) -> None:
        self._stream = stream
        self._upstream = upstream
        self._scanner = scanner
        self._paused = paused
        self._moved = moved
        self._lane = upstream.lane if stream.chunked and leaves_texts(scanner.rewrite) else None
        self._joined = False
        self.tries = 0 if self._lane is None else _TRIES
        """How often it still learns; 0 is that it has given up, or never could."""

    def saw(self, piece: bytes, due: float) -> None:
        """This went to the client as it came. `due` is when `moved` is to be told next."""
        lane, scanner, transport = self._lane, self._scanner, self._stream.connection.transport
        if lane is None or transport is None or not scanner.steady or self._upstream.lane is not lane:
            return
        self.tries -= 1
        around = around_text(piece)
        if around is None:
            return
        if not self._joined:
            self._joined = True
            lane.join(transport.write, self._stream.connection, self._paused, self._moved, scanner.keep, due)
        lane.learn(*around, scanner.max_bytes - scanner.bytes)

    def moved(self, due: float) -> None:
        """When `moved` is to be told next, after it was."""
        if self._lane is not None and self._joined:
            self._lane.due = due

    def settle(self) -> None:
        """Add what has passed to the scanner's counts."""
        if self._lane is not None and self._joined:
            events, size = self._lane.taken()
            if events:
                self.tries = _TRIES
                self._scanner.events += events
                self._scanner.bytes += size


def leaves_texts(rewrite: Rewrite | None) -> bool:
    """Whether what becomes of an event does not depend on the texts in it."""
    return rewrite is None or rewrite is strip_events  # that one looks for keys


def around_text(piece: bytes) -> tuple[bytes, bytes] | None:
    """What is before and behind the text of the last of some whole events; None where none is found that is plain."""
    begin = piece.rfind(_EVENT_END, 0, -len(_EVENT_END))
    event = piece if begin < 0 else piece[begin + len(_EVENT_END) :]
    found = _TEXT.search(event)
    return None if found is None else (event[: found.start(1)], event[found.end(1) :])
