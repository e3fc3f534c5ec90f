"""Ends requests that take too long, whatever they are at.

One timer for all of them, and none while there are none: a timer for each would cost every request
something. So a request is ended up to a tenth of its time late.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection

from gateway.exchange import Exchange
from geniehive.errors import UpstreamTimeout

_SHARE = 10
_LONGEST_S = 10.0


class Overdue:
    """Looks after the open requests of one worker."""

    def __init__(self, open_requests: Collection[Exchange], timeout_s: float) -> None:
        self._open = open_requests
        self._timeout_s = timeout_s
        self.watching = False
        """Whether its timer runs."""

    def watch(self, loop: asyncio.AbstractEventLoop) -> None:
        """There is a request."""
        if not self.watching:
            self.watching = True
            loop.call_later(min(_LONGEST_S, self._timeout_s / _SHARE), self._look, loop)

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        self.watching = False
        for exchange in tuple(self._open):
            if not exchange.interrupted and exchange.now() - exchange.began > self._timeout_s:
                exchange.interrupt(UpstreamTimeout(f"the request was not done within {self._timeout_s:g} s"))
        if self._open:
            self.watch(loop)
