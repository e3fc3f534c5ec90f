"""Connections that wait for their next request, by origin; the one used last is used first.

A connection that its engine closes leaves by itself. One that has waited too long is closed before the
engine does it in the middle of a request.
"""

from __future__ import annotations

import asyncio

from geniehive.relay.connection import Connection
from geniehive.relay.outbox import Outbox
from geniehive.relay.request import Origin

_SWEEP_S = 10.0
_MOST_IDLE = 1024  # at one origin


class Pool:
    """All connections of an `Upstream`, busy ones included. Times are of the loop's clock."""

    def __init__(self, loop: asyncio.AbstractEventLoop, outbox: Outbox) -> None:
        self._loop = loop
        self._outbox = outbox
        self._idle: dict[Origin, dict[Connection, None]] = {}
        self._all: set[Connection] = set()
        self._sweeper: asyncio.TimerHandle | None = None
        self._empty = asyncio.Event()
        self._closing = False

    @property
    def idle(self) -> int:
        """Connections that wait."""
        return sum(map(len, self._idle.values()))

    @property
    def open(self) -> int:
        """Connections in all."""
        return len(self._all)

    def make(self, origin: Origin) -> Connection:
        """The protocol for a new connection, which is not the pool's before it is adopted."""
        return Connection(self._loop, origin, self._freed, self._lost, self._outbox)

    def adopt(self, connection: Connection) -> None:
        """A connection has been made; it may be gone again already."""
        if self._closing:
            connection.abort()
        elif not connection.closed:
            self._all.add(connection)

    def take(self, origin: Origin) -> Connection | None:
        """A connection that is free and was well when it was last seen; None if there is none."""
        idle = self._idle.get(origin)
        now = self._loop.time()
        while idle:
            connection, _ = idle.popitem()
            if connection.good_until > now and not connection.closed:
                connection.taken_at = now
                return connection
            connection.abort()
        return None

    async def close(self) -> None:
        """Close everything, and wait until that is done."""
        self._closing = True
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None
        for connection in tuple(self._all):
            connection.abort()
        if self._all:
            async with asyncio.timeout(1):
                await self._empty.wait()

    def _freed(self, connection: Connection) -> None:
        idle = self._idle.get(connection.origin)
        if idle is None:
            idle = self._idle[connection.origin] = {}
        if self._closing or len(idle) >= _MOST_IDLE:
            connection.abort()
            return
        idle[connection] = None
        if self._sweeper is None:
            self._sweeper = self._loop.call_later(_SWEEP_S, self._sweep)

    def _lost(self, connection: Connection) -> None:
        self._all.discard(connection)
        idle = self._idle.get(connection.origin)
        if idle is not None:
            idle.pop(connection, None)
            if not idle:
                del self._idle[connection.origin]
        if self._closing and not self._all:
            self._empty.set()

    def _sweep(self) -> None:
        """Close what waited too long; go on while anything waits."""
        now = self._loop.time()
        for idle in tuple(self._idle.values()):
            for connection in [each for each in idle if each.good_until <= now]:
                connection.abort()
        self._sweeper = self._loop.call_later(_SWEEP_S, self._sweep) if self._idle else None
