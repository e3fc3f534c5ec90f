"""One connection to an engine: a request out, its answer in, one after the other.

    idle ──send──▶ asked ──head──▶ answering ──end of message──▶ idle, or closed

The end of a message is what llhttp says it is. A body that nothing frames ends with the connection, as RFC
9112 (6.3) has it, and only if that was closed cleanly. What arrives while nothing was asked, or behind the
end of an answer, belongs to nobody: such a connection is not used again.

Behind the socket there is a lane first, if there is one (`geniehive.relay.lane`): it is opened here, after a read that
ended with the end of a chunk, and closes by itself with the first thing that it does not know.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from functools import lru_cache

import httptools

from geniehive.errors import UpstreamUnavailable
from geniehive.relay.failures import broken_off, no_answer, unanswered
from geniehive.relay.lane import lane_to
from geniehive.relay.outbox import Outbox
from geniehive.relay.request import Origin
from geniehive.relay.response import UpstreamResponse

MAX_HEAD = 64 * 1024
MAX_HEADERS = 256
_JOINED = 64 * 1024  # a body up to this goes out in one piece with its head; a larger one is not copied
_IDLE_S = 60.0  # of a connection that nobody uses, unless the engine says less
_MARGIN_S = 1.0  # before the engine's own timeout


class Connection(asyncio.Protocol):
    """Speaks for one request at a time. `freed` and `lost` tell its pool what became of it."""

    __slots__ = (
        "_ended", "_expects_head", "_freed", "_head_size", "_headers", "_idle_s", "_interim", "_loop", "_lost",
        "_outbox", "_parser", "_pieces", "_reading", "_response", "_reusable", "_sending", "_transport", "_unsent",
        "_wait_writable", "_writing", "data_received", "good_until", "lane", "on_body", "on_message_begin", "origin",
        "taken_at",
    )  # fmt: skip

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        origin: Origin,
        freed: Callable[[Connection], None],
        lost: Callable[[Connection], None],
        outbox: Outbox,
    ) -> None:
        self._loop = loop
        self._freed = freed
        self._lost = lost
        self._outbox = outbox
        self._transport: asyncio.Transport | None = None
        self._unsent = b""  # a request that waits for the end of the round
        self._pieces: list[bytes] = []  # of the body, as one read of the socket brings them
        self._reusable: list[None] = []  # not empty: the message is over, nothing is behind it, and more may follow
        # What llhttp finds goes straight into these: its callbacks are C functions wherever that is enough.
        self.on_body = self._pieces.append
        self.on_message_begin = self._reusable.clear  # behind the end of the answer, it is a stray that begins
        self._parser: httptools.HttpResponseParser | None = httptools.HttpResponseParser(self)
        self._response: UpstreamResponse | None = None
        self._headers: list[tuple[bytes, bytes]] = []
        self._head_size = 0
        self._expects_head = False  # headers are of an answer's head, and not trailers
        self._interim = False  # the message is a 1xx: another one follows
        self._ended: int | None = None  # the message is over, and so many of the pieces are of its body
        self._sending = False  # the request's body is not yet out
        self._reading = True
        self._writing = True
        self._wait_writable: asyncio.Future[None] | None = None
        self._idle_s = _IDLE_S
        self.lane = lane_to(self._received)
        # See asyncio.Protocol: what the loop calls, so a lane stands there itself.
        self.data_received: Callable[[bytes], None] = self.lane or self._received  # type: ignore[assignment]  # a method there
        self.origin = origin
        self.good_until = 0.0
        """Until when it may be used again, by the loop's clock."""
        self.taken_at = 0.0
        """When it was taken out of its pool for the last request, by the loop's clock."""

    @property
    def closed(self) -> bool:
        """Whether nothing can be sent on it any more."""
        return self._transport is None or self._transport.is_closing()

    # --- the request -------------------------------------------------------------------------------

    def send(self, head: bytes, body: bytes) -> UpstreamResponse:
        """Send a whole request, at the end of the round if others are sent in it."""
        transport = self._transport
        response = self._expect(transport, sending=False)
        if self._response is None or transport is None:
            return response
        if len(body) > _JOINED:
            transport.write(head)
            transport.write(body)
        elif self._outbox.takes():
            self._unsent = head + body
            self._outbox.hold(self)
        else:
            transport.write(head + body)
        return response

    def flush(self) -> None:
        """See Held."""
        data, self._unsent = self._unsent, b""
        if data and self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    def begin(self, head: bytes) -> UpstreamResponse:
        """Send the head; the body follows by `write` until `end`."""
        transport = self._transport
        response = self._expect(transport, sending=True)
        if self._response is not None and transport is not None:
            transport.write(head)
        return response

    def _expect(self, transport: asyncio.Transport | None, *, sending: bool) -> UpstreamResponse:
        """Be ready for the answer to what is sent next; a failed one if nothing can be sent.

        Whatever holds the parts of an answer is empty: only one that came whole leaves its connection to another.
        """
        response = UpstreamResponse(self, self._loop)
        if transport is None or transport.is_closing():
            self._response = None
            response.fail(unanswered("connection closed"))
            return response
        self._response = response
        self._expects_head, self._ended, self._sending = True, None, sending
        self._head_size = 0
        if self.lane is not None:
            self.lane.leave()
        return response

    async def write(self, data: bytes) -> None:
        """Send a part of the body, and wait while the engine takes no more. Raises ConnectionResetError."""
        if self.closed or self._transport is None:
            raise ConnectionResetError("the engine closed the connection")
        self._transport.write(data)
        while not self._writing:
            self._wait_writable = self._loop.create_future()
            try:
                await self._wait_writable
            finally:
                self._wait_writable = None
            if self.closed:
                raise ConnectionResetError("the engine closed the connection")

    def end(self) -> None:
        """The body is out."""
        self._sending = False

    # --- what a response asks for ------------------------------------------------------------------

    def pause_reading(self) -> None:
        """See Wire."""
        if self._reading and self._transport is not None and not self._transport.is_closing():
            self._reading = False
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        """See Wire."""
        if not self._reading and self._transport is not None and not self._transport.is_closing():
            self._reading = True
            self._transport.resume_reading()

    def abort(self) -> None:
        """See Wire; also for a connection that is idle or not needed."""
        self._response = None
        if self._transport is not None:
            self._transport.abort()

    # --- asyncio.Protocol --------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio.Protocol."""
        self._transport = transport  # type: ignore[assignment]  # a stream's transport is a Transport

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio.Protocol."""
        response, self._response = self._response, None
        self._transport = self._parser = None
        if self.lane is not None:
            self.lane.close()
        self._lost(self)
        if self._wait_writable is not None and not self._wait_writable.done():
            self._wait_writable.set_result(None)
        if response is None:
            return
        if exc is None and response.status and not framed(response.headers):
            response.finish(b"")  # that is how its body ends; one that has none was over with its head
        else:
            response.fail(self._gone(response, exc))

    def _received(self, data: bytes) -> None:
        """What no lane took."""
        response, parser = self._response, self._parser
        if response is None or parser is None or self._unsent:
            self._fail(unanswered("it said something before it was asked"))
            return
        try:
            parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            if self._pieces and self._response is not None and self._ended is None:
                response.feed(b"".join(self._pieces))
            self._refuse(error)
            return
        if self._ended is not None:
            self._settle(response, self._ended)
        elif response.status:
            pieces = self._pieces
            if pieces and self._response is not None:
                piece = pieces[0] if len(pieces) == 1 else b"".join(pieces)
                lane = self.lane
                # `ready`: it knew what events are like before this; `open`: it may pass what comes next.
                chunks = lane is not None and lane.ready and data == in_chunks(pieces)
                pieces.clear()
                response.arrived(piece)
                if chunks and lane is not None and self._response is response and response.flowing:
                    lane.open = True
        else:
            self._head_size += len(data)
            if self._head_size > MAX_HEAD:
                self._fail(no_answer("its headers are too large"))

    def pause_writing(self) -> None:
        """See asyncio.Protocol."""
        self._writing = False

    def resume_writing(self) -> None:
        """See asyncio.Protocol."""
        self._writing = True
        if self._wait_writable is not None and not self._wait_writable.done():
            self._wait_writable.set_result(None)

    # --- llhttp's callbacks ------------------------------------------------------------------------

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header, or trailer: trailers are not kept."""
        if self._expects_head:
            self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        """The head is there."""
        response, parser = self._response, self._parser
        if response is None or parser is None or self._ended is not None:
            return
        status = parser.get_status_code()
        if 100 <= status < 200:
            self._interim = True
            self._headers.clear()
            if status == 101:
                self._fail(no_answer("it changed the protocol"))
            return
        if len(self._headers) > MAX_HEADERS:
            self._fail(no_answer("it has too many headers"))
            return
        self._expects_head = False
        headers = joined(self._headers)
        self._headers.clear()
        if "keep-alive" in headers:
            self._idle_s = announced_idle_s(headers["keep-alive"])
        if "content-encoding" in headers:
            try:
                response.decode(headers["content-encoding"])
            except UpstreamUnavailable as error:
                self._fail(error)
                return
        response.status, response.headers = status, headers

    def on_message_complete(self) -> None:
        """The message is over: an interim answer, or the one that was asked for."""
        if self._interim:
            self._interim = False
        elif self._ended is None and self._parser is not None:
            self._ended = len(self._pieces)
            if self._parser.should_keep_alive():
                self._reusable.append(None)

    # --- ends --------------------------------------------------------------------------------------

    def _settle(self, response: UpstreamResponse, ended: int) -> None:
        """The answer is whole, with so many of the pieces: the connection is free for another request, or closed."""
        if self._response is None:
            return  # closed by whoever took the last piece
        self._response, pieces = None, self._pieces
        piece = pieces[0] if ended == 1 else b"".join(pieces[:ended])
        pieces.clear()
        transport = self._transport
        if self._reusable and not self._sending and transport is not None and not transport.is_closing():
            if not self._reading:
                self.resume_reading()
            self.good_until = self._loop.time() + self._idle_s
            self._freed(self)
        else:
            self.abort()
        self._outbox.wakes()
        response.finish(piece)

    def _fail(self, failure: UpstreamUnavailable) -> None:
        response = self._response
        self.abort()
        if response is not None:
            response.fail(failure)

    def _refuse(self, error: Exception) -> None:
        """What came is not HTTP; behind the end of the answer that harms only the connection."""
        response = self._response
        if self._ended is not None and response is not None:
            self._reusable.clear()
            self._settle(response, self._ended)
            return
        why = "not a valid HTTP answer"
        self._fail(broken_off(why) if response is not None and response.status else no_answer(why))
        if isinstance(error, httptools.HttpParserCallbackError) and error.__context__ is not None:
            raise error.__context__  # a failure of ours or of a sink: the loop's handler logs it

    def _gone(self, response: UpstreamResponse, exc: Exception | None) -> UpstreamUnavailable:
        if response.status:
            return broken_off("connection reset" if exc is not None else "body cut short")
        why = "connection reset" if exc is not None else "closed without an answer"
        return no_answer(why) if self._head_size else unanswered(why)


def joined(pairs: list[tuple[bytes, bytes]]) -> dict[str, str]:
    """Headers by lower-case name; repeated ones joined by commas (RFC 9110, 5.3)."""
    found = {_key(name): value.decode("latin-1") for name, value in pairs}
    if len(found) == len(pairs):
        return found
    several: dict[str, list[str]] = {}
    for name, value in pairs:
        several.setdefault(_key(name), []).append(value.decode("latin-1"))
    return {key: ", ".join(values) for key, values in several.items()}


@lru_cache(maxsize=256)
def _key(name: bytes) -> str:
    """A header's name as it is looked for; engines send the same few with every answer."""
    return name.lower().decode("latin-1")


def in_chunks(pieces: list[bytes]) -> bytes:
    """Each piece as a chunk of its own, the way that every engine frames them (RFC 9112, 7.1)."""
    return b"".join([b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces])


def framed(headers: Mapping[str, str]) -> bool:
    """Whether the body's end is in the message itself (RFC 9112, 6.3: the final coding decides)."""
    coding = headers.get("transfer-encoding")
    if coding is not None:
        return coding.rpartition(",")[2].strip().lower() == "chunked"
    return "content-length" in headers


def announced_idle_s(keep_alive: str) -> float:
    """For how long an idle connection is good, by a Keep-Alive header such as `timeout=5, max=100`."""
    for part in keep_alive.split(","):
        name, _, value = part.partition("=")
        if name.strip().lower() == "timeout" and value.strip().isdigit():
            return max(0.0, min(_IDLE_S, int(value.strip()) - _MARGIN_S))
    return _IDLE_S
