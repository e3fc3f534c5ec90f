"""The gateway as a process: one worker in it, or several as its children on one port (`gateway.workers`)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from gateway.listen import bind
from gateway.tuning import allow_files, open_files, too_few
from gateway.workers import run_workers
from geniehive.config import Config

_log = logging.getLogger(__name__)


async def run(
    config: Config, *, stop: asyncio.Event, ready: Callable[[str], None], reload: asyncio.Event | None = None
) -> None:
    """Serve until `stop` is set; `ready` gets the URL. Raises ConfigError where the port cannot be had.

    Setting `reload` has the certificate of HTTPS read again at once; it is anyway when its file changes.
    """
    allow_files()  # here, since workers inherit it

    def serving(url: str) -> None:
        ready(url)
        if warning := too_few(config.gateway.max_connections, open_files()):
            _log.warning("%s", warning)

    if config.gateway.workers > 1:
        await run_workers(config, stop=stop, ready=serving)
        return
    sock = bind(config, shared=False)
    from gateway.app import serve  # noqa: PLC0415 - 30 MB that the parent of workers, which serves nobody, needs not

    await serve(config, sock, stop=stop, ready=serving, reload=reload)
