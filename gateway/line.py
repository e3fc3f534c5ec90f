"""[pure] Who waits for a place at a service, and who is next.

A request waits at every service that could answer it, and leaves all of them when one takes it. Of those who wait
at a service the interactive ones go first, but one in eight places goes to the batch ones, so nobody waits for
ever. Within a priority the keys take turns, one request each, and the requests of one key stand in their order:
a key with a hundred requests waits a hundred times as long for its last one, and delays another key by one. Ahead
of them, in their order, are those whose answer has begun already, and goes on elsewhere.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from enum import IntEnum
from typing import Final, Generic, TypeVar

GrantT = TypeVar("GrantT")

BATCH_EVERY: Final = 8
"""Of so many places that are given while both wait, one goes to batch."""


class Priority(IntEnum):
    """Who goes first; the lower number does."""

    INTERACTIVE = 0
    BATCH = 1


class Waiter(Generic[GrantT]):
    """One request that waits; equal to itself alone. `grant` is how its task hears of its turn."""

    __slots__ = ("grant", "owner", "priority", "services")

    def __init__(
        self, services: tuple[str, ...], owner: str, priority: Priority, grant: GrantT, *, begun: bool = False
    ) -> None:
        self.services = services
        self.owner: str | None = None if begun else owner
        """The key whose turn it needs; None for one whose answer has begun."""
        self.priority = priority
        self.grant = grant


class _Queue(Generic[GrantT]):
    """Those who wait at one service: for each priority the keys in their turn, for each key its requests in theirs."""

    __slots__ = ("lanes", "passed", "size")

    def __init__(self) -> None:
        self.lanes: tuple[dict[str | None, dict[Waiter[GrantT], None]], ...] = tuple({} for _ in Priority)
        self.size = 0
        self.passed = 0  # interactive ones that went ahead of batch ones

    def next(self) -> Waiter[GrantT]:
        """Whose turn it is; the key's turn is over with it."""
        interactive, batch = self.lanes
        lane = interactive or batch
        if interactive and batch:
            self.passed += 1
            if self.passed == BATCH_EVERY:
                lane, self.passed = batch, 0
        if None in lane:
            return next(iter(lane[None]))
        owner = next(iter(lane))
        waiting = lane.pop(owner)
        lane[owner] = waiting  # behind the others
        return next(iter(waiting))


class Line(Generic[GrantT]):
    """All that wait in one worker."""

    def __init__(self) -> None:
        self._queues: dict[str, _Queue[GrantT]] = {}
        self._waiters: set[Waiter[GrantT]] = set()

    def __len__(self) -> int:
        """Requests that wait."""
        return len(self._waiters)

    @property
    def services(self) -> Collection[str]:
        """Where somebody waits."""
        return self._queues.keys()

    def waiting(self, service_id: str) -> int:
        """How many wait at a service."""
        queue = self._queues.get(service_id)
        return 0 if queue is None else queue.size

    def at(self, service_id: str) -> Iterator[Waiter[GrantT]]:
        """Who waits at a service, in no order that means anything."""
        queue = self._queues.get(service_id)
        for lane in () if queue is None else queue.lanes:
            for waiting in lane.values():
                yield from waiting

    def join(self, waiter: Waiter[GrantT]) -> None:
        """Wait at all services of the waiter, behind those of the same key."""
        self._waiters.add(waiter)
        for service_id in waiter.services:
            queue = self._queues.get(service_id)
            if queue is None:
                queue = self._queues[service_id] = _Queue()
            queue.lanes[waiter.priority].setdefault(waiter.owner, {})[waiter] = None
            queue.size += 1

    def leave(self, waiter: Waiter[GrantT]) -> None:
        """Wait nowhere any more. A second call does nothing."""
        if waiter not in self._waiters:
            return
        self._waiters.remove(waiter)
        for service_id in waiter.services:
            queue = self._queues[service_id]
            lane = queue.lanes[waiter.priority]
            waiting = lane[waiter.owner]
            del waiting[waiter]
            if not waiting:
                del lane[waiter.owner]
            queue.size -= 1
            if not queue.size:
                del self._queues[service_id]

    def next(self, service_id: str) -> Waiter[GrantT] | None:
        """Whose turn it is at a service; it waits nowhere any more. None if nobody waits there."""
        queue = self._queues.get(service_id)
        if queue is None:
            return None
        waiter = queue.next()
        self.leave(waiter)
        return waiter
