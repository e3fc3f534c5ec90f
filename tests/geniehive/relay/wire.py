"""A connection with a transport of ours: bytes go in by hand, what it does to the transport is seen."""

from __future__ import annotations

import asyncio

from geniehive.relay.connection import Connection
from geniehive.relay.outbox import Outbox
from geniehive.relay.request import Origin


class Patient(Outbox):
    """Holds everything until the next round of the loop, as if each request were one of several."""

    def takes(self):
        return True

    def hold(self, each):
        asyncio.get_running_loop().call_soon(each.flush)


class Transport(asyncio.Transport):
    def __init__(self):
        super().__init__()
        self.sent = []
        self.reading = True
        self.aborted = False

    def write(self, data):
        self.sent.append(data)

    def is_closing(self):
        return self.aborted

    def pause_reading(self):
        self.reading = False

    def resume_reading(self):
        self.reading = True

    def abort(self):
        self.aborted = True


class Line:
    """One connection; `freed` and `lost` count what its pool would hear."""

    def __init__(self, outbox=Outbox):
        self.freed = self.lost = 0
        loop = asyncio.get_running_loop()
        self.connection = Connection(loop, Origin("h", 80, False), self._freed, self._lost, outbox(loop))
        self.transport = Transport()
        self.connection.connection_made(self.transport)

    def _freed(self, _connection):
        self.freed += 1

    def _lost(self, _connection):
        self.lost += 1

    def ask(self):
        self.freed = 0
        return self.connection.send(b"GET / HTTP/1.1\r\n\r\n", b"")

    def feed(self, data, cut=None):
        for at in range(0, len(data), cut or max(1, len(data))):
            if self.transport.aborted:
                return
            self.connection.data_received(data[at : at + (cut or len(data))])

    def drop(self, exc=None):
        self.connection.connection_lost(exc)


async def whole(response):
    """Status and body."""
    await response.begun()
    pieces = []
    while piece := await response.read():
        pieces.append(piece)
    return response.status, b"".join(pieces)
