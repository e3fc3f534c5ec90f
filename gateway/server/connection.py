"""One client connection: requests off the wire, answered one after the other by the connection's one task.

    data ──llhttp──▶ requests, in the order in which they came ──serve──▶ answers

A request is handed over when its head is complete; its body follows into `Body`. What llhttp refuses becomes the last
entry of the queue, so the answers to what came before it are not lost. The task is made with the first request, and
waits for the next; the client's leaving cancels it, whatever it is at. Where a request's end cannot be told, or its
body is not read to the end, no other follows on the connection.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

import httptools

from gateway.deadline import Alarm
from gateway.server.body import Body, BodyError
from gateway.server.limits import MAX_HEADERS, MAX_TARGET, TOO_LARGE, UNSUSPICIOUS, HeadSize
from gateway.server.request import Request, path_of

if TYPE_CHECKING:
    from gateway.server.server import Server

_log = logging.getLogger(__name__)
_MOST_WAITING = 16  # requests that were sent before the answer to the first
_LINGER_S = 5.0
_LEFT_S = 1.0
_NOT_HTTP = "the request is not valid HTTP/1.1"


class Refused(Exception):
    """Something came that is no request: `too_large` or not HTTP at all."""

    def __init__(self, why: str, *, too_large: bool = False) -> None:
        super().__init__(why)
        self.too_large = too_large


class Connection(asyncio.Protocol):
    """Reads, has served, and writes. `alarm` is its one timer for deadlines."""

    __slots__ = (
        "_begun", "_body", "_closing", "_drained", "_fields", "_head_size", "_header_timer", "_held", "_loop", "_more",
        "_outbox", "_parser", "_pieces", "_replaying", "_requests", "_server", "_target", "_task", "_unsent",
        "_upgrading", "_waiter", "_welcomed", "alarm", "idle_since", "on_body", "on_header", "on_message_begin",
        "on_url", "on_writable", "transport", "writing_paused",
    )  # fmt: skip

    def __init__(self, server: Server, loop: asyncio.AbstractEventLoop) -> None:
        self._server = server
        self._loop = loop
        self._outbox = server.outbox
        self._unsent = b""  # an answer that waits for the end of the round
        self.transport: asyncio.Transport | None = None
        self.alarm = Alarm(loop)
        self.writing_paused = False
        """Whether the client has to take bytes before more are written."""
        self.on_writable: Callable[[], None] | None = None
        """Called when the client takes bytes again, after it had not, and when it will take no more."""
        self.idle_since = 0.0
        """When the last answer was out, by the monotonic clock; 0 while there is something to do."""
        self._requests: list[Request | Refused] = []  # few, and a deque has 600 bytes from the start
        self._body: Body | None = None  # of the request whose body is being read off the wire
        self._task: asyncio.Task[None] | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._drained: asyncio.Future[None] | None = None
        self._header_timer: asyncio.TimerHandle | None = None
        self._head_size: HeadSize | None = None
        self._held = False  # reading is paused
        self._more = True  # whether what else comes is listened to
        self._closing = False  # the answer that is being made is the last
        self._upgrading = self._replaying = False
        self._welcomed = False  # the client expected a word before it sent its body, and got it
        # What llhttp finds goes straight into these: its callbacks are C functions wherever that is enough.
        self._begun: list[None] = []  # not empty: a head has begun, and is not complete
        self._target: list[bytes] = []
        self._fields: dict[bytes, bytes] = {}
        self._pieces: list[bytes] = []
        self.on_message_begin = partial(self._begun.append, None)
        self.on_url = self._target.append
        self.on_header = self._fields.setdefault
        self.on_body = self._pieces.append
        self._parser: httptools.HttpRequestParser | None = httptools.HttpRequestParser(self)

    # --- asyncio.Protocol --------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio.Protocol: headers are due from now on."""
        self.transport = transport  # type: ignore[assignment]  # a stream's transport is a Transport
        self._server.connections.add(self)
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        """See asyncio.Protocol: whatever was being answered, nobody waits for it."""
        self._server.left(self)
        self.transport = self._parser = None
        self._more = False
        self._head_came()
        self.alarm.stop()
        if self._drained is not None and not self._drained.done():
            self._drained.set_exception(ConnectionResetError("the client is gone"))
        if self._task is not None:
            self._task.cancel()

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        parser = self._parser
        if parser is None or not self._more:
            return
        if self._body is None and (len(data) > UNSUSPICIOUS or self._head_size is not None):
            self._count_head(data)
        try:
            if self._more:
                parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._stay(data[upgrade.args[0] :])
        except httptools.HttpParserError:
            self._refuse(Refused(_NOT_HTTP))
        if self._body is not None:
            self._body_came(self._body)
        elif self._begun:
            self._head_goes_on(data)
        if self._requests and (self._waiter is not None or self._task is None):
            self._wake()

    def _count_head(self, data: bytes) -> None:
        """These bytes are of a head, which may be too large."""
        if self._head_size is None:
            self._head_size = HeadSize()
        if not self._head_size.fits(data):
            self._refuse(Refused(TOO_LARGE, too_large=True))

    def _head_goes_on(self, data: bytes) -> None:
        """A head began, and is not complete: there is a time for that, and a size."""
        if self._header_timer is None:
            self._expect_head()
        if self._head_size is None and self._more:
            self._count_head(data)

    def _body_came(self, body: Body) -> None:
        """A part of a body came, and it is not complete."""
        if self._pieces:
            body.feed(self._pieces)
            self._pieces.clear()
        if len(self._fields) > MAX_HEADERS:  # trailers
            self._refuse(Refused(TOO_LARGE, too_large=True))

    def eof_received(self) -> None:
        """See asyncio.Protocol: who says no more is gone. Nothing is written any more, and a stream hears of it now."""
        self.flush()
        if self.transport is not None:
            self.transport.close()
        if self.on_writable is not None:
            self.on_writable()

    def pause_writing(self) -> None:
        """See asyncio.Protocol."""
        self.writing_paused = True

    def resume_writing(self) -> None:
        """See asyncio.Protocol."""
        self.writing_paused = False
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)
        if self.on_writable is not None:
            self.on_writable()

    # --- llhttp's callbacks ------------------------------------------------------------------------

    def on_headers_complete(self) -> None:
        """A head is there: that is a request. Its body is complete with `on_message_complete`."""
        parser = self._parser
        if self._replaying or parser is None:
            return
        sent, target = self._fields, self._target
        fields = {name.lower(): value for name, value in sent.items()}
        if len(fields) < len(sent):  # one was written in several ways: the first counts
            fields = {name.lower(): value for name, value in reversed(sent.items())}
        where = (target[0] if len(target) == 1 else b"".join(target)).decode()  # llhttp lets ASCII through, no more
        sent.clear()
        target.clear()
        self._begun.clear()
        self._head_size = None
        if self._header_timer is not None:
            self._head_came()
        keep = parser.should_keep_alive()
        # Whose connection is kept without a word about it speaks 1.1: asking llhttp costs more than the words' places.
        tacit = keep and b"connection" not in fields and b"proxy-connection" not in fields
        version = "1.1" if tacit else parser.get_http_version()
        if len(fields) > MAX_HEADERS or len(where) > MAX_TARGET:
            self._refuse(Refused(TOO_LARGE, too_large=True))
        elif version not in {"1.1", "1.0"}:
            self._refuse(Refused(f"HTTP/{version} is not spoken here; use HTTP/1.1"))
        else:
            self._body = body = Body(self)
            self._upgrading = parser.should_upgrade()
            method = parser.get_method().decode()
            self.idle_since = 0.0
            path = where if where[:1] == "/" and "?" not in where and "#" not in where else path_of(where)
            self._requests.append(
                Request(self, method, where, path, fields, body, http10=version == "1.0", keep_alive=keep)
            )
            if len(self._requests) > _MOST_WAITING:
                self.hold()

    def on_message_complete(self) -> None:
        """The body of the request that came last is complete."""
        body = self._body
        if body is None or self._upgrading:
            return
        body.finish(self._pieces)
        self._pieces.clear()
        self._fields.clear()  # trailers
        self._body = None

    def _stay(self, rest: bytes) -> None:
        """The client would like another protocol, and stays with this one: its body is read as it is framed.

        An upgrade may be ignored (RFC 9110, 7.8). llhttp stops at such a request: a new parser goes on behind its head.
        """
        request = self._requests[-1] if self._requests else None
        if not isinstance(request, Request) or request.method == "CONNECT":
            self._more, self._closing = False, True
            if self._body is not None:
                self._body.finish(())
            return
        self._upgrading, self._replaying = False, True
        framing = [
            b"%b: %b\r\n" % (name, request.fields[name])
            for name in (b"content-length", b"transfer-encoding")
            if name in request.fields
        ]
        self._parser = httptools.HttpRequestParser(self)
        self._parser.feed_data(b"POST / HTTP/1.1\r\n" + b"".join(framing) + b"\r\n")
        self._begun.clear()
        self._fields.clear()
        self._target.clear()
        self._replaying = False
        if rest:
            self.data_received(rest)

    def _refuse(self, refused: Refused) -> None:
        """What came is not HTTP, or too much of it. Inside of a body that is for the one who reads the body."""
        self._more = False
        self._head_came()
        if self._body is not None:
            self._closing = True
            self._body.fail()
        else:
            self._requests.append(refused)

    # --- reading -----------------------------------------------------------------------------------

    def hold(self) -> None:
        """Read nothing for now: the client has to wait."""
        if not self._held and self.transport is not None:
            self._held = True
            self.transport.pause_reading()

    def go_on(self) -> None:
        """Read again."""
        if self._held and self.transport is not None and not self.transport.is_closing():
            self._held = False
            self.transport.resume_reading()

    def _expect_head(self) -> None:
        self._header_timer = self._loop.call_later(self._server.header_timeout_s, self._headers_late)

    def _head_came(self) -> None:
        if self._header_timer is not None:
            self._header_timer.cancel()
            self._header_timer = None

    def _headers_late(self) -> None:
        self._header_timer = None
        if self._task is None or self._waiter is not None:
            self.close()
        else:  # an answer is still being made: it is the last
            self._more, self._closing = False, True

    # --- writing -----------------------------------------------------------------------------------

    def write(self, data: bytes) -> None:
        """Send. Raises ConnectionResetError if the client is gone."""
        transport = self.transport
        if transport is None or transport.is_closing():
            raise ConnectionResetError("the client is gone")
        if self._unsent:
            self.flush()
        transport.write(data)

    def answer(self, data: bytes) -> None:
        """The same for a short answer that is whole: at the end of the round, if there are others in it."""
        outbox, transport = self._outbox, self.transport
        if self._unsent or transport is None or transport.is_closing() or not outbox.takes():
            self.write(data)
        else:
            self._unsent = data
            outbox.hold(self)

    def flush(self) -> None:
        """See Held."""
        data, self._unsent = self._unsent, b""
        if data and self.transport is not None and not self.transport.is_closing():
            self.transport.write(data)

    def welcome(self) -> None:
        """Tell a client that asked first that the body of its request is wanted."""
        self._welcomed = True
        self.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    async def drain(self) -> None:
        """Wait while the client takes no more. Raises ConnectionResetError if it is gone."""
        while self.writing_paused:
            if self.transport is None:
                raise ConnectionResetError("the client is gone")
            self._drained = self._loop.create_future()
            try:
                await self._drained
            finally:
                self._drained = None

    def close(self) -> None:
        """Close once what was written is out."""
        self._more = False
        self.flush()
        if self.transport is not None:
            self.transport.close()

    def abort(self) -> None:
        """Close at once."""
        self._more = False
        if self.transport is not None:
            self.transport.abort()

    def close_when_idle(self) -> None:
        """The server stops: close now, or behind the answer that is being made."""
        self._closing = True
        if self._task is None or self._waiter is not None:
            self.close()

    # --- serving -----------------------------------------------------------------------------------

    def _wake(self) -> None:
        waiter = self._waiter
        self._outbox.wakes()
        if self._task is None:
            self._task = self._server.spawn(self._run)
        elif waiter is not None and not waiter.done():
            waiter.set_result(None)

    async def _run(self) -> None:
        """One request after the other, until one is the last."""
        try:
            serve, now, requests = self._server.serve, self._server.now, self._requests
            while True:
                if not requests:
                    self._waiter = self._loop.create_future()
                    try:
                        await self._waiter
                    finally:
                        self._waiter = None
                request = requests.pop(0)
                if self._held and len(requests) <= _MOST_WAITING and (self._body is None or not self._body.full):
                    self.go_on()
                if isinstance(request, Refused):
                    self.write(self._server.refuse(request))
                    await self._leave()
                    break
                keep = await serve(request)
                if self.writing_paused or not self._more or not request.body.complete or self._welcomed:
                    await self._settle(request)
                if not keep or self._closing or not request.body.complete:
                    break
                self.idle_since = now()
                del request  # or it would be kept while the next is waited for
            self.close()
        except ConnectionError:
            self.abort()
        except BaseException:
            self.abort()
            raise

    async def _settle(self, request: Request) -> None:
        """What is left to do behind an answer, where there is anything."""
        if self.writing_paused:
            await self.drain()
        if not self._more and not self._requests:
            await self._leave()
        elif not request.body.complete and (self._welcomed or b"expect" not in request.fields):
            await self._linger(request.body)
        self._welcomed = False

    async def _leave(self) -> None:
        """Say that nothing follows, and give the client a moment to read that.

        A connection that is closed with bytes unread is reset, which takes the answer with it.
        """
        self.flush()
        if self.transport is not None and self.transport.can_write_eof():
            self.transport.write_eof()
        with suppress(TimeoutError):
            async with asyncio.timeout(_LEFT_S):
                await self._loop.create_future()  # the client's leaving ends it

    async def _linger(self, body: Body) -> None:
        """Read the rest of a body that nobody wanted, for a while: a client that still sends would miss the answer."""
        with suppress(TimeoutError, BodyError):
            async with asyncio.timeout(_LINGER_S):
                while await body.read():
                    pass
