"""One run of one engine process: started in its own process group, its output drained, its end certain.

The pipes are our own, not asyncio's: `asyncio.subprocess.Process.wait` waits for its pipes to close, and a grandchild
that outlives the engine would hold them open for ever.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from typing import TYPE_CHECKING, Final

from nodeagent.parentage import guarded

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

TAIL_BYTES: Final = 8192
_CHUNK_BYTES: Final = 65536
_DRAIN_S: Final = 0.5
_WORDS_CHARS: Final = 300


class Output:
    """What came out of one pipe: the last few kilobytes, and the first line."""

    def __init__(self) -> None:
        self._head = b""
        self._tail = b""
        self._changed = asyncio.Event()
        self._ended = False

    async def first_line(self) -> str:
        """Wait for the first line; EOFError if the process ends, or talks on and on, without one."""
        while b"\n" not in self._head:
            if self._ended or len(self._head) >= TAIL_BYTES:
                raise EOFError("no line of output")
            self._changed.clear()
            await self._changed.wait()
        return self._head.partition(b"\n")[0].decode(errors="replace")

    @property
    def tail(self) -> str:
        """The last lines, at most TAIL_BYTES of them."""
        return self._tail.decode(errors="replace")

    @property
    def last_line(self) -> str:
        """The last line that is not empty, or ""."""
        lines = [line.strip() for line in self.tail.splitlines() if line.strip()]
        return lines[-1] if lines else ""

    async def drain(self, fd: int) -> None:
        """Read `fd` to its end, and close it."""
        reader = asyncio.StreamReader()
        pipe = os.fdopen(fd, "rb", 0)
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), pipe
        )
        try:
            while chunk := await reader.read(_CHUNK_BYTES):
                self._feed(chunk)
        finally:
            transport.close()
            self._ended = True
            self._changed.set()

    def _feed(self, chunk: bytes) -> None:
        self._tail = (self._tail + chunk)[-TAIL_BYTES:]
        if len(self._head) < TAIL_BYTES:
            self._head += chunk[:TAIL_BYTES]
        self._changed.set()


class Child:
    """A running engine process. Make it with `start`, end it with `end`, which may be called twice.

    `group` must outlive the process: its tasks drain the pipes.
    """

    def __init__(self, process: asyncio.subprocess.Process, stdin: int) -> None:
        self._process = process
        self._stdin = stdin
        self._gone = False
        self._drains: list[asyncio.Task[None]] = []
        self.stdout = Output()
        self.stderr = Output()

    @classmethod
    async def start(
        cls, argv: Sequence[str], env: Mapping[str, str] | None, group: asyncio.TaskGroup, *, cwd: str | None = None
    ) -> Child:
        """Start `argv` with `env` in folder `cwd` (None: ours). OSError if the system refuses a process or a pipe.

        A command that does not exist is told by exit status 127 and a line on stderr.
        """
        ends = [os.pipe() for _ in range(3)]
        (their_stdin, our_stdin), (our_stdout, their_stdout), (our_stderr, their_stderr) = ends
        try:
            process = await asyncio.create_subprocess_exec(
                *guarded(argv, os.getpid()),
                stdin=their_stdin,
                stdout=their_stdout,
                stderr=their_stderr,
                env=env,
                cwd=cwd,
                start_new_session=True,  # its own group: Ctrl-C reaches us alone, and we end it in our order
            )
        except BaseException:
            for fd in (our_stdin, our_stdout, our_stderr):
                os.close(fd)
            raise
        finally:
            for fd in (their_stdin, their_stdout, their_stderr):
                os.close(fd)
        child = cls(process, our_stdin)
        child._drains = [
            group.create_task(child.stdout.drain(our_stdout), name="engine-stdout"),
            group.create_task(child.stderr.drain(our_stderr), name="engine-stderr"),
        ]
        return child

    @property
    def pid(self) -> int:
        """The process's id, which is also its group's."""
        return self._process.pid

    async def wait(self) -> str:
        """Wait for the process to end; how it did. Why is, at best, in the last line of `stderr`."""
        status = await self._process.wait()
        self._kill_group()  # what it left behind
        if self._drains:
            await asyncio.wait(self._drains, timeout=_DRAIN_S)
        return f"was killed by {_signal_name(-status)}" if status < 0 else f"exited with status {status}"

    @property
    def last_words(self) -> str:
        """The last line on stderr of a process that ended by itself, or that still runs; a signal needs no words."""
        words = "" if (self._process.returncode or 0) < 0 else self.stderr.last_line
        return "".join(char if char.isprintable() else " " for char in words[-_WORDS_CHARS:])

    async def end(self, grace_s: float) -> None:
        """SIGTERM, then after `grace_s` seconds (or if we are cancelled meanwhile) SIGKILL to the whole group."""
        try:
            with contextlib.suppress(ProcessLookupError):
                self._process.terminate()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(grace_s):
                    await self._process.wait()
        finally:
            self._kill_group()
            self._close()
        await self._process.wait()

    def _kill_group(self) -> None:
        if self._gone:  # its number may belong to others by now
            return
        self._gone = self._process.returncode is not None
        # A group's number is not given away while one of its processes lives; none left is the usual case.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def _close(self) -> None:
        if self._stdin >= 0:
            os.close(self._stdin)
            self._stdin = -1
        for task in self._drains:
            task.cancel()


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
