"""A managed engine: a process that is started, watched, restarted after a crash, and never left behind.

`run`, called once, is the whole life: start, wait until the engine says it is ready, wait for its end, wait a
while, start again, until the task is cancelled or `give_up_after` failures in a row. It owns the process: when `run`
returns or is cancelled, the process and its group are gone. Others look at `status` and wait with `wait_running`.

    async with asyncio.TaskGroup() as group:
        engine = ManagedProcess(spec, ready)
        life = group.create_task(engine.run())
        await engine.wait_running()     # raises EngineFailedError, with the engine's own last line
        ...
        life.cancel()
"""

from __future__ import annotations

import asyncio
import enum
import logging
import random
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, TypeAlias

from nodeagent.child import Child

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from nodeagent.child import Output


_log = logging.getLogger(__name__)


class State(enum.StrEnum):
    """Where a managed engine is in its life."""

    IDLE = "idle"
    STARTING = "starting"
    RUNNING = "running"
    BACKING_OFF = "backing_off"
    STOPPING = "stopping"
    EXITED = "exited"


TRANSITIONS: Final[Mapping[State, frozenset[State]]] = MappingProxyType(
    {
        State.IDLE: frozenset({State.STARTING}),
        State.STARTING: frozenset({State.RUNNING, State.BACKING_OFF, State.STOPPING, State.EXITED}),
        State.RUNNING: frozenset({State.BACKING_OFF, State.STOPPING, State.EXITED}),
        State.BACKING_OFF: frozenset({State.STARTING, State.EXITED}),
        State.STOPPING: frozenset({State.EXITED}),
        State.EXITED: frozenset(),
    }
)
"""Every legal move. STARTING and RUNNING have a process (RUNNING is ready); EXITED is the end."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Backoff:
    """How long to wait before the nth restart in a row: full jitter, uniform in [0, min(cap, base * 2**n)) seconds.

    A run that lasted `steady_s` after it was ready ends the row.
    (Full jitter: https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/)
    """

    base_s: float = 0.5
    cap_s: float = 30.0
    steady_s: float = 60.0

    def ceiling_s(self, failures: int) -> float:
        """The longest wait after `failures` failures in a row (at least one)."""
        doublings = min(failures - 1, 32)
        return min(self.cap_s, self.base_s * 2.0**doublings)


@dataclass(frozen=True, kw_only=True, slots=True)
class ProcessSpec:
    """What to run, and how patiently. `env`, `cwd` None: ours. `give_up_after` failures in a row; None: never."""

    name: str
    argv: Sequence[str]
    env: Mapping[str, str] | None = None
    cwd: str | None = None
    ready_timeout_s: float = 120.0
    stop_grace_s: float = 5.0
    backoff: Backoff = Backoff()
    give_up_after: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class ProcessStatus:
    """A picture of the engine's life. `restarts`: since `run`.

    `reason`: how it last ended, in our words, None if it never did. `said`: what the engine itself said of that; it may
    hold paths and prompts, so it is for operators alone.
    """

    state: State = State.IDLE
    pid: int | None = None
    reason: str | None = None
    said: str = ""
    restarts: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Launched:
    """What the ready check may look at."""

    pid: int
    stdout: Output
    stderr: Output


Ready: TypeAlias = "Callable[[Launched], Awaitable[None]]"
"""Returns when the engine can take requests; raises if it never will. Cancelled when the engine ends or time is up."""


class EngineFailedError(Exception):
    """A managed engine did not get to run; the message is its own last line, and how it ended."""


class ManagedProcess:
    """The life of one managed engine; see the module. `jitter(ceiling)` draws the wait in seconds before a restart."""

    def __init__(
        self,
        spec: ProcessSpec,
        ready: Ready,
        *,
        on_change: Callable[[ProcessStatus], None] | None = None,
        jitter: Callable[[float], float] | None = None,
    ) -> None:
        self.spec = spec
        self._ready = ready
        self._on_change = on_change
        self._jitter = jitter or (lambda ceiling: random.uniform(0, ceiling))
        self._status = ProcessStatus()
        self._changed = asyncio.Event()
        self._failures = 0

    @property
    def status(self) -> ProcessStatus:
        """Where the engine is now."""
        return self._status

    async def wait_running(self) -> None:
        """Wait until the engine takes requests. EngineFailedError at its first failure, though `run` tries on."""
        await self.wait_for(lambda status: status.state in {State.RUNNING, State.BACKING_OFF, State.EXITED})
        if self._status.state is not State.RUNNING:
            said = f": {self._status.said}" if self._status.said else ""
            raise EngineFailedError(f"{self.spec.name} {self._status.reason}{said}")

    async def wait_for(self, holds: Callable[[ProcessStatus], bool]) -> ProcessStatus:
        """Wait until a status for which `holds`; that status."""
        while not holds(self._status):
            changed = self._changed
            await changed.wait()
        return self._status

    async def run(self) -> None:
        """Keep the engine running until cancelled, or until it failed `give_up_after` times in a row."""
        self._failures = 0
        try:
            while True:
                reason = await self._one_run()
                _log.warning("%s %s%s", self.spec.name, reason, f": {self._status.said}" if self._status.said else "")
                if self._failures == self.spec.give_up_after:
                    self._move(State.EXITED, pid=None, reason=reason)
                    return
                self._move(State.BACKING_OFF, pid=None, reason=reason)
                await asyncio.sleep(self._jitter(self.spec.backoff.ceiling_s(self._failures)))
                self._status = replace(self._status, restarts=self._status.restarts + 1)
        except asyncio.CancelledError:
            self._move(State.EXITED, pid=None, reason="was stopped", said="")
            raise

    async def _one_run(self) -> str:
        """From start to end of one process; why it ended, and one more failure counted (or the first of a new row)."""
        loop = asyncio.get_running_loop()
        self._move(State.STARTING)
        running_since: float | None = None
        async with asyncio.TaskGroup() as group:
            try:
                child = await Child.start(self.spec.argv, self.spec.env, group, cwd=self.spec.cwd)
            except OSError as error:
                self._failures += 1
                self._note("")
                return f"could not be started: {error.strerror}"
            ended = group.create_task(child.wait(), name=f"{self.spec.name}-wait")
            try:
                reason = await self._wait_ready(child, ended, group)
                if reason is None:
                    self._move(State.RUNNING)
                    running_since = loop.time()
                    reason = await asyncio.shield(ended)
                    self._note(child.last_words)
            except asyncio.CancelledError:
                self._move(State.STOPPING)
                raise
            finally:
                await child.end(self.spec.stop_grace_s)
        steady = running_since is not None and loop.time() - running_since >= self.spec.backoff.steady_s
        self._failures = 1 if steady else self._failures + 1
        return reason

    async def _wait_ready(self, child: Child, ended: asyncio.Task[str], group: asyncio.TaskGroup) -> str | None:
        """None once the engine is ready, else why it will not be: it ended, time is up, or the check said so."""
        self._status = replace(self._status, pid=child.pid)
        check = group.create_task(self._check(child), name=f"{self.spec.name}-ready")
        await asyncio.wait({check, ended}, timeout=self.spec.ready_timeout_s, return_when=asyncio.FIRST_COMPLETED)
        if ended.done():
            check.cancel()
            self._note(child.last_words)
            return ended.result()
        if check.done():
            return check.result()
        check.cancel()
        self._note(child.last_words)
        return f"was not ready within {self.spec.ready_timeout_s:g} s"

    async def _check(self, child: Child) -> str | None:
        try:
            await self._ready(Launched(pid=child.pid, stdout=child.stdout, stderr=child.stderr))
        except EOFError:
            # Nobody will say it is ready; how the process ended says why, so leave the word to that.
            how = await child.wait()
            self._note(child.last_words)
            return how
        except Exception as error:  # noqa: BLE001 (the caller's check may fail in any way; all mean "not ready")
            self._note("; ".join(words for words in (str(error), child.last_words) if words))
            return "was not ready"
        return None

    def _note(self, said: str) -> None:
        """Keep what the engine said of its end; the move that follows tells it."""
        self._status = replace(self._status, said=said)

    def _move(self, state: State, **changes: str | int | None) -> None:
        current = self._status.state
        if state not in TRANSITIONS[current]:
            raise RuntimeError(f"{self.spec.name}: no way from {current} to {state}; see nodeagent.process.TRANSITIONS")
        self._status = replace(self._status, state=state, **changes)  # type: ignore[arg-type] # fields by name
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()
        if self._on_change is not None:
            self._on_change(self._status)
