"""[pure] The retry budget: when everything fails, repeats must not become a second flood.

At most a fifth more attempts than requests that arrived in the last ten seconds, plus ten a second.
"""

from __future__ import annotations

_WINDOW_S = 10
_SHARE = 0.2
_FLOOR = 10 * _WINDOW_S


class RetryBudget:
    """Counts by whole seconds, so that a request costs one addition. Times are seconds that never jump."""

    def __init__(self) -> None:
        self._second = 0
        self._next = 1
        self._arrived = [0] * _WINDOW_S
        self._spent = [0] * _WINDOW_S

    def arrived(self, now: float) -> None:
        """One request came in."""
        if now >= self._next:
            self._move(int(now))
        self._arrived[self._second % _WINDOW_S] += 1

    def spend(self, now: float) -> bool:
        """Take one repeat from the budget; whether there was one."""
        if now >= self._next:
            self._move(int(now))
        if sum(self._spent) >= _FLOOR + _SHARE * sum(self._arrived):
            return False
        self._spent[self._second % _WINDOW_S] += 1
        return True

    def _move(self, second: int) -> None:
        for passed in range(max(self._next, second - _WINDOW_S + 1), second + 1):
            self._arrived[passed % _WINDOW_S] = self._spent[passed % _WINDOW_S] = 0
        self._second, self._next = second, second + 1
