"""An engine that answers when it is told to, and knows how many requests it has."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager

from tests.gateway.misbehaving import completion, upstream


class BusyEngine:
    """Requests wait for `release`; `names` are what they said, in the order in which they came."""

    def __init__(self, up):
        self.url = up.url
        self.up = up
        self.open = 0
        self.most = 0
        self.gone = 0
        self._held = []

    @property
    def names(self):
        return [each.json["messages"][0]["content"] for each in self.up.seen]

    def release(self, count=1):
        """Answer so many, the oldest first."""
        for _ in range(count):
            self._held.pop(0).set()

    async def play(self, _script, reader, writer):
        turn = asyncio.Event()
        self._held.append(turn)
        self.open += 1
        self.most = max(self.most, self.open)
        leaving, answering = asyncio.ensure_future(reader.read(1)), asyncio.ensure_future(turn.wait())
        try:
            await asyncio.wait((leaving, answering), return_when=asyncio.FIRST_COMPLETED)
            if not turn.is_set():
                self._held.remove(turn)
                self.gone += 1
                return False
            writer.write(completion("done"))
            await writer.drain()
            return False
        finally:
            self.open -= 1
            leaving.cancel()
            answering.cancel()


@asynccontextmanager
async def busy_engine():
    async with upstream(()) as up:
        made = BusyEngine(up)
        up.play = made.play
        yield made
