"""Time as an argument: cores get it as a number, shells read it from one of these."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """Where a shell reads the time."""

    def monotonic(self) -> float:
        """Seconds that never jump, for deadlines and ages."""
        ...

    def unix_ms(self) -> int:
        """Milliseconds since the Unix epoch, for records that people read."""
        ...


class SystemClock:
    """The operating system's clocks."""

    def monotonic(self) -> float:
        """See `Clock`."""
        return time.monotonic()

    def unix_ms(self) -> int:
        """See `Clock`."""
        return time.time_ns() // 1_000_000


class ManualClock:
    """A clock that moves when told, for tests and the simulator."""

    def __init__(self, monotonic: float = 0.0, unix_ms: int = 1_700_000_000_000) -> None:
        self._monotonic = monotonic
        self._unix_ms = unix_ms

    def monotonic(self) -> float:
        """See `Clock`."""
        return self._monotonic

    def unix_ms(self) -> int:
        """See `Clock`."""
        return self._unix_ms

    def advance(self, seconds: float) -> None:
        """Move both clocks on."""
        self._monotonic += seconds
        self._unix_ms += int(seconds * 1000)

    def jump(self, seconds: float) -> None:
        """Move the wall clock alone, as a wrong NTP server would."""
        self._unix_ms += int(seconds * 1000)
