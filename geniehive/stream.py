"""What every long-lived stream needs: a bounded outbox with one reader, and jittered backoff."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from typing import Generic, TypeVar

T = TypeVar("T")


class OutboxFull(Exception):
    """The reader is too slow; the stream has to end or to start over."""


class Outbox(Generic[T]):
    """A bounded queue from many writers on one event loop to one reader.

    Writing never waits: a reader that falls behind by `limit` items is an `OutboxFull` for the
    writer, who decides what that means. Iteration ends when the box is closed and empty.
    """

    def __init__(self, limit: int = 256) -> None:
        self._items: deque[T] = deque()
        self._limit = limit
        self._wake = asyncio.Event()
        self._closed = False

    def __len__(self) -> int:
        return len(self._items)

    @property
    def closed(self) -> bool:
        """Whether nothing more can be put."""
        return self._closed

    def put_nowait(self, item: T) -> None:
        """Add an item; nothing happens once closed. Raises OutboxFull."""
        if self._closed:
            return
        if len(self._items) >= self._limit:
            raise OutboxFull(f"{self._limit} messages wait and the reader does not read")
        self._items.append(item)
        self._wake.set()

    def clear(self) -> None:
        """Forget what waits, to make room for a fresh start."""
        self._items.clear()

    def close(self) -> None:
        """Let the reader end once it has read what waits."""
        self._closed = True
        self._wake.set()

    async def __aiter__(self) -> AsyncIterator[T]:
        while True:
            while self._items:
                yield self._items.popleft()
            if self._closed:
                return
            self._wake.clear()
            await self._wake.wait()


def full_jitter(attempt: int, base_s: float, cap_s: float, dice: float) -> float:
    """Seconds to wait before retry number `attempt` (from 0), with `dice` in 0 to 1.

    Full jitter as in AWS's "Exponential Backoff And Jitter": anywhere between 0 and the exponential
    ceiling, so that a thousand clients cut at once do not come back at once.
    """
    return dice * min(cap_s, base_s * 2.0 ** min(attempt, 32))
