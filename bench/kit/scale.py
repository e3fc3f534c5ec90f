"""What one gateway holds and how it grows: open streams and their memory, a second worker, long prompts."""

from __future__ import annotations

import asyncio
import resource
import statistics
import threading
import time
from collections.abc import Sequence
from typing import Any, Self

import psutil

from kit import load
from kit.keepalive import KeptConnection
from kit.processes import BenchError, Cores, Processes, Program
from kit.stack import service, start_stack, start_upstream

_SLOW_RATE = 0.5  # events a second of a stream that is only held
_OWN_FILES = 200  # of a gateway beside the two sockets of each stream: its own, and those that answer others meanwhile
_PROMPTS = 200
_TURNS = 5


def measure(cores: Cores, *, held: int, seconds: float) -> dict[str, Any]:
    """All of it, each on processes of its own: `idle`, `held`, `workers`, `prompts`; a text where it cannot be done."""
    found: dict[str, Any] = {}
    for name, part in (("held", _held), ("workers", _workers), ("prompts", _prompts)):
        try:
            found[name] = part(cores, held, seconds)
        except BenchError as error:
            found[name] = {"skipped": str(error).splitlines()[0]}
    return found


def _held(cores: Cores, held: int, seconds: float) -> dict[str, Any]:
    """One worker with so many open streams that hardly say anything: memory without and with them."""
    files = _files()
    held = min(held, (files - _OWN_FILES) // 2)
    with Processes() as programs:
        upstream = start_upstream(programs, cores.upstream, rate=_SLOW_RATE)
        limits = {"max_connections": held + _OWN_FILES // 2}
        stack = start_stack(programs, [service("bench/chat", upstream)], cores=cores.tested, limits=limits)
        idle = _rss(stack.gateway)
        load.wrk(stack.port, connections=8, seconds=1, cores=cores.load)
        before = _rss(stack.gateway)
        with _Peak(stack.gateway) as peak:
            seen = load.streams(stack.port, count=held, seconds=seconds, cores=cores.load, rate=_SLOW_RATE, opening=30)
    return {
        "idle_mb": idle / 1e6,
        "warm_mb": before / 1e6,
        "streams": held,
        "files": files,
        "open": seen["open"],
        "kb_each": max(0, peak.bytes - before) / 1e3 / max(1, seen["open"]),
        "delivered": seen["delivered"],
        "due": seen["due"],
        "failed": seen["failed"],
    }


def _workers(cores: Cores, _held: int, seconds: float) -> dict[str, Any]:
    """Requests a second of one worker on one core and of two on two, with the same cores for the load.

    They take turns, since a machine is not the same from one moment to the next; the medians count.
    """
    if len(cores.load) < 2:
        raise BenchError("a second worker needs a fourth core")
    spare, rest = cores.load[:1], cores.load[1:]
    rates: dict[int, list[float]] = {1: [], 2: []}
    with Processes() as one, Processes() as two:
        upstream = start_upstream(one, cores.upstream)
        services = [service("bench/chat", upstream)]
        stacks = {
            1: start_stack(one, services, cores=cores.tested, limits={"workers": 1}),
            2: start_stack(two, services, cores=(*cores.tested, *spare), limits={"workers": 2}),
        }
        for turn in range(_TURNS + 1):
            for count, stack in stacks.items():
                found = load.wrk(stack.port, connections=64, seconds=seconds if turn else 1, cores=rest)
                if turn:  # in the first connections are opened
                    rates[count].append(found["requests_per_s"])
    return {"one_per_s": statistics.median(rates[1]), "two_per_s": statistics.median(rates[2]), "turns": rates}


def _prompts(cores: Cores, _held: int, _seconds: float) -> dict[str, Any]:
    """The median time of a chat with a prompt of a kilobyte, and of a megabyte, one at a time."""
    with Processes() as programs:
        upstream = start_upstream(programs, cores.upstream)
        stack = start_stack(programs, [service("bench/chat", upstream)], cores=cores.tested)
        small, large = (asyncio.run(_asked(stack.port, size)) for size in (1000, 1_000_000))
        direct = asyncio.run(_asked(upstream, 1_000_000)) - asyncio.run(_asked(upstream, 1000))
    return {"kb_ms": small, "mb_ms": large, "more_ms": large - small, "of_which_upstream_ms": direct}


async def _asked(port: int, size: int) -> float:
    prompt = [{"role": "user", "content": "bee " * (size // 4)}]
    took = []
    async with KeptConnection(port, messages=prompt) as connection:
        for _ in range(_PROMPTS):
            began = time.perf_counter()
            status, _headers = await connection.ask()
            took.append(time.perf_counter() - began)
            if status != 200:
                raise BenchError(f"a prompt of {size} bytes was answered {status}")
    return statistics.median(took) * 1e3


def _files() -> int:
    """Raise the limit of open files for what is started from here, each with its own; how many each has then."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard if hard != resource.RLIM_INFINITY else 1_000_000


def _rss(program: Program) -> int:
    """Resident bytes of a program and its children."""
    me = psutil.Process(program.pid)
    return sum(each.memory_info().rss for each in (me, *me.children(recursive=True)))


class _Peak:
    """The most memory that a program has while the block lasts."""

    def __init__(self, program: Program) -> None:
        self._program = program
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look)
        self.bytes = 0

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._over.wait(0.1):
            self.bytes = max(self.bytes, _rss(self._program))


def rows(found: dict[str, Any]) -> Sequence[tuple[str, str, str]]:
    """What is measured, its value, its target."""
    held, workers, prompts = found["held"], found["workers"], found["prompts"]
    table: list[tuple[str, str, str]] = []
    if "skipped" not in held:
        open_, due = held["open"], held["streams"]
        table += [
            ("memory of an idle worker", f"{held['idle_mb']:.0f} MB", "80 MB"),
            ("streams open at once on one worker", f"{open_:,} of {due:,} ({held['files']:,} files)", "10,000"),
            ("their events that came", f"{held['delivered']:,} of {held['due']:,}", "all"),
            ("memory of one more open stream", f"{held['kb_each']:.1f} KB", "25 KB"),
        ]
    if "skipped" not in workers:
        ratio = workers["two_per_s"] / workers["one_per_s"]
        rates = f"{workers['one_per_s']:,.0f} and {workers['two_per_s']:,.0f} req/s: {ratio:.2f}x"
        table.append(("one worker and two", rates, "1.8x"))
    if "skipped" not in prompts:
        more = f"{prompts['more_ms']:.2f} ms, {prompts['of_which_upstream_ms']:.2f} of it the engine's"
        table.append(("a prompt of 1 MB costs more than one of 1 KB", more, "3 ms"))
    table += [(name, "not measured: " + part["skipped"], "") for name, part in found.items() if "skipped" in part]
    return table
