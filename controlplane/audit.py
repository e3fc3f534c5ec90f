"""Who did what to the cluster, for the log that only grows.

An operator's change carries its entry, and both are stored in one transaction. What fails, and what the loop does
not store itself, is noted here afterwards.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final, Protocol

from msgspec.structs import replace

from controlplane.auth import Context, Gatekeeper
from controlplane.events import AuditNoted
from geniehive.clock import Clock
from geniehive.errors import GenieHiveError, wire_of
from geniehive.resources import AuditEntry

_LONGEST: Final = 512  # of a subject, which is the caller's word, and of an outcome

_log = logging.getLogger(__name__)


class Loop(Protocol):
    """Where entries are stored."""

    async def ask(self, event: AuditNoted) -> object:
        """Have an event stored."""


class Auditor:
    """Makes entries, and notes what failed."""

    def __init__(self, loop: Loop, clock: Clock, callers: Gatekeeper) -> None:
        self._loop = loop
        self._clock = clock
        self._callers = callers

    @asynccontextmanager
    async def doing(self, context: Context, action: str, subject: str) -> AsyncIterator[AuditEntry]:
        """The entry to be stored with what the block does; a block that raises an error of ours is noted as such."""
        actor = self._callers.of(context).name
        entry = AuditEntry(at_ms=self._clock.unix_ms(), actor=actor, action=action, subject=subject[:_LONGEST])
        try:
            yield entry
        except GenieHiveError as error:
            outcome = f"{wire_of(error).code}: {error.message}"[:_LONGEST]
            await self._note(replace(entry, outcome=outcome))
            raise

    async def _note(self, entry: AuditEntry) -> None:
        try:
            await self._loop.ask(AuditNoted(entry))
        except GenieHiveError as error:
            _log.error("not in the audit log: %s by %s: %s", entry.action, entry.actor, error.message)
