"""A stream from the engine's connection to the client's, without a task's help.

The relay hands each piece over in the callback that took it off the socket. It is scanned there and
written to the client's transport. Only three things wake the request's task: the end, a failure, and a
deadline that passed. A client that does not take makes the engine's connection stop reading. Events that are like the
last one may not even come here (`gateway.express`).
"""

from __future__ import annotations

import asyncio
from time import monotonic

from gateway.answers import Stream
from gateway.deadline import Deadline
from gateway.exchange import Exchange
from gateway.express import Express
from gateway.sse import SseScanner
from gateway.upstream import UpstreamResponse
from geniehive.errors import UpstreamUnavailable

_SHARE = 16  # of a timeout, by which it may be late


class Pump:
    """One stream on its way; a sink of the relay.

    `grace_s` is for what may follow once the engine said that it finished: usage, `[DONE]`.
    """

    def __init__(
        self,
        exchange: Exchange,
        stream: Stream,
        upstream: UpstreamResponse,
        scanner: SseScanner,
        *,
        idle_timeout_s: float,
        grace_s: float,
    ) -> None:
        self._exchange = exchange
        self._stream = stream
        self._upstream = upstream
        self._scanner = scanner
        self._idle_timeout_s = idle_timeout_s
        self._grace_s = grace_s
        self._over: asyncio.Future[UpstreamUnavailable | None] = exchange.loop.create_future()
        self._deadline: Deadline | None = None
        self._touch_at = 0.0  # when the deadline is to be moved next, if anything moves
        self._express = Express(stream, upstream, scanner, self._hold, self._touch)
        self.blocked = False
        """Whether the client takes nothing for now."""

    async def run(self, head: bytes) -> UpstreamUnavailable | None:
        """Until nothing more comes that may be passed on; why, if the engine failed.

        Raises TimeoutError when nothing moved for too long, and ConnectionResetError if the client is gone.
        """
        with self._exchange.deadline(self._idle_timeout_s) as deadline:
            self._deadline = deadline
            self._exchange.request.on_writable = self._resume
            try:
                self._pass(head)
                if not self._over.done():
                    if not self.blocked:
                        self._upstream.push_to(self)
                    return await self._over
                return self._over.result()
            finally:
                self._express.settle()
                self._upstream.pull()
                self._exchange.request.on_writable = None

    def take(self, piece: bytes) -> bool:
        """See Sink."""
        scanner, express = self._scanner, self._express
        express.settle()
        learned = False
        try:
            data = scanner.feed(piece)
            if data and not self._stream.push(data):
                self.blocked = True
            if scanner.over:
                self._end(None)
            else:
                if scanner.finished or self.blocked or monotonic() >= self._touch_at:
                    self._touch()
                if express.tries and data is piece and not self.blocked:
                    learned = express.saw(piece, self._touch_at)
        except UpstreamUnavailable as failure:
            self._end(failure)
        except Exception as error:  # noqa: BLE001 - whatever it is, the request's task hears of it
            self._raise(error)
        if express.joined and not learned:
            express.leave()
        return not self.blocked

    def end(self, failure: UpstreamUnavailable | None) -> None:
        """See Sink."""
        self._express.settle()
        if failure is None:
            try:
                self._stream.push(self._scanner.close())
            except UpstreamUnavailable as error:
                failure = error
            except ConnectionError as error:
                self._raise(error)
        self._end(failure)

    def _pass(self, data: bytes) -> None:
        self.blocked = not self._stream.push(data) if data else self.blocked
        if self._scanner.over:
            self._end(None)
        else:
            self._touch()

    def _touch(self) -> None:
        """Something moved. The deadline follows only now and then, so it is a little later than it must be."""
        if not self._exchange.interrupted and self._deadline is not None:
            limit = self._grace_s if self._scanner.finished and not self.blocked else self._idle_timeout_s
            self._touch_at = monotonic() + limit / _SHARE
            self._deadline.reschedule(self._touch_at + limit)
            self._express.moved(self._touch_at)

    def _hold(self) -> None:
        """The client takes no more of what does not come by `take`."""
        self.blocked = True
        self._express.settle()
        self._express.leave()
        self._upstream.hold()
        self._touch()

    def _resume(self) -> None:
        """The client takes again, or is gone: what passes by `take` does not find that out."""
        transport = self._stream.connection.transport
        if transport is None or transport.is_closing():
            self._raise(ConnectionResetError("the client is gone"))
        elif self.blocked and not self._over.done():
            self.blocked = False
            self._pass(b"")
            self._upstream.push_to(self)
            self._upstream.resume()

    def _end(self, failure: UpstreamUnavailable | None) -> None:
        if not self._over.done():
            self._over.set_result(failure)

    def _raise(self, error: Exception) -> None:
        if not self._over.done():
            self._over.set_exception(error)
