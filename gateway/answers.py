"""Answers that write themselves: one piece for a whole one, straight to the transport for a stream.

`Whole` and `Stream` are what engines' answers need. Handlers that are asked once in a while may make a
`web.Response`; `whole` makes it one of these.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus
from math import floor

import msgspec

from gateway import web
from gateway.server.connection import Connection
from gateway.server.request import Request
from geniehive.errors import GenieHiveError

_FIRST_LINES = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n" for status in HTTPStatus}
Ending = Callable[[GenieHiveError, bytes], bytes]
"""The events that end a broken stream in a dialect, from the error and from its body in OpenAI's envelope."""

_SIZES = [b"%x\r\n" % size for size in range(1024)]  # what stands before a chunk, for the usual ones
_JOINED = 64 * 1024  # a body up to this goes out in one piece with its head; a larger one is not copied


class Answer(web.StreamResponse):
    """What both have in common."""

    status: int = 200

    def force_close(self) -> None:
        """Nothing: the connection is told by whoever serves it."""


class Whole(Answer, msgspec.Struct, eq=False):
    """An answer whose body is at hand, and its content type. `head` are more headers, names in lower case."""

    status: int
    content: bytes
    kind: str
    head: dict[str, str] | None = None

    @property
    def prepared(self) -> bool:
        """Whether it has gone out: whoever sends it knows."""
        return False

    def send(self, request: Request, lines: str, *, keep_alive: bool) -> None:
        """Write all of it, with headers as lines that are known to be good. Raises ConnectionResetError."""
        body, kind = self.content, self.kind
        if self.head:
            lines += header_lines(self.head)
        if kind != "application/json" and ("\r" in kind or "\n" in kind):
            raise ValueError("the content type has a line end")
        head = _head(
            self.status,
            f"{lines}content-type: {kind}\r\ncontent-length: {len(body)}\r\n",
            http10=request.http10,
            keep_alive=keep_alive,
        )
        if request.method == "HEAD":
            body = b""
        if len(body) > _JOINED:
            request.connection.write(head)
            request.connection.write(body)
        else:
            request.connection.answer(head + body)

    def sent_last(self) -> bytes:
        """All of it as bytes, for a client whose request could not be read: nothing follows."""
        lines = header_lines({**(self.head or {}), "content-type": self.kind, "content-length": str(len(self.content))})
        return _head(self.status, lines, http10=False, keep_alive=False) + self.content


def whole(response: web.StreamResponse) -> Whole:
    """One of ours for what a handler made of the other kind. Raises TypeError for a stream."""
    if not isinstance(response, web.Response):
        raise TypeError("an answer is a Whole, a Stream, or a web.Response")
    head = dict(response.headers)
    return Whole(response.status, response.body, head.pop("content-type"), head)


class Stream(Answer):
    """An answer that is written as it comes: chunked, or for HTTP/1.0 to the end of the connection."""

    ending: Ending | None = None
    """How a stream that broke says so; None is OpenAI's chat completions."""

    def __init__(self, request: Request, status: int, headers: dict[str, str]) -> None:
        self.status = status
        self.connection: Connection = request.connection
        self.chunked = not request.http10
        """Whether it goes out in chunks."""
        self._over = False
        lines = header_lines(headers)
        if self.chunked:
            lines += "transfer-encoding: chunked\r\n"
        self.last = request.http10 or not request.keep_alive
        """Whether nothing may follow on its connection."""
        self.connection.write(_head(status, lines, http10=request.http10, keep_alive=not self.last))

    @property
    def prepared(self) -> bool:
        """Its head is out from the start."""
        return True

    def force_close(self) -> None:
        """This answer is the last of its connection."""
        self.last = True

    def push(self, data: bytes) -> bool:
        """Write now; False if the client should take what it has before more is written.

        Raises ConnectionResetError if the client is gone.
        """
        connection = self.connection
        if data:
            transport = connection.transport
            if transport is None or transport.is_closing():
                raise ConnectionResetError("the client is gone")
            transport.write(_chunk(data) if self.chunked else data)
        return not connection.writing_paused

    async def write(self, data: bytes | bytearray | memoryview) -> None:
        """Write, and wait while the client takes no more."""
        if not self.push(bytes(data)):
            await self.connection.drain()

    async def write_eof(self, data: bytes = b"") -> None:
        """The end of the body, once."""
        if not self._over:
            self._over = True
            self.push(data)
            if self.chunked:
                self.connection.write(b"0\r\n\r\n")
            await self.connection.drain()


def _chunk(data: bytes) -> bytes:
    """Framed as HTTP/1.1 wants it (RFC 9112, 7.1); not for empty data, which would be the end."""
    size = len(data)
    return b"".join((_SIZES[size] if size < len(_SIZES) else b"%x\r\n" % size, data, b"\r\n"))


def header_lines(headers: dict[str, str]) -> str:
    """Headers as they are sent. Raises ValueError for one that would break out of its line."""
    lines = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
    if lines.count("\n") != len(headers) or lines.count("\r") != len(headers) or "\0" in lines:
        raise ValueError("a header of the answer has a control character")
    return lines


def _head(status: int, lines: str, *, http10: bool, keep_alive: bool) -> bytes:
    """Status line and headers as bytes."""
    if keep_alive is http10:
        lines += "connection: keep-alive\r\n" if http10 else "connection: close\r\n"
    first = _FIRST_LINES.get(status) or f"HTTP/1.1 {status} Unknown\r\n"
    if http10:
        first = first.replace("1.1", "1.0", 1)
    return f"{first}{lines}{_date(floor(time.time()))}".encode("latin-1", "replace")


@lru_cache(maxsize=2)
def _date(second: int) -> str:
    """The last lines of a head in this second since the Unix epoch."""
    return f"date: {formatdate(second, usegmt=True)}\r\n\r\n"
