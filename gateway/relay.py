"""A stream on its way to the client: events pass as they come, and it never ends in a clean lie.

Once the status is committed there is no other attempt. What then goes wrong becomes an error event
without `[DONE]`; what was complete but lacked `[DONE]` gets it. While the first byte is awaited,
comment lines keep the connection of the client alive.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

from aiohttp import web

from gateway.errors import error_event, passed_on
from gateway.exchange import Exchange
from gateway.sse import DONE, SseScanner
from gateway.upstream import UpstreamResponse
from geniehive.errors import GenieHiveError, UpstreamTimeout, UpstreamUnavailable

Spawn = Callable[[Callable[[], Coroutine[Any, Any, None]]], asyncio.Task[None]]
"""Starts what it is given as a task; not a coroutine, which would be lost if the task is cancelled before it begins."""

_SSE_HEADERS = {"content-type": "text/event-stream", "cache-control": "no-cache", "x-accel-buffering": "no"}
_COMMENT = b": keepalive\n\n"
_TAIL_GRACE_S = 0.25  # for the end of the upstream's body after [DONE], so that its connection can be used again
_REARM_SHARE = 16  # the idle deadline is moved on at most that often within its length: timers cost


async def commit(exchange: Exchange, *, decided: bool = True) -> web.StreamResponse:
    """Send status and headers of a stream; from here on there is no way back."""
    response = web.StreamResponse(status=200, headers=exchange.headers(decided=decided))
    response.headers.update(_SSE_HEADERS)
    exchange.response = response
    await response.prepare(exchange.request)
    return response


async def relay(
    exchange: Exchange,
    response: web.StreamResponse,
    upstream: UpstreamResponse,
    scanner: SseScanner,
    head: bytes,
    *,
    idle_timeout_s: float,
    grace_s: float,
    done_marker: bool,
) -> bool:
    """Pass a stream on, beginning with what was read of it; whether it came to its proper end.

    `grace_s` is for what may follow once the engine said that it finished: usage, `[DONE]`.
    """
    failure = await _pump(exchange, response, upstream, scanner, head, idle_timeout_s, grace_s)
    if failure is None and not scanner.complete:
        failure = UpstreamUnavailable("the engine's stream ended before it was finished")
    if failure is None:
        if done_marker and not scanner.done:
            await response.write(DONE)
        await response.write_eof()
        await _use_up(upstream)
        return True
    upstream.close()
    exchange.failure = failure.message if scanner.error is None else "the engine reported an error in its stream"
    await end_with(response, failure, scanner.error)
    return False


async def end_with(response: web.StreamResponse, failure: GenieHiveError, said: bytes | None = None) -> None:
    """End a stream with an error event; `said` is what the engine itself reported."""
    event = error_event(failure) if said is None else b"data: " + passed_on(502, said) + b"\n\n"
    await response.write(event)
    await response.write_eof()


async def _pump(
    exchange: Exchange,
    response: web.StreamResponse,
    upstream: UpstreamResponse,
    scanner: SseScanner,
    head: bytes,
    idle_timeout_s: float,
    grace_s: float,
) -> GenieHiveError | None:
    """Read and write until the stream is over; the reason if that came too early."""
    writing = True
    try:
        async with exchange.deadline(idle_timeout_s) as deadline:
            armed, slack = exchange.now(), idle_timeout_s / _REARM_SHARE
            piece = head
            while True:
                if piece:
                    writing = True
                    await response.write(piece)
                    writing = False
                if scanner.over:
                    return None
                now = exchange.now()
                if (now - armed > slack or scanner.finished) and not exchange.interrupted:
                    deadline.reschedule(now + (grace_s if scanner.finished else idle_timeout_s))
                    armed = now
                writing = False
                chunk = await upstream.read()
                if not chunk:
                    await response.write(scanner.close())
                    return None
                piece = scanner.feed(chunk)
    except TimeoutError:
        return _timed_out(exchange, scanner, writing=writing, idle_timeout_s=idle_timeout_s)
    except UpstreamUnavailable as error:
        return None if scanner.complete else error


def _timed_out(
    exchange: Exchange, scanner: SseScanner, *, writing: bool, idle_timeout_s: float
) -> GenieHiveError | None:
    if writing:
        # The client does not read: nothing that is written now would reach it.
        if exchange.request.transport is not None:
            exchange.request.transport.abort()
        raise ConnectionResetError("the client does not read its stream")
    if exchange.interruption is not None:
        return exchange.interruption
    if scanner.finished:
        return None
    return UpstreamTimeout(f"the engine sent nothing for {idle_timeout_s:g} s in the middle of its stream")


async def _use_up(upstream: UpstreamResponse) -> None:
    """Read the end of the upstream's body, which follows `[DONE]` at once if it is well."""
    with suppress(TimeoutError, UpstreamUnavailable):
        async with asyncio.timeout(_TAIL_GRACE_S):
            while not upstream.ended and await upstream.read():
                pass


class Comments:
    """Comment lines for a client that waits for the first byte of its stream.

    The first is sent only after the interval, since it commits the status to 200.
    """

    def __init__(self, exchange: Exchange, interval_s: float, spawn: Spawn) -> None:
        self._exchange = exchange
        self._interval_s = interval_s
        self._spawn = spawn
        self._task: asyncio.Task[None] | None = None
        self._timer = exchange.loop.call_later(interval_s, self._start) if interval_s > 0 else None

    def _start(self) -> None:
        self._task = self._spawn(self._run)

    async def _run(self) -> None:
        with suppress(ConnectionError):
            response = await commit(self._exchange, decided=False)
            while True:
                await response.write(_COMMENT)
                await asyncio.sleep(self._interval_s)

    async def stop(self) -> None:
        """No comment follows after this."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._task is not None:
            task, self._task = self._task, None
            task.cancel()
            await asyncio.wait([task])
