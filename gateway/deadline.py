"""Deadlines that cost nothing while they hold.

A request sets a deadline, moves it with every sign of progress, and almost always ends long before it. A
timer for each would be the most expensive part of a short request. So a connection has one alarm: it is
armed for the earliest deadline it was ever given, looks when it rings whether that still holds, and is
armed anew if not.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

import msgspec

_EARLY_S = 0.002  # loops count in whole milliseconds


class Alarm:
    """Calls once at a time that may move. Times are of the monotonic clock, in seconds."""

    __slots__ = ("_call", "_due", "_handle", "_rings", "loop")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._handle: asyncio.TimerHandle | None = None
        self._rings = 0.0
        self._due = 0.0
        self._call: Callable[[], None] | None = None

    def set(self, due: float, call: Callable[[], None]) -> None:
        """Call at that time, and forget what was set before."""
        self._due, self._call = due, call
        if self._handle is None or due < self._rings:
            self._arm(due)

    def clear(self) -> None:
        """Call nobody. The timer stays for the next who sets it."""
        self._call = None

    def stop(self) -> None:
        """Nothing will be set any more."""
        self._call = None
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _arm(self, due: float) -> None:
        if self._handle is not None:
            self._handle.cancel()
        self._rings = due
        self._handle = self.loop.call_later(max(0.0, due - time.monotonic()), self._ring)

    def _ring(self) -> None:
        self._handle = None
        call = self._call
        if call is None:
            return
        if self._due > time.monotonic() + _EARLY_S:
            self._arm(self._due)
            return
        self._call = None
        call()


class Deadline(msgspec.Struct, eq=False):
    """Ends what a task does in its scope with TimeoutError, as asyncio.Timeout does; one at a time for an alarm.

    `_more` is asked when the time is over: for so many more seconds, 0 is the end.
    """

    _alarm: Alarm
    _due: float
    _more: Callable[[], float] | None = None
    _expired: bool = False
    _task: asyncio.Task[object] | None = None
    _before: int = 0

    def __enter__(self) -> Self:
        self._task = task = asyncio.current_task(self._alarm.loop)
        self._before = task.cancelling() if task is not None else 0
        self._alarm.set(self._due, self._expire)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._alarm.clear()
        self._more = None  # it leads back to whoever holds this: no cycles for the collector
        task, self._task = self._task, None
        # The counts tell whether somebody else has cancelled the task as well: then that is what it ends with.
        if (
            self._expired
            and task is not None
            and task.uncancel() <= self._before
            and kind is not None
            and issubclass(kind, asyncio.CancelledError)
        ):
            raise TimeoutError from error

    def reschedule(self, due: float) -> None:
        """Move the end to another time."""
        self._due = due
        if self._task is not None and not self._expired:
            self._alarm.set(due, self._expire)

    def expired(self) -> bool:
        """Whether it ended what it was set for."""
        return self._expired

    def _expire(self) -> None:
        if self._more is not None and (seconds := self._more()) > 0:
            self.reschedule(time.monotonic() + seconds)
            return
        self._expired = True
        if self._task is not None:
            self._task.cancel()
