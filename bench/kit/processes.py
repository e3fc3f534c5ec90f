"""Starts programs on chosen cores, waits until they answer, and ends them by their process id.

Everything listens on 127.0.0.1 on a free port. What a program says goes to a log file; where one does
not come up, the end of its log is in the error.
"""

from __future__ import annotations

import http.client
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

REPO = Path(__file__).resolve().parents[2]
CACHE = REPO / ".cache" / "bench"
_STOP_S = 8.0


class BenchError(Exception):
    """A benchmark cannot run here; the message says why and what to do."""


@dataclass(frozen=True)
class Cores:
    """Which cores do what: the one under test is alone where there are enough."""

    upstream: tuple[int, ...]
    tested: tuple[int, ...]
    load: tuple[int, ...]

    @classmethod
    def of_this_machine(cls) -> Cores:
        """Spread over the cores that this process may use; with one core, or without taskset, nothing is pinned."""
        mine = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
        if len(mine) < 2 or shutil.which("taskset") is None:
            return cls((), (), ())
        if len(mine) == 2:
            return cls((mine[0],), (mine[1],), (mine[0],))
        return cls((mine[0],), (mine[1],), tuple(mine[2:]))


def pinned(argv: Sequence[str], cores: Sequence[int]) -> list[str]:
    """The command, held to cores."""
    taskset = shutil.which("taskset")
    if not cores or taskset is None:
        return list(argv)
    return [taskset, "--cpu-list", ",".join(map(str, cores)), *argv]


def free_port() -> int:
    """A port of 127.0.0.1 that nobody uses now."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


class Processes:
    """Programs that end with the block, last one first."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._by_name: dict[str, Program] = {}
        self.folder = Path(tempfile.mkdtemp(prefix="geniehive-bench-"))
        self._stack.callback(shutil.rmtree, self.folder, ignore_errors=True)

    def __enter__(self) -> Self:
        # A benchmark that is told to stop ends what it started, as one that is interrupted does.
        before = signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))
        self._stack.callback(signal.signal, signal.SIGTERM, before)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stack.close()

    def start(
        self, name: str, argv: Sequence[str], *, cores: Sequence[int] = (), env: Mapping[str, str] | None = None
    ) -> Program:
        """Start a program."""
        log = self.folder / f"{name}.log"
        with log.open("ab") as out:
            process = subprocess.Popen(
                pinned(argv, cores),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(env or {})},
                cwd=REPO,
            )
        program = self._by_name[name] = Program(name, process, log)
        self._stack.callback(program.stop)
        return program

    def named(self, name: str) -> Program:
        """A program that was started."""
        return self._by_name[name]


class Program:
    """A started program."""

    def __init__(self, name: str, process: subprocess.Popen[bytes], log: Path) -> None:
        self.name = name
        self._process = process
        self._log = log

    @property
    def pid(self) -> int:
        """Its process id; taskset replaces itself by the program."""
        return self._process.pid

    def stop(self) -> None:
        """SIGTERM, and SIGKILL if that does not help."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()

    def check_alive(self) -> None:
        """Raises BenchError with the end of its log if it has ended."""
        if self._process.poll() is not None:
            raise BenchError(f"{self.name} ended with {self._process.returncode}:\n{self.said()[-1500:]}")

    def said(self) -> str:
        """All of its output."""
        return self._log.read_text(errors="replace")

    def rss_bytes(self) -> int:
        """Resident memory now, of it alone."""
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
        return 0

    def cpu_seconds(self) -> float:
        """Processor time that it has used, of all its threads; other work on the machine does not change it much."""
        ticks = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(ticks[11]) + int(ticks[12])) / os.sysconf("SC_CLK_TCK")

    def wait_until_answers(
        self,
        port: int,
        path: str,
        *,
        within_s: float = 30,
        headers: Mapping[str, str] | None = None,
        says: bytes = b"",
        needs: Sequence[Program] = (),
    ) -> None:
        """Wait for status 200 at a path, with `says` in the body.

        Raises BenchError with the end of the log if that does not come, or if it or one that it needs ends.
        """
        deadline = time.monotonic() + within_s
        while time.monotonic() < deadline:
            for each in (self, *needs):
                each.check_alive()
            if _answers(port, path, headers or {}, says):
                return
            time.sleep(0.05)
        raise BenchError(f"{self.name} did not answer at {path} within {within_s:g} s:\n{self.said()[-1500:]}")


def _answers(port: int, path: str, headers: Mapping[str, str], says: bytes) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
    try:
        connection.request("GET", path, headers=dict(headers))
        answer = connection.getresponse()
        return says in answer.read() and answer.status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
