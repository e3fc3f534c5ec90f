"""The listener's side: makes a `Connection` of each client, up to a cap, and ends them when the gateway stops."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Any

from gateway.server.connection import Connection, Refused
from gateway.server.refusal import Refusal
from gateway.server.request import Request
from geniehive.relay.outbox import Outbox

Spawn = Callable[[Callable[[], Coroutine[Any, Any, None]]], asyncio.Task[None]]
"""Starts what it is given as a task; not a coroutine, which would be lost if the task is cancelled before it begins."""

_KEPT_S = 75.0  # an idle connection
_SWEEP_S = 5.0


class Server:
    """A protocol factory for `loop.create_server`.

    `serve` answers a request, and returns whether another may follow on its connection; `refuse` gives the whole
    answer for what is no request, as bytes; `spawn` starts a connection's task; answers wait in `outbox`
    for the end of a round, which should be that of the requests to engines.
    """

    def __init__(
        self,
        serve: Callable[[Request], Awaitable[bool]],
        refuse: Callable[[Refused], bytes],
        spawn: Spawn,
        *,
        header_timeout_s: float,
        max_connections: int,
        outbox: Outbox | None = None,
    ) -> None:
        self.serve = serve
        self.refuse = refuse
        self.spawn = spawn
        self.header_timeout_s = header_timeout_s
        self.now = time.monotonic
        self.connections: set[Connection] = set()
        """Those that are open; each adds itself, and says when it has `left`."""
        self._loop = asyncio.get_running_loop()
        self.outbox = outbox or Outbox(self._loop)
        self._max_connections = max_connections
        self._sweeper: asyncio.TimerHandle | None = None
        self._empty = asyncio.Event()

    def __call__(self) -> asyncio.Protocol:
        """The protocol for a new connection."""
        if len(self.connections) >= self._max_connections:
            return Refusal(self._max_connections)
        if self._sweeper is None:
            self._sweeper = self._loop.call_later(_SWEEP_S, self._sweep)
        return Connection(self, self._loop)

    async def shutdown(self, grace_s: float) -> None:
        """Close what is idle, leave the others so long to end, and then end them."""
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None
        for connection in tuple(self.connections):
            connection.close_when_idle()
        if self.connections:
            self._empty.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(grace_s):
                    await self._empty.wait()
        for connection in tuple(self.connections):
            connection.abort()

    def left(self, connection: Connection) -> None:
        """A connection is gone."""
        self.connections.discard(connection)
        if not self.connections:
            self._empty.set()

    def _sweep(self) -> None:
        """Close connections that wait too long for their next request; go on while there are any."""
        latest = self.now() - _KEPT_S
        for connection in tuple(self.connections):
            if 0.0 < connection.idle_since < latest:
                connection.close()
        self._sweeper = self._loop.call_later(_SWEEP_S, self._sweep) if self.connections else None
