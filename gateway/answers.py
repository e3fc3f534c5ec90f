"""Answers that write themselves: one piece for a whole one, straight to the transport for a stream.

aiohttp's responses look at each answer for what ours never are (cookies, ranges, compression, a body of
unknown kind), and wake a task for each piece of a stream. These are the two that engines' answers need.
They are StreamResponses for whoever passes them on, and take nothing over from them but the name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from http import HTTPStatus

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.helpers import rfc822_formatted_time
from aiohttp.web_protocol import RequestHandler

from geniehive.errors import GenieHiveError

_REASONS = {status.value: status.phrase for status in HTTPStatus}
Ending = Callable[[GenieHiveError, bytes], bytes]
"""The events that end a broken stream in a dialect, from the error and from its body in OpenAI's envelope."""

_JOINED = 64 * 1024  # a body up to this goes out in one piece with its head; a larger one is not copied


class _Direct(web.StreamResponse):
    """What both have in common."""

    def __init__(self, status: int, headers: dict[str, str]) -> None:  # not aiohttp's: it prepares what is not used
        self.head = headers
        """Headers of the answer, names in lower case."""
        self._set_status(status, _REASONS.get(status, "Unknown"))
        self._keep_alive: bool | None = None

    @property
    def keep_alive(self) -> bool | None:
        """Whether another request may follow on the connection; None before the head is written."""
        return self._keep_alive

    def force_close(self) -> None:
        """This answer is the last of its connection."""
        self._keep_alive = False

    def _head_for(self, request: web.BaseRequest) -> bytes:
        """Status line and headers as bytes. Raises ValueError for a header that would break out of its line."""
        ten = request.version.minor == 0 and request.version.major == 1
        if self._keep_alive is None:
            self._keep_alive = request.keep_alive
        headers = "".join([f"{name}: {value}\r\n" for name, value in self.head.items()])
        if headers.count("\n") != len(self.head) or headers.count("\r") != len(self.head) or "\0" in headers:
            raise ValueError("a header of the answer has a control character")
        if self._keep_alive is ten:
            headers += "connection: keep-alive\r\n" if ten else "connection: close\r\n"
        first = f"HTTP/1.{0 if ten else 1} {self._status} {self._reason}"
        text = f"{first}\r\n{headers}date: {rfc822_formatted_time()}\r\n\r\n"
        return text.encode("latin-1", "replace")


class Whole(_Direct):
    """An answer whose body is at hand."""

    def __init__(self, status: int, body: bytes, content_type: str) -> None:
        super().__init__(status, {})
        self._bytes = body
        self._content_kind = content_type
        self._written = False

    @property
    def prepared(self) -> bool:
        """Whether it has gone out."""
        return self._written

    def tell(self, headers: Mapping[str, str]) -> None:
        """More headers."""
        self.head.update(headers)

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        """Write all of it, and wait while the client takes no more."""
        if self._written:
            return None
        self._written = True
        body = self._bytes
        self.head["content-type"] = self._content_kind
        self.head["content-length"] = str(len(body))
        head, writer = self._head_for(request), request.writer
        transport = writer.transport
        if transport is None or transport.is_closing():
            raise ConnectionResetError("the client is gone")
        if len(body) > _JOINED:
            transport.write(head)
            transport.write(body)
        else:
            transport.write(head + body)
        writer.output_size += len(head) + len(body)
        if request.protocol.writing_paused:
            await writer.drain()
        return writer

    async def write_eof(self, data: bytes = b"") -> None:
        """Nothing is left to do; `data` is never given."""


class Stream(_Direct):
    """An answer that is written as it comes: chunked, or for HTTP/1.0 to the end of the connection."""

    ending: Ending | None = None
    """How a stream that broke says so; None is OpenAI's chat completions."""

    def __init__(self, request: web.BaseRequest, status: int, headers: dict[str, str]) -> None:
        super().__init__(status, headers)
        self._writer = request.writer
        self._protocol: RequestHandler = request.protocol
        self._chunks = request.version >= (1, 1)
        self._over = False
        if self._chunks:
            headers["transfer-encoding"] = "chunked"
        else:
            self.force_close()
        self._send(self._head_for(request))

    @property
    def prepared(self) -> bool:
        """Its head is out from the start."""
        return True

    def push(self, data: bytes) -> bool:
        """Write now; False if the client should take what it has before more is written.

        Raises ConnectionResetError if the client is gone.
        """
        if data:
            self._send(b"%x\r\n%b\r\n" % (len(data), data) if self._chunks else data)
        return not self._protocol.writing_paused

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:  # noqa: ARG002 - aiohttp's
        """Nothing is left to do."""
        return self._writer

    async def write(self, data: bytes | bytearray | memoryview) -> None:
        """Write, and wait while the client takes no more."""
        if not self.push(bytes(data)):
            await self._writer.drain()

    async def write_eof(self, data: bytes = b"") -> None:
        """The end of the body, once."""
        if not self._over:
            self._over = True
            self.push(data)
            if self._chunks:
                self._send(b"0\r\n\r\n")
            await self._writer.drain()

    def _send(self, data: bytes) -> None:
        transport = self._protocol.transport
        if transport is None or transport.is_closing():
            raise ConnectionResetError("the client is gone")
        transport.write(data)
        self._writer.output_size += len(data)
