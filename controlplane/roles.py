"""The role file, read at the start and again whenever it changes or somebody asks.

The file is the truth. A stored role that it no longer names goes, and all of them go where no file is
configured any more; otherwise nobody could get rid of one. At the start a bad file is an error; later
it is refused in one line, and the roles stay as they are until it is good again.

The file is looked at once a second: that also sees what editors and ConfigMaps do (another file is put
in its place), on every file system.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from pathlib import Path
from typing import Final, Protocol

from controlplane.events import Event, RolesLoaded, RolesRefused
from geniehive.errors import ConfigError, Overloaded, StoreError
from geniehive.roles_file import load_roles

LOOK_S: Final = 1.0

_log = logging.getLogger(__name__)

_Mark = tuple[int, int, int]  # time of change in nanoseconds, inode, size in bytes


class Loop(Protocol):
    """What the roles are told to."""

    def post(self, event: Event) -> None:
        """Say what happened."""

    async def ask(self, event: Event) -> object:
        """Have an event applied and stored; its answer."""


class RoleCatalogue:
    """One role file; an empty path is none."""

    def __init__(self, path: str) -> None:
        self._path = Path(path) if path else None
        self._seen: _Mark | None = None
        self._refused = ""

    async def read(self) -> RolesLoaded:
        """What the file says. Raises ConfigError: no such file, or roles that make no sense."""
        if self._path is None:
            return RolesLoaded(roles=())
        self._seen = await self._mark()  # before the read: what changes meanwhile is read again
        return RolesLoaded(roles=await asyncio.to_thread(load_roles, self._path))

    async def follow(self, loop: Loop, reload: asyncio.Event) -> None:
        """Read the file again when it changed or `reload` is set, for ever."""
        missing = False
        while True:
            asked = await _set_within(reload, LOOK_S)
            if asked and self._path is None:
                _log.warning("there are no roles to read again: roles_path is not set")
            if self._path is None:
                continue
            mark = await self._mark()
            gone, missing = missing and mark is None, mark is None  # an editor may just be replacing it
            if asked or gone or (mark is not None and mark != self._seen):
                await self._read_again(loop, asked=asked)

    async def _read_again(self, loop: Loop, *, asked: bool) -> None:
        try:
            changed = await loop.ask(await self.read())
        except ConfigError as error:
            self._refuse(loop, error.message, asked=asked)
        except StoreError as error:
            self._seen = None  # to be tried again
            self._refuse(loop, f"they cannot be stored: {error.message}", asked=asked)
        else:
            if asked or self._refused:
                _log.info("the roles were read again: %s changed", changed)
            self._refused = ""

    def _refuse(self, loop: Loop, reason: str, *, asked: bool) -> None:
        """Say why, once for each reason."""
        if asked or reason != self._refused:
            self._refused = reason
            with suppress(Overloaded):  # the next look says it again
                loop.post(RolesRefused(reason))

    async def _mark(self) -> _Mark | None:
        """How to tell that the file is another one; None if it is not there."""
        if self._path is None:
            return None
        try:
            found = await asyncio.to_thread(self._path.stat)
        except OSError:
            return None
        return found.st_mtime_ns, found.st_ino, found.st_size


async def _set_within(event: asyncio.Event, seconds: float) -> bool:
    """Whether the event was set in that time; it is cleared."""
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return False
    event.clear()
    return True
