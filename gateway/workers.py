"""Several workers on one port: child processes that share it with SO_REUSEPORT, kept alive by this one.

The kernel spreads connections over them. A child gets its config on stdin, which stays open: when this
process dies, by kill -9 too, the child reads the end of it and drains. A child that ends by itself is
started again, more slowly each time it did not last.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import msgspec

from gateway.listen import bind, url_of
from geniehive.config import Config, GatewayConfig
from geniehive.errors import ConfigError

_log = logging.getLogger(__name__)
_LASTED_S = 10.0
_BACKOFF_CAP_S = 10.0
_LAST_GRACE_S = 5.0


async def run_workers(config: Config, *, stop: asyncio.Event, ready: Callable[[str], None]) -> None:
    """Run `gateway.workers` children until `stop` is set. Raises ConfigError where the port cannot be had."""
    # Not listening, so it gets no connections; it finds out whether the port can be had, and keeps it.
    with bind(config, shared=False) as probe:
        port = probe.getsockname()[1]
    settings = msgspec.structs.replace(config.gateway, workers=1, port=port)
    with (
        bind(msgspec.structs.replace(config, gateway=settings), shared=True) as held,
        tempfile.TemporaryDirectory(prefix="geniehive-", ignore_cleanup_errors=True) as folder,
    ):
        workers = [
            Worker(number, _packed(config, settings, number), Path(folder), config.gateway.drain_timeout_s)
            for number in range(1, config.gateway.workers + 1)
        ]
        async with asyncio.TaskGroup() as tasks:
            running = [tasks.create_task(worker.run()) for worker in workers]
            waiting = tasks.create_task(stop.wait())
            all_ready = tasks.create_task(_all(workers))
            await asyncio.wait([waiting, all_ready], return_when=asyncio.FIRST_COMPLETED)
            if not stop.is_set():
                ready(url_of(held, tls=bool(config.gateway.tls_cert_file)))
            await waiting
            all_ready.cancel()
            for worker in workers:
                worker.stop()
            await asyncio.wait(running)


async def _all(workers: list[Worker]) -> None:
    for worker in workers:
        await worker.ready.wait()


class Worker:
    """One child process, started again until it is told to stop."""

    def __init__(self, number: int, payload: bytes, folder: Path, drain_timeout_s: float) -> None:
        self.ready = asyncio.Event()
        self._number = number
        self._payload = payload
        self._socket = folder / f"{number}.sock"  # where its siblings find it
        self._drain_timeout_s = drain_timeout_s
        self._process: asyncio.subprocess.Process | None = None
        self._stop = asyncio.Event()

    async def run(self) -> None:
        """Keep a child alive until `stop`."""
        failures = 0
        loop = asyncio.get_running_loop()
        while not self._stop.is_set():
            began = loop.time()
            await self._once()
            if self._stop.is_set():
                return
            failures = 0 if loop.time() - began > _LASTED_S else failures + 1
            _log.warning("worker %d ended by itself; it is started again", self._number)
            await self._pause(min(_BACKOFF_CAP_S, 0.1 * 2**failures))

    def stop(self) -> None:
        """Let the child drain: it reads the end of its stdin. One that does not end after that is killed."""
        self._stop.set()
        asyncio.get_running_loop().call_later(self._drain_timeout_s + _LAST_GRACE_S, self._kill)
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()

    async def _once(self) -> None:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "gateway.worker",
            str(self._socket),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is for the parent, which then stops the children in order
        )
        self._process = process
        try:
            if process.stdin is not None:
                process.stdin.write(len(self._payload).to_bytes(8, "big") + self._payload)
                if self._stop.is_set():
                    process.stdin.close()
            if process.stdout is not None and await process.stdout.readline():
                self.ready.set()
            await process.wait()
        finally:
            self._process = None
            if process.returncode is None:
                process.kill()
                await process.wait()

    def _kill(self) -> None:
        if self._process is not None and self._process.returncode is None:
            _log.warning("worker %d did not end in time and is killed", self._number)
            self._process.kill()

    async def _pause(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._stop.wait()
        except TimeoutError:
            return


def _packed(config: Config, settings: GatewayConfig, number: int) -> bytes:
    """What a child is given; each has its own name, since each reports its own counts."""
    if settings.gateway_id:
        settings = msgspec.structs.replace(settings, gateway_id=f"{settings.gateway_id}-{number}")
    return msgspec.json.encode(msgspec.structs.replace(config, gateway=settings))


def unpack(length: bytes, payload: bytes) -> Config:
    """The config that a child was given. Raises ConfigError if it was cut short."""
    if len(length) != 8 or len(payload) != int.from_bytes(length, "big"):
        raise ConfigError("a worker is started by `geniehive gateway` alone, which hands it its config")
    return msgspec.json.decode(payload, type=Config)
