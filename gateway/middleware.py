"""What every request passes: an id, its route, its key, and an answer in OpenAI's shape whatever happens.

One flat wrapper, not a chain: each layer would cost every request. It also knows which requests are
open, so that a gateway that shuts down can wait for them and then end them.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Collection, Mapping
from time import monotonic
from typing import Protocol

from gateway import web
from gateway.answers import Stream, Whole, whole
from gateway.anthropic_errors import reshape, speaks_anthropic
from gateway.errors import error_response
from gateway.exchange import Exchange, Names, request_ids
from gateway.http import RouteTable
from gateway.overdue import Overdue
from gateway.server.request import Request
from geniehive.errors import GenieHiveError, MethodNotAllowed, NotReady

_log = logging.getLogger(__name__)
_DRAINING_RETRY_S = 1


class Checker(Protocol):
    """Who may do what; raises Unauthenticated or PermissionDenied. Returns who it is."""

    def __call__(self, fields: Mapping[bytes, bytes], scope: str) -> object:
        """Check the headers of a request for a scope; their names are in lower case."""
        ...


class Meter(Protocol):
    """Where finished requests are counted."""

    def request_done(self, exchange: Exchange, status: int) -> None:
        """One request is over; status 499 is a client that went away."""
        ...

    def attempt_done(self, service_id: str, outcome: str) -> None:
        """One attempt is over: ok, failed, cut or cancelled."""
        ...

    def resumed(self, how: str, outcome: str) -> None:
        """One attempt to go on with a cut stream is over: prefill, append or repeat, and its outcome."""
        ...


class Front:
    """Serves each request by its route."""

    def __init__(
        self, table: RouteTable, check: Checker, meter: Meter, *, refused_when_draining: str, request_timeout_s: float
    ) -> None:
        self._table = table
        self._check = check
        self._meter = meter
        self._refused_when_draining = refused_when_draining
        self._ids = request_ids()
        self._names = Names()
        self._loop = asyncio.get_running_loop()
        self._open: set[Exchange] = set()
        self._overdue = Overdue(self._open, request_timeout_s)
        self._idle = asyncio.Event()
        self.draining = False

    async def __call__(self, request: Request) -> bool:
        """Answer one request; whether another may follow on its connection. Raises only for a client that is gone."""
        exchange = Exchange(request, next(self._ids), self._loop, self._names, monotonic())
        self._open.add(exchange)
        if not self._overdue.watching:
            self._overdue.watch(self._loop)
        status = 499  # the client went away: nobody reads the answer
        try:
            try:
                answer = await self._begin(exchange)
            except GenieHiveError as error:
                answer = self._failed(exchange, error)
            except ConnectionError:
                raise
            except Exception as error:  # noqa: BLE001 - the last resort: logged, and answered without its inside
                _log.exception("request %s failed", exchange.request_id)
                exchange.failure = "the gateway failed; its log has the reason under this request's id"
                answer = error_response(error)
            keep = request.keep_alive and not self.draining
            if type(answer) is Stream:
                keep = keep and not answer.last
                if answer is not exchange.response:
                    raise TypeError("a stream that its exchange knows nothing of")
            else:
                if exchange.response is not None:
                    # A stream had begun and its handler failed: the client must not take it as complete.
                    request.connection.abort()
                    raise ConnectionResetError("the answer had begun when it failed")
                made = answer if type(answer) is Whole else whole(answer)
                if made.status >= 400 and speaks_anthropic(request.path, request.headers):
                    reshape(made, exchange.request_id)
                made.send(request, exchange.lines(), keep_alive=keep)
            status = answer.status
            return keep
        finally:
            self._open.discard(exchange)
            if self.draining and not self._open:
                self._idle.set()
            self._meter.request_done(exchange, status)

    def _begin(self, exchange: Exchange) -> Awaitable[web.StreamResponse]:
        """Its handler's answer, once the request may have one. Raises what its route and its key are refused for."""
        request = exchange.request
        route, exchange.tail = self._table.find(request.method, request.path)
        exchange.operation = route.operation
        if route.scope:
            if self.draining and route.scope == self._refused_when_draining:
                raise shutting_down()
            exchange.principal = self._check(request.fields, route.scope)
        return route.handler(exchange)

    def _failed(self, exchange: Exchange, error: GenieHiveError) -> web.Response:
        exchange.failed(error)
        extra = {"allow": self._table.allow(exchange.request.path)} if isinstance(error, MethodNotAllowed) else None
        return error_response(error, attempts=exchange.attempts, headers=extra)

    async def drain(self, timeout_s: float) -> None:
        """Wait for open requests, then end those that are left and wait for them to say so."""
        self.draining = True
        if not self._open:
            return
        try:
            async with asyncio.timeout(timeout_s):
                await self._idle.wait()
        except TimeoutError:
            for exchange in tuple(self._open):
                exchange.interrupt(shutting_down())
            try:
                async with asyncio.timeout(_DRAINING_RETRY_S):
                    await self._idle.wait()
            except TimeoutError:
                _log.warning("%d requests did not end in time", len(self._open))

    @property
    def exchanges(self) -> Collection[Exchange]:
        """The requests that are being answered."""
        return self._open

    @property
    def open_requests(self) -> int:
        """Requests that are being answered."""
        return len(self._open)


def shutting_down() -> NotReady:
    """What a request is told that the shutdown cut off."""
    return NotReady("the gateway is shutting down; try again", retry_after_s=_DRAINING_RETRY_S)
