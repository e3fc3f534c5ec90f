"""What a round of the loop writes, written together at its end.

    read, read, read ──▶ run what they woke, each leaving what it writes ──▶ write, write, write

A round reads whatever has come on all sockets, and then runs what that woke. uvloop writes at once: each request then
pays for a way through the kernel and back between two others' work, with the processor's caches full of the one
whenever the other begins, and for waking its reader on a core that has fallen asleep since the last one. So where a
round woke several, what they write waits until all of them have run. One that is alone is written at once.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

_MOST = 64  # that wait: whoever was first should not wait for hundreds


class Held(Protocol):
    """Has something to write, which it writes earlier if anything else must go out behind it."""

    def flush(self) -> None:
        """Write it; nothing if that is done, or cannot be done any more. Must not raise."""
        ...


class Outbox:
    """One for all connections of a worker, to clients and to engines."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._woken = 0  # since the last one wrote by itself
        self._held: list[Held] = []
        self._holding = False

    def wakes(self) -> None:
        """Called for each request that goes on in this round, before it is scheduled."""
        self._woken += 1
        if self._woken == 2:
            self._loop.call_soon(self._hold)

    def takes(self) -> bool:
        """Whether what is to be written now should be held; if not, it is written at once."""
        if not self._holding:
            self._woken = 0
        return self._holding

    def hold(self, each: Held) -> None:
        """Have it flushed when the round is over."""
        self._held.append(each)
        if len(self._held) == _MOST:
            self._flush()

    def _hold(self) -> None:
        """The second of several runs next, and others may follow."""
        self._holding = True
        self._loop.call_soon(self._end)

    def _end(self) -> None:
        """All of them have run."""
        self._holding = False
        self._flush()

    def _flush(self) -> None:
        held, self._held = self._held, []
        for each in held:
            each.flush()
