"""An answer as its caller holds it: status and headers, then the body by one of two doors.

`read` waits for the next piece. `push_to` hands each piece to a sink in the very callback that took it off
the socket, without a wake-up in between. Either way no more than a bounded amount is held: whoever does not
take makes the connection stop reading, and so the engine stop sending.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Protocol

import msgspec

from geniehive.errors import UpstreamUnavailable
from geniehive.relay.encoding import Decoder, decoder

if TYPE_CHECKING:
    from geniehive.relay._lane import Lane

_USUAL = frozenset({"application/json", "text/event-stream"})
_NO_HEADERS: Mapping[str, str] = MappingProxyType({})
_HELD = 256 * 1024  # bytes that may wait for a reader; as much as one read of the socket may bring


class Sink(Protocol):
    """Takes a body as it comes, what one read of the socket brought at once.

    It must not raise, but may close the response.
    """

    def take(self, piece: bytes) -> bool:
        """The next piece; False if no other should follow until `UpstreamResponse.resume`."""
        ...

    def end(self, failure: UpstreamUnavailable | None) -> None:
        """Nothing follows: the body came to its end, or broke off."""
        ...


class Wire(Protocol):
    """What a response needs of its connection."""

    @property
    def lane(self) -> Lane | None:
        """Where the pieces of a stream may pass before they are read; None if there is none."""
        ...

    def pause_reading(self) -> None:
        """Take nothing off the socket."""
        ...

    def resume_reading(self) -> None:
        """Go on."""
        ...

    def abort(self) -> None:
        """Close at once: the engine stops working."""
        ...


class UpstreamResponse(msgspec.Struct, eq=False):
    """An answer whose status and headers are there; its body is decoded if it was compressed.

    `headers` has lower-case names; what was sent several times is joined by commas.
    """

    _wire: Wire | None
    _loop: asyncio.AbstractEventLoop
    _pieces: list[bytes] = []  # each has its own (msgspec copies it)
    _size: int = 0
    _waiter: asyncio.Future[None] | None = None
    _sink: Sink | None = None
    _stopped: bool = False  # the sink takes nothing for now
    _decoder: Decoder | None = None
    _complete: bool = False
    _failure: UpstreamUnavailable | None = None
    status: int = 0
    headers: Mapping[str, str] = _NO_HEADERS

    @property
    def content_type(self) -> str:
        """The media type, lower case, without parameters; empty if the engine gave none."""
        given = self.headers.get("content-type", "")
        return given if given in _USUAL else given.partition(";")[0].strip().lower()

    @property
    def lane(self) -> Lane | None:
        """Its connection's, while the body may still come."""
        return None if self._wire is None else self._wire.lane

    @property
    def flowing(self) -> bool:
        """Whether all that came is with the sink, and the sink takes more, as it comes."""
        return self._sink is not None and not self._stopped and not self._pieces and self._decoder is None

    @property
    def ended(self) -> bool:
        """Whether the body was read to its end."""
        return (
            self._complete
            and self._failure is None
            and not self._pieces
            and (self._decoder is None or not self._decoder.pending)
        )

    def begun(self) -> asyncio.Future[None]:
        """Wait for status and headers. Raises UpstreamUnavailable if they do not come."""
        waiter = self._waiter = self._loop.create_future()
        if self.status or self._failure is not None:
            self._moved()
        return waiter

    async def read(self) -> bytes:
        """The next piece of the body; empty at its end. Raises UpstreamUnavailable where it breaks off."""
        while True:
            pieces = self._pieces
            if len(pieces) == 1 and self._decoder is None and self._size <= _HELD:  # the usual case
                self._size = 0
                return pieces.pop()
            if piece := self._next():
                return piece
            if self._failure is not None:
                raise self._failure
            if self._complete:
                return b""
            self._waiter = self._loop.create_future()
            await self._waiter

    def at_hand(self) -> bytes | None:
        """The whole body, if all of it is there in one piece and nobody has read of it; else None."""
        pieces = self._pieces
        if self._complete and len(pieces) == 1 and self._decoder is None and self._failure is None:
            return pieces.pop()
        return None

    def push_to(self, sink: Sink) -> None:
        """Hand everything that is there, and all that comes, to a sink. `read` is not for this response any more."""
        self._sink = sink
        self._push()

    def pull(self) -> None:
        """Back to `read`: the sink gets no more."""
        self._leave_lane()
        self._sink, self._stopped = None, False
        if self._wire is not None and self._size <= _HELD:
            self._wire.resume_reading()

    def hold(self) -> None:
        """The sink takes no more for now: as if it had said so to the last piece."""
        self._stopped = True
        if self._wire is not None:
            self._wire.pause_reading()

    def resume(self) -> None:
        """The sink takes again."""
        if self._stopped:
            self._stopped = False
            self._push()

    def close(self) -> None:
        """End it: an answer that is not over closes its connection, and the engine stops working."""
        if self._sink is not None:
            self._sink = None
        if self._wire is not None:
            self._leave_lane()
            wire, self._wire = self._wire, None
            wire.abort()

    def fail(self, failure: UpstreamUnavailable) -> None:
        """Called by the connection: nothing follows. The first failure is the one that counts."""
        if self._failure is None and not self._complete:
            self._failure, self._wire = failure, None
            self._moved()

    def decode(self, content_encoding: str) -> None:
        """Called by the connection: the body is compressed. Raises UpstreamUnavailable for what nobody knows."""
        self._decoder = decoder(content_encoding)

    def feed(self, piece: bytes) -> None:
        """Called by the connection: more of the body, and its end follows."""
        self._pieces.append(piece)
        self._size += len(piece)

    def arrived(self, piece: bytes) -> None:
        """Called by the connection: more of the body, all that one read of the socket brought."""
        sink = self._sink
        if sink is not None and not self._stopped and self._decoder is None and not self._pieces:  # the usual stream
            if not sink.take(piece):
                self.hold()
            return
        self.feed(piece)
        if sink is not None and not self._stopped:
            self._push()
        elif self._size > _HELD and self._wire is not None:
            self._wire.pause_reading()
        if self._waiter is not None:
            self._moved()

    def finish(self, piece: bytes) -> None:
        """Called by the connection, which is another's from now on: with the last piece the body is whole."""
        if piece:
            self._pieces.append(piece)
        self._complete, self._wire = True, None
        self._moved()

    def _next(self) -> bytes:
        """All that is there, decoded; empty if nothing is. Room is made, so the engine may send."""
        pieces = self._pieces
        if pieces:
            piece = pieces[0] if len(pieces) == 1 else b"".join(pieces)
            pieces.clear()
            if self._size > _HELD and self._wire is not None:
                self._wire.resume_reading()
            self._size = 0
        else:
            piece = b""
        return piece if self._decoder is None else self._decoded(piece)

    def _decoded(self, piece: bytes) -> bytes:
        decoding = self._decoder
        if decoding is None:
            return piece
        try:
            while not (found := decoding.decode(piece)) and decoding.pending:
                piece = b""
            if not found and self._complete:
                decoding.close()
        except UpstreamUnavailable as error:
            wire, self._wire, self._decoder = self._wire, None, None
            self._failure = self._failure or error
            if wire is not None:
                wire.abort()  # nothing of it can be used any more
            return b""
        return found

    def _offer(self, piece: bytes) -> None:
        if self._sink is not None and not self._sink.take(piece):
            self.hold()

    def _push(self) -> None:
        while self._sink is not None and not self._stopped and (piece := self._next()):
            self._offer(piece)
        if self._sink is None or self._stopped:
            return
        if self._wire is not None:
            self._wire.resume_reading()
        if self._complete or self._failure is not None:
            sink, self._sink = self._sink, None
            sink.end(self._failure)

    def _leave_lane(self) -> None:
        lane = self.lane
        if lane is not None:
            lane.leave()

    def _moved(self) -> None:
        """Something came, or the end: a sink takes it, and who waits for it goes on."""
        if self._sink is not None and not self._stopped:
            self._push()
        waiter = self._waiter
        if waiter is None:
            return
        self._waiter = None
        if waiter.done():
            return
        if self.status or self._failure is None:
            waiter.set_result(None)  # whoever reads finds the failure behind what came before it
        else:
            waiter.set_exception(self._failure)
