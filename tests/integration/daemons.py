"""`geniehive …` as a user starts it: real processes with logs, killed by their pid whatever happens.

Nothing here waits for a time to pass: `eventually` asks until the answer is there or a deadline is over, and then
fails with the answer it last had.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import grpc
import httpx
import pytest

from nodeagent.parentage import guarded
from tests.tools import ROOT

T = TypeVar("T")

DEADLINE_S = 50.0
_POLL_S = 0.02
_TAIL = 6000
_TRANSIENT = (AssertionError, LookupError, httpx.TransportError, grpc.RpcError)


def eventually(ask: Callable[[], T], *, within: float = DEADLINE_S, logs: Callable[[], str] = str) -> T:
    """The first answer of `ask` that is not falsy; an assertion or a refused connection counts as "not yet"."""
    deadline = time.monotonic() + within
    while True:
        try:
            last: object = ask()
            if last:
                return last  # type: ignore[return-value]
        except _TRANSIENT as error:
            last = error
        if time.monotonic() > deadline:
            pytest.fail(f"not within {within:g} s; the last answer was: {last!r}\n{logs()}")
        time.sleep(_POLL_S)


def listening(port: int) -> bool:
    """Whether somebody answers on a port of 127.0.0.1."""
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0


def clean_environ(**extra: str) -> dict[str, str]:
    """The environment without settings of ours and without proxies: loopback needs none."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("GENIEHIVE_", "OPENAI_")) and not name.lower().endswith("_proxy")
    }
    return {**kept, "PYTHONPATH": str(ROOT), **extra}


def cli(*arguments: str) -> list[str]:
    """The argument vector of the `geniehive` command."""
    return [sys.executable, "-P", "-m", "geniehive.cli", *arguments]


def geniehive(
    *arguments: str, cwd: Path, environ: dict[str, str] | None = None, timeout: float = 30
) -> subprocess.CompletedProcess[str]:
    """Run a command that is expected to end by itself."""
    return subprocess.run(
        cli(*arguments), cwd=cwd, env=environ or clean_environ(), capture_output=True, text=True, timeout=timeout,
        check=False,
    )  # fmt: skip


@dataclass
class Daemon:
    """One process. `argv` is what starts it again after it was killed."""

    argv: Sequence[str]
    log_path: Path
    cwd: Path
    environ: dict[str, str] = field(default_factory=clean_environ)
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> Daemon:
        """Start it, again too; it ends at the latest when the tests do."""
        assert self.process is None or self.process.poll() is not None, "it still runs"
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                guarded(self.argv, os.getpid()), cwd=self.cwd, env=self.environ, stdin=subprocess.DEVNULL,
                stdout=log, stderr=log,
            )  # fmt: skip
        return self

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self.process is not None
        return self.process.pid

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return self.process is not None and self.process.poll() is None

    def kill(self) -> None:
        """kill -9, and wait for the end."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def terminate(self) -> None:
        """SIGTERM, without waiting."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)

    def wait(self, within: float = DEADLINE_S) -> int:
        """The exit code."""
        assert self.process is not None
        try:
            return self.process.wait(within)
        except subprocess.TimeoutExpired:
            self.kill()
            pytest.fail(f"{self.argv[4:]} did not end within {within:g} s\n{self.tail()}")

    def log(self) -> str:
        """All that it printed."""
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def tail(self) -> str:
        """The end of that, for messages."""
        return f"--- {self.log_path.name}\n{self.log()[-_TAIL:]}"


def complaint(stderr: str) -> str:
    """The one line in which a command says what is wrong; fails if there is more, or a traceback."""
    assert "Traceback" not in stderr, stderr
    lines = [line for line in stderr.splitlines() if line.strip() and " info " not in line[:40]]
    assert len(lines) == 1, f"not one line:\n{stderr}"
    return lines[0]


def memory_peak_bytes(pid: int) -> int:
    """The most memory that a process ever held (VmHWM of proc(5))."""
    return _status_bytes(pid, "VmHWM")


def _status_bytes(pid: int, name: str) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise LookupError(name)
