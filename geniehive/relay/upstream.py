"""The door: `open` sends a request and comes back with the head of its answer.

A request whose body is at hand goes out on a connection that waits in the pool. Such a connection may just
have been closed by its engine; then nothing comes back, and at once: the request goes out once more, on a
new connection. That is no attempt, and outside of any retry budget: a connection waits in the pool only after an
answer that came whole, and can be found dead once. So there are never more such repeats than such answers
before them, and an engine that does not answer any more gets none.

A body that is streamed cannot be sent twice, and takes a new connection from the start.
Redirects are not followed and cookies not kept. Deadlines other than that of connecting are the caller's.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from functools import partial
from typing import Self

from geniehive.errors import UpstreamUnavailable
from geniehive.relay.connection import Connection
from geniehive.relay.dialer import Dialer
from geniehive.relay.failures import Unanswered, no_answer
from geniehive.relay.outbox import Outbox
from geniehive.relay.pool import Pool
from geniehive.relay.request import Target, UpstreamRequest, head, target
from geniehive.relay.response import UpstreamResponse

_STALE_S = 1.0  # an engine that closes its idle connection does it at once; later it is one that failed at its work
_MOST_TARGETS = 4096


class Upstream:
    """Connections to engines. Use as an async context manager.

    `outbox` is where requests wait for the end of a round, if others share it.
    """

    def __init__(
        self, *, connect_timeout_s: float, tls: ssl.SSLContext | None = None, outbox: Outbox | None = None
    ) -> None:
        self._outbox = outbox
        self._connect_timeout_s = connect_timeout_s
        self._tls = tls
        self._targets: dict[str, Target] = {}
        self._pool: Pool | None = None
        self._dialer: Dialer | None = None

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._pool = Pool(loop, self._outbox or Outbox(loop))
        self._dialer = Dialer(loop, self._connect_timeout_s, self._tls)
        return self

    async def __aexit__(self, *_: object) -> None:
        pool, self._pool, self._dialer = self._pool, None, None
        if pool is not None:
            await pool.close()

    @property
    def connections(self) -> tuple[int, int]:
        """How many are open, and how many of them wait."""
        return (0, 0) if self._pool is None else (self._pool.open, self._pool.idle)

    async def open(self, request: UpstreamRequest) -> UpstreamResponse:
        """Send a request and wait for the head of its answer; the caller closes what it gets.

        Raises Refused (nothing was sent) or UpstreamUnavailable.
        """
        url, body, pool = request.url, request.body, self._pool
        try:
            to = self._targets.get(url) or self._target(url)
            length = len(body) if isinstance(body, bytes) else _announced(request)
            wire = head(request.method, to, request.headers, length, request.lines)
        except ValueError as error:
            raise no_answer(str(error)) from error
        if not isinstance(body, bytes):
            return await self._upload(to, wire, body, length)
        waiting = None if pool is None else pool.take(to.origin)
        if waiting is not None:
            response = waiting.send(wire, body)
            try:
                await response.begun()
            except Unanswered:
                waiting.abort()
                if asyncio.get_running_loop().time() - waiting.taken_at > _STALE_S:
                    raise
            except BaseException:
                response.close()  # not its connection: that is another's already if the answer came whole meanwhile
                raise
            else:
                return response
        return await _ask(await self._dial(to), wire, body)

    async def _upload(
        self, to: Target, wire: bytes, body: AsyncIterator[bytes], length: int | None
    ) -> UpstreamResponse:
        """Send while listening: an engine that refuses does so before it has read everything."""
        connection = await self._dial(to)
        response = connection.begin(wire)
        failure: UpstreamUnavailable | None = None
        try:
            async with asyncio.TaskGroup() as tasks:
                sending = tasks.create_task(_send(connection, response, body, length))
                try:
                    await response.begun()
                except UpstreamUnavailable as error:
                    failure = error
                if failure is not None or response.status >= 300:
                    sending.cancel()  # whatever it decided, it needs no more for it
        except BaseException:
            response.close()
            raise
        if failure is not None:
            connection.abort()
            raise failure
        return response

    async def _dial(self, to: Target) -> Connection:
        pool, dialer = self._pool, self._dialer
        if pool is None or dialer is None:
            raise UpstreamUnavailable("the gateway is not running")
        connection = await dialer.dial(to.origin, partial(pool.make, to.origin))
        pool.adopt(connection)
        return connection

    def _target(self, url: str) -> Target:
        """Taken apart once: there are as many as endpoints times routes."""
        if len(self._targets) >= _MOST_TARGETS:
            self._targets.clear()
        found = self._targets[url] = target(url)
        return found


async def _ask(connection: Connection, wire: bytes, body: bytes) -> UpstreamResponse:
    response = connection.send(wire, body)
    try:
        await response.begun()
    except BaseException:
        response.close()
        raise
    return response


async def _send(
    connection: Connection, response: UpstreamResponse, body: AsyncIterator[bytes], length: int | None
) -> None:
    """The body, piece by piece, at the pace at which the engine takes it. Failures come out of the response."""
    sent = 0
    try:
        async for piece in body:
            if piece:
                sent += len(piece)
                if length is not None and sent > length:
                    raise ValueError("the body is longer than announced")
                await connection.write(piece if length is not None else b"%x\r\n%b\r\n" % (len(piece), piece))
        if length is None:
            await connection.write(b"0\r\n\r\n")
        elif sent != length:
            raise ValueError("the body is shorter than announced")
        connection.end()
    except ConnectionResetError as error:
        response.fail(no_answer("closed while it was sent the request"))
        if not connection.closed:  # not the engine's doing: the body's
            response.fail(no_answer(str(error)))
            connection.abort()
    except Exception as error:  # noqa: BLE001 - whatever the body's source raises: the engine must not take it as whole
        connection.abort()
        response.fail(no_answer(f"the request's body broke off: {type(error).__name__}"))


def _announced(request: UpstreamRequest) -> int | None:
    """The length that the headers give for a body that is streamed. Raises ValueError."""
    text = request.headers.get("content-length")
    if text is None:
        return None
    if not (text.isascii() and text.isdigit()):
        raise ValueError("the content-length is not a number")
    return int(text)
