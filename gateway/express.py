"""The fast way of one stream: its events pass in the lane of the engine's connection, while each is like one before.

What an event is like is learned here, from one that was looked at and changed nothing: its text is found, and what is
around it. A string without a bare quote or backslash is a JSON string whatever it says, so another text there makes
another event that changes nothing. Texts of other keys, and what is rewritten, are looked at one by one.

The lane compares with the last event that came the slow way, or with nothing: what is known of a stream behind an event
is what is known behind another that is like it, but not behind one that came before. So whatever comes the slow way and
is not learned from ends the lane, until another one is.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from gateway.answers import Stream
from gateway.reasoning import strip_events
from gateway.sse import Rewrite, SseScanner
from gateway.upstream import UpstreamResponse

# Of the data and not of a comment; the event is JSON, so all of a text is found whatever is escaped in it.
_TEXT = re.compile(
    rb'^data:.*?(?:content|text|reasoning)": ?"(?!")((?:[ !#-\[\]-~\x80-\xff]++|\\[ -~])*+)"', re.MULTILINE
)
_TRIES = 16  # events in a row that are learned from in vain; the next are too
_EVENT_END = b"\n\n"
_CR = ord("\r")


class Express:
    """Of one stream to one client. `paused` and `moved` are told as `Lane.join` says."""

    __slots__ = ("_lane", "_moved", "_paused", "_scanner", "_stream", "_upstream", "joined", "tries")

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
        self.joined = False
        """Whether events may pass in the lane."""
        self.tries = 0 if self._lane is None else _TRIES
        """How often it still learns; 0 is that it has given up, or never could."""

    def saw(self, piece: bytes, due: float) -> bool:
        """This went to the client as it came; whether it was learned from. `due` is when to tell `moved` next."""
        lane, scanner, transport = self._lane, self._scanner, self._stream.connection.transport
        if lane is None or transport is None or not scanner.steady or self._upstream.lane is not lane:
            return False
        self.tries -= 1
        around = around_text(piece)
        if around is None:
            return False
        if not self.joined:
            self.joined = True
            lane.join(transport.write, self._stream.connection, self._paused, self._moved, scanner.keep, due)
        lane.learn(*around, scanner.max_bytes - scanner.bytes)
        return True

    def moved(self, due: float) -> None:
        """When `moved` is to be told next, after it was."""
        if self._lane is not None and self.joined:
            self._lane.due = due

    def settle(self) -> None:
        """Add what has passed to the scanner's counts; at the end of the body the lane is left, too."""
        lane = self._lane
        if lane is None or not self.joined:
            return
        events, size = lane.taken()
        if events:
            self.tries = _TRIES
            self._scanner.events += events
            self._scanner.bytes += size
        if self._upstream.lane is not lane:  # its connection is another's from now on
            self.leave()

    def leave(self) -> None:
        """Nothing passes until something else is learned; `settle` first."""
        if self._lane is not None and self.joined:
            self.joined = False
            self._lane.leave()


def leaves_texts(rewrite: Rewrite | None) -> bool:
    """Whether what becomes of an event does not depend on the texts in it."""
    return rewrite is None or rewrite is strip_events  # that one looks for keys


def around_text(piece: bytes) -> tuple[bytes, bytes] | None:
    """What is before and behind the text of the last of some whole events; None where none is found."""
    if _CR in piece:
        return None  # where its events end is not looked for here
    begin = piece.rfind(_EVENT_END, 0, -len(_EVENT_END))
    event = piece if begin < 0 else piece[begin + len(_EVENT_END) :]
    found = _TEXT.search(event)
    return None if found is None else (event[: found.start(1)], event[found.end(1) :])
