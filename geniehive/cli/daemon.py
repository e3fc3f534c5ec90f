"""Runs one daemon: event loop, signals, readiness, supervision, and one clear line for what is expected to fail.

The first SIGTERM, SIGINT or SIGHUP sets the stop event, and the daemon drains; the second ends the process at once.
A daemon that can read something again gets a reload event instead of SIGHUP's stop, unless its terminal hung up.
Under `geniehive up` (`Start.parent_pid`) Ctrl-C is the supervisor's to handle: SIGINT is ignored, and the supervisor's
death, kill -9 included, counts as SIGTERM.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Awaitable, Callable
from typing import Any

from geniehive.cli import exits
from geniehive.cli.daemon_start import Start
from geniehive.cli.sdnotify import Notifier

Ready = Callable[[Any], None]
Run = Callable[[asyncio.Event, Ready], Awaitable[None]]

logger = logging.getLogger(__name__)


def serve(start: Start, run: Run, *, reload: asyncio.Event | None = None) -> None:
    """Run a daemon until it is told to stop; SIGHUP sets `reload`. Raises GenieHiveError for what may well fail."""
    from geniehive.telemetry import configure_logging

    configure_logging(start.daemon, start.log_level.value, json=start.log_json)
    try:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(_live(start, run, reload))
    except BaseException as error:
        known = exits.expected(error)
        if known is not None:
            logger.debug("ended by an error", exc_info=error)
            raise known from None
        if isinstance(error, BaseExceptionGroup) or (
            isinstance(error, Exception) and not isinstance(error, SystemExit)
        ):
            logger.exception("%s ended by an error that is not expected; please report it", start.daemon)
            raise SystemExit(exits.FAILED) from None
        raise


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:  # not there on every platform; the standard loop does the same, slower
        return None
    return uvloop.new_event_loop


async def _live(start: Start, run: Run, reload: asyncio.Event | None) -> None:
    stop = asyncio.Event()
    notifier = Notifier()
    _handle_signals(stop, notifier, supervised=bool(start.parent_pid))
    if reload is not None:
        _reload_on_hangup(reload)
    if start.parent_pid:
        _follow_parent(start.parent_pid)

    def ready(where: Any) -> None:
        logger.info("%s is ready: %s", start.daemon, where)
        notifier.send("READY=1")
        if start.ready_fd >= 0:
            os.write(start.ready_fd, f"{where}\n".encode())
            os.close(start.ready_fd)

    async with asyncio.TaskGroup() as group:
        watchdog = group.create_task(notifier.watchdog())
        try:
            await run(stop, ready)
        finally:
            watchdog.cancel()


def _handle_signals(stop: asyncio.Event, notifier: Notifier, *, supervised: bool) -> None:
    loop = asyncio.get_running_loop()

    def handle(number: int) -> None:
        if stop.is_set():
            os._exit(128 + number)  # asked twice: no clean-up; what we started notices by itself
        logger.info("stopping (%s)", signal.Signals(number).name)
        notifier.send("STOPPING=1")
        stop.set()

    for number in (signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, handle, number)
    if supervised:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    else:
        loop.add_signal_handler(signal.SIGINT, handle, signal.SIGINT)


def _reload_on_hangup(reload: asyncio.Event) -> None:
    """SIGHUP means read again; where the terminal we were started on is gone, it still means stop."""
    on_terminal = os.isatty(0)

    def handle() -> None:
        if on_terminal and not os.isatty(0):
            os.kill(os.getpid(), signal.SIGTERM)
        else:
            reload.set()

    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, handle)


def _follow_parent(parent_pid: int) -> None:
    """Stop when the supervisor is gone, however it went."""
    from nodeagent.parentage import on_stdin_closed, signal_on_parent_death

    try:
        if signal_on_parent_death(parent_pid, signal.SIGTERM):
            return
    except ProcessLookupError:
        os.kill(os.getpid(), signal.SIGTERM)
        return
    on_stdin_closed(lambda: os.kill(os.getpid(), signal.SIGTERM))
