"""The loop's bounded inbox: what happened, and who waits for the result.

Posting never waits. A reader of a stream that finds the box full waits for room with `offer`, and so
stops reading: the pressure goes back to the sender. The end of a stream always fits, since each
stream ends once.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass

from controlplane.events import Event, GatewayGone, SessionClosed
from geniehive.errors import NotReady, Overloaded

_ALWAYS = (SessionClosed, GatewayGone)


@dataclass(frozen=True, slots=True)
class Letter:
    """An event, and the future of the operator who asked."""

    event: Event
    reply: asyncio.Future[object] | None = None

    def answer(self, value: object) -> None:
        """Give the operator the result; one who left gets nothing."""
        if self.reply is not None and not self.reply.done():
            self.reply.set_result(value)

    def fail(self, error: BaseException) -> None:
        """Give the operator the error."""
        if self.reply is not None and not self.reply.done():
            self.reply.set_exception(error)


class Mailbox:
    """Letters in the order in which they came."""

    def __init__(self, limit: int) -> None:
        self._letters: deque[Letter] = deque()
        self._limit = limit
        self._closed = False
        self._filled = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()

    def __len__(self) -> int:
        return len(self._letters)

    @property
    def full(self) -> bool:
        """Whether only ends of streams still fit."""
        return len(self._letters) >= self._limit

    def put(self, letter: Letter) -> None:
        """Add a letter. Raises Overloaded if the box is full, NotReady if it is closed and somebody waits."""
        if self._closed:
            if letter.reply is not None:
                raise NotReady("the control plane is stopping: try again in a moment")
            return
        if self.full and not isinstance(letter.event, _ALWAYS):
            raise Overloaded("the control plane has too much to do: try again in a moment", retry_after_s=1.0)
        self._letters.append(letter)
        self._filled.set()
        if self.full:
            self._room.clear()

    def put_first(self, letter: Letter) -> None:
        """Add a letter of the loop's own before all others."""
        self._letters.appendleft(letter)
        self._filled.set()

    async def room(self) -> None:
        """Wait until something fits."""
        while self.full and not self._closed:
            await self._room.wait()

    def take(self) -> Letter | None:
        """The next letter, if there is one."""
        if not self._letters:
            self._filled.clear()
            return None
        letter = self._letters.popleft()
        if not self.full:
            self._room.set()
        return letter

    async def filled(self) -> None:
        """Wait until there is a letter, or the box is closed."""
        await self._filled.wait()

    def close(self) -> None:
        """Take no more letters."""
        self._closed = True
        self._filled.set()
        self._room.set()
