"""Keeps a daemon's certificate fresh: at half of its life a new one is asked for, with a new key.

Connections that are open stay; the next dial shows the new one. Several processes may share a membership (workers of
a gateway): a lock on the folder has one of them ask, and the others read. Where renewing fails it is tried again, at
first at once, then more slowly; once less than a quarter of the life is left the log warns, long before anything stops.
Certificates that an operator brings are not renewed here, but warned about in the same way.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from geniehive.credentials import CredentialSource
from geniehive.errors import GenieHiveError
from geniehive.membership import Membership

if TYPE_CHECKING:
    from geniehive.tls import Credentials, Leaf  # loads cryptography, which plain gRPC needs not

LOOK_S: Final = 60.0
"""Longest sleep: the clock may be set, and a sibling may have renewed."""
LEAST_PAUSE_S: Final = 0.2
WARN_SHARE: Final = 0.25
WARN_S: Final = 30 * 86400.0
REMIND_S: Final = 3600.0

_log = logging.getLogger(__name__)


def warns_from(leaf: Leaf) -> float:
    """When people are told that a certificate ends: a quarter of its life before, at most 30 days."""
    return leaf.not_after - min(WARN_SHARE * (leaf.not_after - leaf.not_before), WARN_S)


class Renewal:
    """The task of one daemon."""

    def __init__(
        self,
        source: CredentialSource,
        addresses: Sequence[str],
        dice: Callable[[], float],
        now: Callable[[], float] = time.time,
    ) -> None:
        self._source = source
        self._addresses = addresses
        self._dice = dice
        self._now = now
        self._failures = 0
        self._reminded = 0.0
        self.renewed = 0

    @property
    def expires_at(self) -> float | None:
        """End of the certificate in Unix seconds, for metrics; None without TLS."""
        credentials = self._source.current()
        return None if credentials is None else credentials.leaf.not_after

    async def run(self) -> None:
        """Renew and warn until cancelled."""
        while True:
            credentials = self._source.current()
            if credentials is None:
                await asyncio.sleep(LOOK_S)
                continue
            membership, due = self._source.membership, self._due(credentials.leaf)
            if membership is not None and self._now() >= due:
                await self._renew(membership)
            self._warn(credentials.leaf)
            await asyncio.sleep(self._pause(due))

    def _due(self, leaf: Leaf) -> float:
        """Half of its life, and a little more: many that joined together need not all come at once."""
        return leaf.half_life + 0.05 * (leaf.not_after - leaf.not_before) * self._dice()

    def _pause(self, due: float) -> float:
        if self._failures:
            return min(LOOK_S, LEAST_PAUSE_S * float(2 ** min(self._failures, 10))) * (0.5 + self._dice() / 2)
        return max(LEAST_PAUSE_S, min(LOOK_S, due - self._now()))

    async def _renew(self, membership: Membership) -> None:
        try:
            with _only_one(membership.folder) as mine:
                credentials = membership.credentials()
                if not mine or credentials is None or self._now() < credentials.leaf.half_life:
                    return
                membership.renew(await self._ask(credentials))
        except (GenieHiveError, OSError) as error:
            self._failures += 1
            level = logging.WARNING if self._failures == 1 else logging.DEBUG
            _log.log(level, "the certificate could not be renewed: %s; trying again", error)
            return
        self._failures = 0
        self.renewed += 1
        _log.debug("the certificate of %s was renewed", credentials.leaf.identity)

    async def _ask(self, credentials: Credentials) -> Credentials:
        from geniehive import joining  # noqa: PLC0415 - loads cryptography, for TLS alone

        address = self._addresses[self._failures % len(self._addresses)]
        return await joining.renew(address, credentials)

    def _warn(self, leaf: Leaf) -> None:
        now = self._now()
        if now < warns_from(leaf) or now - self._reminded < REMIND_S:
            return
        from geniehive.tls_trouble import day  # noqa: PLC0415 - loads cryptography, for TLS alone

        self._reminded = now
        fix = (
            "it is renewed as soon as the control plane answers"
            if self._source.membership is not None
            else "put a new one into control_plane.cert_file"
        )
        _log.warning("the certificate of %s ends on %s: %s", leaf.identity or "this program", day(leaf.not_after), fix)


@contextmanager
def _only_one(folder: Path) -> Iterator[bool]:
    """Whether this process is the one that renews; never waits."""
    descriptor = os.open(folder / "renewal.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(descriptor)
