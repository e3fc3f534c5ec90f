"""Child daemons of `geniehive up`: started, watched, started again after a crash, and ended.

A child tells on a pipe that it is ready. It stays in our process group but ignores SIGINT, so that Ctrl-C is ours to
handle; it ends when we end, kill -9 included (see `daemon`). One that ends before it was ever ready is not started
again: its last line says why.
"""

from __future__ import annotations

import asyncio
import os
import random
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from geniehive.cli import exits
from geniehive.errors import ConfigError, GenieHiveError, InternalError
from geniehive.stream import full_jitter

_TAIL_BYTES = 8192
_BACKOFF_BASE_S = 0.5
_BACKOFF_CAP_S = 10.0
_STOP_S = 8.0


@dataclass(frozen=True, kw_only=True)
class ChildSpec:
    """One child: its subcommand with arguments, and the file for what it prints (None: our own stderr)."""

    name: str
    arguments: Sequence[str]
    environ: Mapping[str, str]
    log: Path | None


class Child:
    """One daemon. `run` is its whole life; it returns after `stop`, and raises if the daemon cannot start."""

    def __init__(self, spec: ChildSpec, say: Callable[[str], None]) -> None:
        self.spec = spec
        self.ready = asyncio.Event()
        self._say = say
        self._process: asyncio.subprocess.Process | None = None
        self._stopping = asyncio.Event()
        self._log_from = 0
        self._lifeline: object = None

    async def run(self) -> None:
        """Keep the daemon alive until `stop`. Raises GenieHiveError if it ends before it was ready once."""
        failures = 0
        while not self._stopping.is_set():
            code = await self._once()
            if self._stopping.is_set():
                return
            if not self.ready.is_set():
                raise self._why(code)
            if code == exits.FENCED:  # the two would take the host from each other for ever
                self._say(f"{self._why(code).message}; not started again")
                return
            failures += 1
            pause = full_jitter(failures, _BACKOFF_BASE_S, _BACKOFF_CAP_S, random.random())
            self._say(f"{self.spec.name} ended ({_ending(code)}); starting it again")
            await self._pause(pause)

    async def stop(self) -> None:
        """Ask the daemon to end; after a while make it."""
        self._stopping.set()
        process = self._process
        if process is None or process.returncode is not None:
            return
        process.terminate()
        try:
            async with asyncio.timeout(_STOP_S):
                await process.wait()
        except TimeoutError:
            self._say(f"{self.spec.name} did not end within {_STOP_S:g} s; killed")
            self.kill()
            await process.wait()

    def kill(self) -> None:
        """End the daemon at once."""
        self._stopping.set()
        if self._process is not None and self._process.returncode is None:
            self._process.kill()

    async def _once(self) -> int:
        """Start the daemon and wait for its end; its exit code, negative for a signal."""
        told, tell = os.pipe()
        try:
            self._process = await self._spawn(tell)
        finally:
            os.close(tell)
        try:
            async with asyncio.TaskGroup() as group:
                listening = group.create_task(self._listen(told))
                code = await self._process.wait()
                listening.cancel()
            return code
        finally:
            if self._process.returncode is None:  # cancelled: nothing is left behind
                await self.stop()

    async def _spawn(self, tell: int) -> asyncio.subprocess.Process:
        output = self._open_log()
        command = [
            sys.executable, "-P", "-m", "geniehive.cli", *self.spec.arguments,
            "--parent-pid", str(os.getpid()), "--ready-fd", str(tell),
        ]  # fmt: skip
        stdin, self._lifeline = _lifeline()
        try:
            return await asyncio.create_subprocess_exec(
                *command, stdin=stdin, stdout=output, stderr=output, env=self.spec.environ, pass_fds=(tell,)
            )
        finally:
            os.close(stdin)
            if output is not None:
                os.close(output)

    def _open_log(self) -> int | None:
        if self.spec.log is None:
            return None
        output = os.open(self.spec.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._log_from = os.fstat(output).st_size
        return output

    async def _listen(self, told: int) -> None:
        """Wait for the line that says the daemon is ready."""
        reader = asyncio.StreamReader()
        loop = asyncio.get_running_loop()
        transport, _ = await loop.connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(told, "rb", 0)
        )
        try:
            if await reader.readline():
                self.ready.set()
        finally:
            transport.close()

    async def _pause(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._stopping.wait()
        except TimeoutError:
            return

    def _why(self, code: int) -> GenieHiveError:
        """The daemon's own last words, with its exit code kept."""
        words = self._last_words() or f"ended before it was ready ({_ending(code)})"
        kind = ConfigError if code == exits.USAGE else InternalError
        return kind(f"{self.spec.name}: {words}{f' (log: {self.spec.log})' if self.spec.log else ''}")

    def _last_words(self) -> str:
        if self.spec.log is None:
            return ""
        with self.spec.log.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(self._log_from, size - _TAIL_BYTES))
            lines = [line.strip() for line in file.read().decode(errors="replace").splitlines() if line.strip()]
        spoken = [line.removeprefix("geniehive: ") for line in lines if line.startswith("geniehive: ")]
        return (spoken or lines or [""])[-1].partition(" | ")[0]  # what follows the bar is a trace


def _lifeline() -> tuple[int, object]:
    """A stdin for a child that closes when we die: its end, and our end, held as long as the object lives."""
    read, write = os.pipe()
    return read, os.fdopen(write, "wb", 0)


def _ending(code: int) -> str:
    return f"signal {-code}" if code < 0 else f"exit code {code}"
