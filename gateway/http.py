"""The HTTP edge: routes in one table, and a server whose every answer is in OpenAI's shape.

aiohttp's low-level server is used, without its router and middlewares: a request is one look-up by
path and method. What aiohttp would answer by itself as text (parser errors, failures of its own) is
answered here, and a client that is slow with its headers is closed.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

from aiohttp import StreamReader, http_exceptions, web
from aiohttp.http import RawRequestMessage, StreamWriter
from aiohttp.web_protocol import ERROR, RequestHandler

from gateway.deadline import Alarm
from gateway.errors import error_response
from gateway.exchange import Exchange, Request, RequestIds
from gateway.refusal import Refusal
from geniehive.access import NEEDED
from geniehive.errors import (
    GenieHiveError,
    HeadersTooLarge,
    InternalError,
    InvalidRequest,
    MethodNotAllowed,
    NotFound,
)
from geniehive.resources import Operation

_log = logging.getLogger(__name__)

Handler = Callable[[Exchange], Awaitable[web.StreamResponse]]
MAX_LINE = 16 * 1024
MAX_FIELD = 32 * 1024
MAX_HEADERS = 128


@dataclass(frozen=True, slots=True)
class Route:
    """A way in. A `path` that ends in "/" takes a name behind it; `scope` "" needs no key, and has to be said."""

    path: str
    method: str
    handler: Handler
    operation: Operation | None = None
    scope: str = "unset"


class RouteTable:
    """Every route; paths are compared as they were sent, so no encoding can lead around one.

    A route that does not say who may ask is a ValueError.
    """

    def __init__(self, routes: Iterable[Route]) -> None:
        self.routes = tuple(routes)
        for route in self.routes:
            if route.scope not in NEEDED:
                raise ValueError(f"{route.method} {route.path} has no scope of geniehive.access: say who may ask")
        self._by_path: dict[str, dict[str, Route]] = {}
        for route in self.routes:
            self._by_path.setdefault(route.path, {})[route.method] = route
        self._named = tuple(path for path in self._by_path if path.endswith("/") and path != "/")

    def find(self, method: str, path: str) -> tuple[Route, str]:
        """The route, and the name behind its path, decoded. Raises NotFound or MethodNotAllowed."""
        methods, tail = self._by_path.get(path), ""
        if methods is None or path in self._named:
            methods, tail = self._named_route(path)
        route = methods.get(method) or (methods.get("GET") if method == "HEAD" else None)
        if route is None:
            raise MethodNotAllowed(f"{printable_path(path)} takes {allowed(methods)}, not {method[:32]}")
        return route, tail

    def allow(self, path: str) -> str:
        """The value of the `Allow` header for a path that exists."""
        methods = self._by_path.get(path)
        return allowed(methods if methods is not None else self._named_route(path)[0])

    def _named_route(self, path: str) -> tuple[dict[str, Route], str]:
        for prefix in self._named:
            if path.startswith(prefix) and len(path) > len(prefix):
                return self._by_path[prefix], unquote(path[len(prefix) :])
        if path.startswith("/api/"):  # of Ollama's API, what changes an Ollama: pull, push, create, copy, delete, blobs
            raise NotFound(
                f"a GenieHive gateway has no {printable_path(path)}: models are added on the hosts, "
                "with the engine's own tools; GET /api/tags lists what there is"
            )
        raise NotFound(f"there is no route {printable_path(path)}; the API is under /v1")


def allowed(methods: Iterable[str]) -> str:
    """Methods as the `Allow` header lists them."""
    names = set(methods)
    return ", ".join(sorted(names | {"HEAD"} if "GET" in names else names))


def printable_path(path: str) -> str:
    """A path for an error message: short, without control characters."""
    return ascii(path[:200])[1:-1]


class Connection(RequestHandler):
    """One client connection: closes one that is slow with its headers, answers what the parser refuses."""

    __slots__ = ("_header_timeout_s", "_header_timer", "alarm", "on_writable")

    def __init__(self, server: Server, *, header_timeout_s: float, **kwargs: Any) -> None:
        super().__init__(server, **kwargs)
        self._header_timeout_s = header_timeout_s
        self._header_timer: asyncio.TimerHandle | None = None
        self.alarm = Alarm(self._loop)
        self.on_writable: Callable[[], None] | None = None
        """Called when the client takes bytes again, after it had not."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio.Protocol: headers are due from now on."""
        super().connection_made(transport)
        self._header_timer = self._loop.call_later(self._header_timeout_s, self._headers_late)

    def connection_lost(self, exc: BaseException | None) -> None:
        """See asyncio.Protocol."""
        self._disarm()
        self.alarm.stop()
        super().connection_lost(exc)

    def resume_writing(self) -> None:
        """See asyncio.Protocol."""
        super().resume_writing()
        if self.on_writable is not None:
            self.on_writable()

    def resume_reading(self, resume_parser: bool = True) -> None:  # noqa: FBT001, FBT002 - aiohttp's signature
        """Go on, if reading was paused at all: aiohttp calls this with every piece of a body that is read."""
        if self._reading_paused:
            super().resume_reading(resume_parser)

    async def start(self) -> None:
        """One request after the other, as aiohttp's own `start` has it, but all in the connection's one task.

        aiohttp makes a task for each request, so that each has context variables of its own. Nothing here uses any.
        """
        while not self._force_close:
            if not self._messages:
                try:
                    self._waiter = self._loop.create_future()
                    await self._waiter
                finally:
                    self._waiter = None
            message, payload = self._messages.popleft()
            if self._parser is not None:
                self._parser.message_consumed()
            if self._buffer_paused and len(self._messages) <= self._msg_queue_resume_size:
                self._resume_reading_if_drained()
            if not await self._serve(message, payload):
                break
        if not self._force_close:
            self._task_handler = None
            if self.transport is not None:
                self.transport.close()

    async def _serve(self, message: Any, payload: StreamReader) -> bool:
        """Answer one request; whether another may follow."""
        handler = self._request_handler
        if handler is None or self._request_factory is None:
            return False
        if not isinstance(message, RawRequestMessage):  # what the parser made of something that it refused
            handler, message = self._make_error_handler(message), ERROR
        writer = StreamWriter(self, self._loop)
        request = self._request_factory(message, payload, self, writer, self._task_handler)  # type: ignore[arg-type]
        try:
            response, gone = await self._handle_request(request, None, handler)
            if gone:
                return False
            self._keepalive = bool(response.keep_alive)
            if not payload.is_eof():
                await self._linger(payload)
        except ConnectionError:
            return False
        except asyncio.CancelledError:
            self.force_close()
            raise
        except Exception:  # noqa: BLE001 - the last resort: logged, and the connection closed
            _log.exception("a connection failed")
            self.force_close()
        finally:
            request._task = None  # type: ignore[assignment]  # noqa: SLF001 - as aiohttp does: it is a cycle
        if not self._keepalive or self._close or self._force_close:
            return False
        self._next_keepalive_close_time = self._loop.time() + self._keepalive_timeout
        if self._keepalive_handle is None:
            self._keepalive_handle = self._loop.call_at(self._next_keepalive_close_time, self._process_keepalive)
        return True

    async def _linger(self, payload: StreamReader) -> None:
        """Read the rest of a body that nobody wanted, for a while: a client that still sends would miss the answer."""
        with suppress(TimeoutError):
            async with asyncio.timeout(self._lingering_time):
                while not payload.is_eof() and not self._force_close:
                    await payload.readany()
        if not payload.is_eof() and not self._force_close:
            self.close()

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol: bytes that complete no request's head are its beginning."""
        super().data_received(data)
        waiter = self._waiter
        if waiter is None or waiter.done() or self._messages:
            if self._header_timer is not None and (self._messages or self._request_in_progress):
                self._disarm()
        elif self._header_timer is None:
            self._header_timer = self._loop.call_later(self._header_timeout_s, self._headers_late)

    def _headers_late(self) -> None:
        self._header_timer = None
        if not self._request_in_progress and not self._messages:
            self.force_close()

    def _disarm(self) -> None:
        if self._header_timer is not None:
            self._header_timer.cancel()
            self._header_timer = None

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,  # noqa: ARG002 - aiohttp's signature
    ) -> web.StreamResponse:
        """Answer what no handler could: parser errors, and failures outside of handlers."""
        if isinstance(exc, ConnectionError):
            raise exc  # the client is gone: nobody to answer, nothing to log
        if request.writer.output_size > 0:
            raise ConnectionError("the answer had begun when it failed")
        error = parser_error(exc) if status < 500 else InternalError("the gateway failed")
        if status >= 500:
            _log.error("a request failed outside of its handler", exc_info=exc)
        response = error_response(error, headers={"server": "geniehive", "x-request-id": RequestIds().new()})
        response.force_close()
        return response


def parser_error(exc: BaseException | None) -> GenieHiveError:
    """What the HTTP parser refused, in our tree."""
    if isinstance(exc, http_exceptions.LineTooLong) or "too many headers" in str(exc).lower():
        return HeadersTooLarge(f"the headers are too large: at most {MAX_HEADERS} of {MAX_FIELD} bytes each are taken")
    return InvalidRequest("the request is not valid HTTP/1.1")


class Server(web.Server):
    """Makes a `Connection` of each client; `serve` answers one request."""

    def __init__(
        self,
        serve: Callable[[Request], Awaitable[web.StreamResponse]],
        *,
        header_timeout_s: float,
        max_connections: int,
    ) -> None:
        super().__init__(
            serve,  # type: ignore[arg-type]  # aiohttp types it for BaseRequest, which our factory does not make
            request_factory=self._make,
            handler_cancellation=True,
        )
        self._header_timeout_s = header_timeout_s
        self._max_connections = max_connections

    def __call__(self) -> RequestHandler:
        """The protocol for a new connection."""
        if len(self._connections) >= self._max_connections:
            return Refusal(self._max_connections)  # type: ignore[return-value]  # asyncio wants no more than a Protocol
        return Connection(
            self,
            loop=self._loop,
            header_timeout_s=self._header_timeout_s,
            keepalive_timeout=75.0,
            access_log=None,
            auto_decompress=False,
            max_line_size=MAX_LINE,
            max_field_size=MAX_FIELD,
            max_headers=MAX_HEADERS,
            lingering_time=5.0,
        )

    def _make(self, message: Any, payload: Any, protocol: Any, writer: Any, task: Any) -> Request:
        request = Request(message, payload, protocol, writer, task, self._loop)
        request.alarm = protocol.alarm
        request.renew()
        return request
