"""Tells systemd how a daemon is doing (sd_notify(3)): READY=1, STOPPING=1, and WATCHDOG=1 while the loop turns.

Nothing happens where NOTIFY_SOCKET is not set.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Mapping


class Notifier:
    """One datagram a state; a supervisor that is gone is no error."""

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        path = environ.get("NOTIFY_SOCKET", "")
        self._address = "\0" + path[1:] if path.startswith("@") else path
        self._watchdog_us = environ.get("WATCHDOG_USEC", "")

    def send(self, state: str) -> None:
        """Send one state, such as "READY=1"."""
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sock:
                sock.sendto(state.encode(), self._address)
        except OSError:
            return

    async def watchdog(self) -> None:
        """Say that the loop turns, twice an interval, until cancelled; returns at once where nobody listens."""
        if not self._address or not self._watchdog_us.isdigit() or self._watchdog_us == "0":
            return
        while True:
            self.send("WATCHDOG=1")
            await asyncio.sleep(int(self._watchdog_us) / 2_000_000)
