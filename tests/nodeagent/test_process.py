"""Managed engines: every way that a process can start, fail and end, with real processes."""

import asyncio
import gc
import itertools
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Self

import psutil
import pytest

from nodeagent import process as lifecycle
from nodeagent.child import Child
from nodeagent.parentage import guarded
from nodeagent.process import Backoff, EngineFailedError, Launched, ManagedProcess, ProcessSpec, State

DEADLINE_S = 30.0

READY = "print('ready', flush=True)\n"
SLEEP = "import time; time.sleep(60)\n"


def python(code: str) -> list[str]:
    return [sys.executable, "-S", "-c", code]


async def said_ready(launched: Launched) -> None:
    if await launched.stdout.first_line() != "ready":
        raise ValueError("it said something else")


def make(code: str, *, ready=said_ready, jitter=lambda _: 0.0, **spec) -> tuple[ManagedProcess, list[State]]:
    """A managed Python program, and the list of states that it will have gone through."""
    states: list[State] = []
    engine = ManagedProcess(
        ProcessSpec(name="engine", argv=python(code), **spec),
        ready,
        on_change=lambda status: states.append(status.state),
        jitter=jitter,
    )
    return engine, states


class Life:
    """`async with Life(engine):` runs it, with a deadline, and stops it at the end."""

    def __init__(self, engine: ManagedProcess) -> None:
        self.engine = engine

    async def __aenter__(self) -> Self:
        self._deadline = asyncio.timeout(DEADLINE_S)
        await self._deadline.__aenter__()
        self.task = asyncio.ensure_future(self.engine.run())
        return self

    async def __aexit__(self, *error) -> None:
        self.task.cancel()
        await asyncio.wait([self.task])
        await self._deadline.__aexit__(*error)


def alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


async def dead(pid: int) -> bool:
    """Wait until the process is gone (an orphan is reaped by init in its own time)."""
    async with asyncio.timeout(DEADLINE_S):
        while alive(pid):
            await asyncio.sleep(0.01)
    return True


async def pid_in(path: Path) -> int:
    """Wait until a program wrote its pid there."""
    async with asyncio.timeout(DEADLINE_S):
        while not path.exists() or not path.read_text().endswith("\n"):
            await asyncio.sleep(0.01)
    return int(path.read_text())


async def test_it_is_running_once_the_check_says_so_and_gone_when_cancelled():
    engine, states = make(READY + SLEEP)
    async with Life(engine):
        await engine.wait_running()
        pid = engine.status.pid
        assert alive(pid)
    assert not psutil.pid_exists(pid)
    assert states == [State.STARTING, State.RUNNING, State.STOPPING, State.EXITED]
    assert (engine.status.pid, engine.status.reason) == (None, "was stopped")


async def test_a_crash_is_told_with_the_last_line_and_it_starts_again(tmp_path):
    once = tmp_path / "once"
    code = (
        f"import os, sys; from pathlib import Path; mark = Path({str(once)!r})\n{READY}"
        "if not mark.exists():\n mark.touch(); sys.stderr.write('warming\\nout of memory\\n'); sys.exit(3)\n" + SLEEP
    )
    engine, states = make(code)
    async with Life(engine):
        status = await engine.wait_for(lambda status: status.state is State.BACKING_OFF)
        assert (status.reason, status.said) == ("exited with status 3", "out of memory")
        status = await engine.wait_for(lambda status: status.state is State.RUNNING)
        assert status.restarts == 1
    assert states[-5:] == [State.BACKING_OFF, State.STARTING, State.RUNNING, State.STOPPING, State.EXITED]


async def test_kill_9_of_the_engine_is_named_and_an_old_line_is_not_taken_for_its_last_words():
    talk = "import sys; sys.stderr.write('srv  update_slots: /home/me/model.gguf\\n'); sys.stderr.flush();"
    engine, _ = make(talk + READY + SLEEP, jitter=lambda _: 60.0)
    async with Life(engine):
        await engine.wait_running()
        os.kill(engine.status.pid, signal.SIGKILL)
        status = await engine.wait_for(lambda status: status.state is State.BACKING_OFF)
        assert (status.reason, status.said, status.pid) == ("was killed by SIGKILL", "", None)
    assert engine.status.state is State.EXITED


async def test_waits_between_restarts_double_up_to_the_cap_and_are_jittered():
    ceilings: list[float] = []
    engine, _ = make("raise SystemExit(1)", jitter=lambda ceiling: ceilings.append(ceiling) or 0.0,
                     backoff=Backoff(base_s=1, cap_s=5), give_up_after=5)  # fmt: skip
    async with asyncio.timeout(DEADLINE_S):
        await engine.run()
    assert ceilings == [1, 2, 4, 5]
    drawn = ManagedProcess(engine.spec, said_ready)._jitter
    assert all(0 <= drawn(0.5) <= 0.5 for _ in range(100))


def test_the_backoff_never_overflows():
    assert Backoff(base_s=0.5, cap_s=30).ceiling_s(100_000) == 30


async def test_it_gives_up_after_so_many_failures_in_a_row():
    engine, states = make("raise SystemExit(1)", give_up_after=2)
    async with asyncio.timeout(DEADLINE_S):
        await engine.run()
    assert states == [State.STARTING, State.BACKING_OFF, State.STARTING, State.EXITED]
    with pytest.raises(EngineFailedError, match="engine exited with status 1"):
        await engine.wait_running()


async def test_a_steady_run_ends_the_row_of_failures():
    engine, states = make(READY, backoff=Backoff(steady_s=0), give_up_after=2)
    async with Life(engine):
        await engine.wait_for(lambda status: status.restarts >= 4)
    assert State.EXITED not in states[:-1]


async def test_one_that_is_never_ready_is_ended_and_told():
    engine, _ = make("import sys; sys.stderr.write('loading\\n'); sys.stderr.flush();" + SLEEP, ready_timeout_s=0.5)
    async with Life(engine):
        with pytest.raises(EngineFailedError, match=r"was not ready within 0.5 s"):
            await engine.wait_running()
        # Where it takes longer to start than that, it had no time to say anything at first.
        status = await engine.wait_for(lambda status: status.said == "loading")
        assert status.reason == "was not ready within 0.5 s"


async def test_a_check_that_fails_is_told():
    engine, _ = make("print('nonsense', flush=True)\n" + SLEEP, jitter=lambda _: 60.0)
    async with Life(engine):
        with pytest.raises(EngineFailedError, match="was not ready: it said something else"):
            await engine.wait_running()


async def test_one_that_ends_before_it_is_ready_is_told_by_how_it_ended():
    engine, _ = make("import sys; sys.exit('no such model')", jitter=lambda _: 60.0)
    async with Life(engine):
        with pytest.raises(EngineFailedError, match="engine exited with status 1: no such model"):
            await engine.wait_running()


async def test_a_command_that_does_not_exist_is_told():
    spec = ProcessSpec(name="vllm", argv=["/nowhere/vllm", "serve"], give_up_after=1)
    engine = ManagedProcess(spec, said_ready)
    async with asyncio.timeout(DEADLINE_S):
        await engine.run()
    assert "cannot start /nowhere/vllm (No such file or directory)" in engine.status.said


async def test_one_that_ignores_sigterm_is_killed_with_its_children(tmp_path):
    child_pid = tmp_path / "pid"
    code = (
        "import signal, subprocess, sys; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        f"child = subprocess.Popen([sys.executable, '-S', '-c', {SLEEP!r}])\n"
        f"open({str(child_pid)!r}, 'w').write(f'{{child.pid}}\\n')\n" + READY + SLEEP
    )
    engine, _ = make(code, stop_grace_s=0.2)
    async with Life(engine):
        await engine.wait_running()
        pid = engine.status.pid
    assert not psutil.pid_exists(pid)
    assert await dead(await pid_in(child_pid))


async def test_what_a_crashed_engine_left_behind_is_killed(tmp_path):
    child_pid = tmp_path / "pid"
    code = (
        f"import subprocess, sys; child = subprocess.Popen([sys.executable, '-S', '-c', {SLEEP!r}])\n"
        f"open({str(child_pid)!r}, 'w').write(f'{{child.pid}}\\n')\n" + READY
    )
    engine, _ = make(code, jitter=lambda _: 60.0)
    async with Life(engine):
        await engine.wait_for(lambda status: status.state is State.BACKING_OFF)
        assert await dead(await pid_in(child_pid))


async def test_cancelled_twice_it_kills_at_once():
    code = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + READY + SLEEP
    engine, _ = make(code, stop_grace_s=60.0)
    async with Life(engine) as life:
        await engine.wait_running()
        pid = engine.status.pid
        life.task.cancel()
        await engine.wait_for(lambda status: status.state is State.STOPPING)
        life.task.cancel()
        await asyncio.wait([life.task])
        assert await dead(pid)


async def test_much_output_neither_blocks_it_nor_fills_our_memory():
    code = "import sys\nfor _ in range(400): sys.stderr.write('x' * 5000); print('y' * 5000)\nsys.exit('the end')"
    engine, _ = make(code, ready=lambda _: asyncio.sleep(60), give_up_after=1)
    async with asyncio.timeout(DEADLINE_S):
        await engine.run()
    assert engine.status.said.endswith("the end")
    assert len(engine.status.said) <= 300


async def test_a_first_line_that_never_ends_is_no_line():
    async with asyncio.timeout(DEADLINE_S), asyncio.TaskGroup() as group:
        child = await Child.start(python("print('y' * 100_000, end='', flush=True)\n" + SLEEP), None, group)
        with pytest.raises(EOFError):
            await child.stdout.first_line()
        await child.end(1)


async def test_the_environment_is_the_one_given():
    engine, _ = make("import os, sys; sys.exit(os.environ['WHO'])", env={"WHO": "me"}, give_up_after=1)
    async with asyncio.timeout(DEADLINE_S):
        await engine.run()
    assert (engine.status.reason, engine.status.said) == ("exited with status 1", "me")


def test_every_move_that_is_not_in_the_table_is_refused():
    for before, after in itertools.product(State, State):
        engine = ManagedProcess(ProcessSpec(name="engine", argv=["x"]), said_ready)
        engine._status = lifecycle.ProcessStatus(state=before)
        if after in lifecycle.TRANSITIONS[before]:
            engine._move(after)
            assert engine.status.state is after
        else:
            with pytest.raises(RuntimeError, match=f"no way from {before} to {after}"):
                engine._move(after)


def test_no_descriptor_is_left_open():
    async def run_once() -> None:
        engine, _ = make(READY + SLEEP)
        async with Life(engine):
            await engine.wait_running()

    def descriptors() -> int:
        return len(os.listdir("/proc/self/fd"))  # noqa: PTH208 (the entries, not paths)

    async def run_several() -> None:
        before = descriptors()
        for _ in range(3):
            await run_once()
        async with asyncio.timeout(DEADLINE_S):
            while descriptors() > before:  # pipes are closed in the loop's next turns
                await asyncio.sleep(0.01)

    asyncio.run(run_once())  # what is opened once and for all is open now
    gc.collect()  # what other tests left to the collector is gone
    asyncio.run(run_several())


def start_parent(command: str, *arguments: str) -> subprocess.Popen[bytes]:
    """A process that starts `command` (Python expression of an argv) with a pipe as stdin, and waits for it."""
    code = (
        "import os, subprocess, sys; from nodeagent.parentage import guarded\n"
        f"subprocess.Popen({command}, stdin=subprocess.PIPE, start_new_session=True).wait()\n"
    )
    return subprocess.Popen([sys.executable, "-c", code, *arguments])


async def dies_with_its_parent(parent: subprocess.Popen[bytes], pid_file: Path) -> bool:
    try:
        pid = await pid_in(pid_file)
    finally:
        parent.kill()
        parent.wait()
    return await dead(pid)


WRITE_PID = "import os, sys; open(sys.argv[1], 'w').write(f'{os.getpid()}\\n')\n"


async def test_kill_9_of_the_agent_ends_its_engines(tmp_path):
    pid_file = tmp_path / "pid"
    command = "guarded([sys.executable, '-c', sys.argv[1], sys.argv[2]], os.getpid())"
    parent = start_parent(command, WRITE_PID + SLEEP, str(pid_file))
    assert await dies_with_its_parent(parent, pid_file)


async def test_where_the_kernel_cannot_tell_the_closed_pipe_does(tmp_path):
    pid_file = tmp_path / "pid"
    supervisor = "import sys; from nodeagent.parentage import supervise; sys.exit(supervise(sys.argv[1:]))"
    command = f"[sys.executable, '-c', {supervisor!r}, sys.executable, '-c', *sys.argv[1:]]"
    parent = start_parent(command, WRITE_PID + SLEEP, str(pid_file))
    assert await dies_with_its_parent(parent, pid_file)


@pytest.mark.parametrize(("code", "status"), [("raise SystemExit(7)", 7), ("import os; os.kill(os.getpid(), 9)", 137)])
def test_a_supervised_command_passes_its_status_on(code, status):
    run = (
        f"import sys; from nodeagent.parentage import supervise; sys.exit(supervise([sys.executable, '-c', {code!r}]))"
    )
    assert subprocess.run([sys.executable, "-c", run], timeout=DEADLINE_S, check=False).returncode == status


def test_a_guard_whose_parent_is_already_gone_starts_nothing(tmp_path):
    command = guarded([sys.executable, "-c", WRITE_PID, str(tmp_path / "pid")], parent_pid=2**22)
    assert subprocess.run(command, timeout=DEADLINE_S, check=False).returncode == 1
    assert not (tmp_path / "pid").exists()
