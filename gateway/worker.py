"""`python -m gateway.worker SOCKET`: one of several workers; its config comes on stdin, whose end stops it.

Started by `gateway.workers`; on SOCKET its siblings ask it for receipts. One line on stdout says that it answers.
"""

from __future__ import annotations

import asyncio
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from gateway.app import serve
from gateway.listen import bind
from gateway.siblings import Siblings
from gateway.workers import unpack
from geniehive.errors import GenieHiveError
from geniehive.telemetry import configure_logging


async def _main() -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    length = sys.stdin.buffer.read(8)
    config = unpack(length, sys.stdin.buffer.read(int.from_bytes(length, "big")))

    def until_closed() -> None:
        sys.stdin.buffer.read()
        loop.call_soon_threadsafe(stop.set)

    threading.Thread(target=until_closed, daemon=True).start()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    siblings = Siblings(Path(sys.argv[1]) if len(sys.argv) > 1 else None)
    await serve(config, bind(config, shared=True), stop=stop, ready=_say, siblings=siblings)


def _say(url: str) -> None:
    sys.stdout.write(url + "\n")
    sys.stdout.flush()


def main() -> int:
    """Run one worker; 1 if it could not."""
    configure_logging("gateway", "info")
    try:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(_main())
    except GenieHiveError as error:
        sys.stderr.write(f"geniehive gateway worker: {error.message}\n")
        return 1
    return 0


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop]:
    try:
        import uvloop  # noqa: PLC0415 - not there on every platform
    except ImportError:
        return asyncio.new_event_loop
    return uvloop.new_event_loop


if __name__ == "__main__":
    sys.exit(main())
