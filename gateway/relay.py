"""A stream on its way to the client: events pass as they come, and it never ends in a clean lie.

Once the status is committed there is no other attempt. What then goes wrong becomes an error event
without `[DONE]`; what was complete but lacked `[DONE]` gets it. While the first byte is awaited,
comment lines keep the connection of the client alive.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress

from gateway.answers import Stream
from gateway.errors import error_body, passed_on
from gateway.exchange import Exchange
from gateway.opening import Begun
from gateway.plan import Cut
from gateway.pump import Pump
from gateway.server.server import Spawn
from gateway.sse import SseScanner, Unreadable, Untold
from gateway.upstream import UpstreamResponse
from gateway.verdict import judge_event
from geniehive.errors import GenieHiveError, UpstreamTimeout, UpstreamUnavailable

_SSE_HEADERS = {"content-type": "text/event-stream", "cache-control": "no-cache", "x-accel-buffering": "no"}
_COMMENT = b": keepalive\n\n"
_TAIL_GRACE_S = 0.25  # for the end of the upstream's body after [DONE], so that its connection can be used again


def commit(exchange: Exchange, *, decided: bool = True) -> Stream:
    """Send status and headers of a stream; from here on there is no way back."""
    headers = {**exchange.headers(decided=decided), **_SSE_HEADERS}
    if exchange.stream_type:
        headers["content-type"] = exchange.stream_type
    response = exchange.response = Stream(exchange.request, 200, headers)
    response.ending = exchange.ending
    return response


async def relay(exchange: Exchange, response: Stream, begun: Begun, scanner: SseScanner, idle_timeout_s: float) -> bool:
    """Pass a stream on, beginning with what was read of it; whether it came to its proper end.

    One that was cut, and of which enough was kept for another engine to go on, stays open, as `exchange.cut`.
    """
    failure = await _pump(exchange, response, begun.upstream, scanner, begun.head, idle_timeout_s, begun.grace_s)
    if failure is None and not scanner.complete:
        failure = UpstreamUnavailable("the engine's stream ended before it was finished")
    if failure is None:
        if begun.done_marker and not scanner.done:
            await response.write(scanner.end_mark())
        await response.write_eof()
        await _use_up(begun.upstream)
        return True
    begun.upstream.close()
    exchange.failure = failure.message if scanner.error is None else "the engine reported an error in its stream"
    if begun.kept is not None and not exchange.interrupted and _may_go_on(scanner, failure):
        exchange.cut = Cut(failure, scanner.error, begun.kept, scanner.rewrite)
    else:
        await end_with(response, failure, scanner.error)
    return False


def _may_go_on(scanner: SseScanner, failure: GenieHiveError) -> bool:
    """Whether another engine could do better: not with a request that is at fault, nor with an answer without end."""
    if scanner.too_long or isinstance(failure, Unreadable):
        return False
    return scanner.error is None or judge_event({}, scanner.error).retry


async def end_with(response: Stream, failure: GenieHiveError, said: bytes | None = None) -> None:
    """End a stream with an error event; `said` is what the engine itself reported."""
    body = error_body(failure) if said is None else passed_on(502, said)
    ending = response.ending
    await response.write(b"data: " + body + b"\n\n" if ending is None else ending(failure, body))
    await response.write_eof()


async def _pump(
    exchange: Exchange,
    response: Stream,
    upstream: UpstreamResponse,
    scanner: SseScanner,
    head: bytes,
    idle_timeout_s: float,
    grace_s: float,
) -> GenieHiveError | None:
    """Pass everything on until the stream is over; the reason if that came too early."""
    pump = Pump(exchange, response, upstream, scanner, idle_timeout_s=idle_timeout_s, grace_s=grace_s)
    try:
        failure = await pump.run(head)
    except TimeoutError:
        return _timed_out(exchange, scanner, writing=pump.blocked, idle_timeout_s=idle_timeout_s)
    # What the scanner saw of the end counts only if the client has it.
    return None if scanner.complete and not isinstance(failure, Untold) else failure


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
            response = commit(self._exchange, decided=False)
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
