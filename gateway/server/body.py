"""A request's body on its way in: held up to a bound, then the client has to wait."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from gateway.server.connection import Connection

_HELD = 256 * 1024  # bytes that may wait for their reader


class BodyError(Exception):
    """What came is not the body that its headers announced."""


class Body(msgspec.Struct, eq=False):
    """Fed by the connection, read by the one who serves the request."""

    _connection: Connection
    _pieces: list[bytes] = []
    _size: int = 0
    _waiter: asyncio.Future[None] | None = None
    _failure: BodyError | None = None
    complete: bool = False
    """Whether all of it has come, read or not."""

    @property
    def full(self) -> bool:
        """Whether the client has to wait for its reader."""
        return self._size > _HELD

    @property
    def ended(self) -> bool:
        """Whether all of it has been read."""
        return self.complete and not self._pieces

    def whole(self) -> bytes | None:
        """All of it, if it is there already and nobody has read of it; None otherwise."""
        return self._take() if self.complete and self._failure is None else None

    async def read(self) -> bytes:
        """What is there, or what comes next; empty at the end. Raises BodyError."""
        while not self._pieces:
            if self._failure is not None:
                raise self._failure
            if self.complete:
                return b""
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        return self._take()

    def feed(self, pieces: Sequence[bytes]) -> None:
        """Called by the connection: more of it."""
        self._pieces.extend(pieces)
        if not self.complete:  # else it is all in memory anyway
            self._size += sum(map(len, pieces))
            if self._size > _HELD:
                self._connection.hold()
        if self._waiter is not None:
            self._wake()

    def finish(self, pieces: Sequence[bytes]) -> None:
        """Called by the connection: that is the rest of it."""
        self._pieces.extend(pieces)
        self.complete = True
        if self._waiter is not None:
            self._wake()

    def fail(self) -> None:
        """Called by the connection: what came is wrong, and nothing follows."""
        self._failure, self.complete = BodyError("the body is not valid HTTP"), True
        self._wake()

    def _take(self) -> bytes:
        pieces = self._pieces
        found = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        pieces.clear()
        if self._size:
            if self._size > _HELD:
                self._connection.go_on()
            self._size = 0
        return found

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
