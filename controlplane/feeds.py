"""What a gateway stream reads: the whole snapshot, then every update of it.

The queue is bounded. A gateway that reads too slowly loses the queue, not its stream: it gets the
whole snapshot of that later moment instead, which holds everything that it missed.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Final

from controlplane.events import Publish, PublishObserved
from geniehive.resources import Snapshot
from geniehive.stream import Outbox, OutboxFull

Update = Snapshot | Publish | PublishObserved

# Updates that may wait for a gateway: some 20 s of measurements at one batch every 100 ms.
FEED_LIMIT: Final = 256


class RoutingFeed:
    """One gateway stream's updates, in order; for one reader."""

    def __init__(self, snapshot: Callable[[], Snapshot], limit: int = FEED_LIMIT) -> None:
        self._snapshot = snapshot
        self._updates = Outbox[Publish | PublishObserved | None](limit)
        self._restart()

    def push(self, update: Publish | PublishObserved) -> None:
        """Add an update; never waits, never fails."""
        try:
            self._updates.put_nowait(update)
        except OutboxFull:
            self._restart()

    def close(self) -> None:
        """Let the reader end."""
        self._updates.close()

    async def __aiter__(self) -> AsyncIterator[Update]:
        async for update in self._updates:
            if update is not None:
                yield update
                continue
            # What still waits is in this snapshot already: the loop changes it and pushes without a pause between.
            self._updates.clear()
            yield self._snapshot()

    def _restart(self) -> None:
        self._updates.clear()
        self._updates.put_nowait(None)
