"""Ends what a token has open once it is revoked or expires.

New tokens come with the snapshot. Whenever they changed, and whenever one expires, the open requests are looked at;
those of a token that is good no more are interrupted, and end with an error as they would at a shutdown.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection
from typing import Final

from gateway.auth import Authenticator
from gateway.exchange import Exchange
from geniehive.resources import AccessKey, Snapshot

_LONGEST_S: Final = 60.0  # the wall clock may be set meanwhile
_SLACK_S: Final = 0.01  # so that the token is over when the timer rings

_log = logging.getLogger(__name__)


class KeyWatch:
    """Of one worker; `changed` is told every new shape of the cluster."""

    def __init__(self, authenticator: Authenticator, open_requests: Callable[[], Collection[Exchange]]) -> None:
        self._authenticator = authenticator
        self._open_requests = open_requests
        self._keys: dict[str, AccessKey] | None = None
        self._required = False
        self._timer: asyncio.TimerHandle | None = None

    def changed(self, snapshot: Snapshot) -> None:
        """The cluster has another shape: whether the tokens did not change is seen at once."""
        if snapshot.access_keys is self._keys and snapshot.keys_required is self._required:
            return
        self._keys, self._required = snapshot.access_keys, snapshot.keys_required
        self._authenticator.learn(self._keys, required=self._required)
        self._look()

    def close(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        ended = 0
        for exchange in tuple(self._open_requests()):
            if not exchange.interrupted and (why := self._authenticator.ended(exchange.principal)) is not None:
                exchange.interrupt(why)
                ended += 1
        if ended:
            _log.info("ended %d requests of tokens that are good no more", ended)
        self._look_again()

    def _look_again(self) -> None:
        self.close()
        due = self._authenticator.next_expiry()
        if due is not None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(min(_LONGEST_S, due + _SLACK_S), self._look)
