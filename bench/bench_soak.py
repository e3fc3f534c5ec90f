"""The real stack for a long time, with engines that flap and misbehave in every way and clients that leave early.

    python bench/bench_soak.py [--minutes M] [--clients N] [--rate R] [--seed N]

Control plane, node agent and gateway as users start them; four engines (bench/upstream/flapping.py) that are well, ill
and gone in turns. Afterwards all must be as before: no task, socket or place left, memory flat (two fifths of the run
against its end); and no answer may have looked whole that was not. What the gateway says of itself at /metrics is what
counts. Prints tables, saves bench/results/soak.json; the exit status tells.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent))

import aiohttp
import psutil
from kit import report
from kit.processes import Processes, free_port
from kit.soaking import Clients
from kit.stack import HEADERS, start_stack
from prometheus_client.parser import text_string_to_metric_families
from upstream.flapping import MODEL, words

_ENGINES = 4
_EVERY_S = 2.0
_SETTLE_S = 20.0
_WARM = 0.4  # of the run: pools, caches and receipts fill
_LIMITS = {"first_byte_timeout_s": 1.5, "idle_timeout_s": 1.5, "receipts": 200}
_GROWTH = 0.06
_GROWTH_BYTES = 6 * 2**20
_MB = 2**20


class Sample(NamedTuple):
    """What the gateway says of itself, and what the system says of the others; bytes and counts."""

    at: float
    tasks: float
    open_requests: float
    in_flight: float
    upstream_open: float
    upstream_idle: float
    fds: float
    rss: float
    cpu_s: float
    control_rss: float
    node_rss: float


def main() -> int:
    """Soak, print, save; 1 if anything was left behind or untrue."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--clients", type=int, default=60)
    parser.add_argument("--rate", type=float, default=60, help="requests a second of all clients together")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with Processes() as programs:
        services = [_engine(programs, number, options.seed) for number in range(_ENGINES)]
        stack = start_stack(programs, services, cores=(), model=MODEL, limits=_LIMITS)
        others = [psutil.Process(programs.named(name).pid) for name in ("control", "node")]
        soak = Soak(f"http://127.0.0.1:{stack.port}", others, options.seed)
        found = asyncio.run(soak.run(options.minutes * 60, options.clients, options.rate))
        said = {name: programs.named(name).said() for name in ("control", "gateway", "node")}
    found["errors_logged"] = {name: text.count("Traceback") for name, text in said.items()}
    wrong = _judge(found)
    _print(found, wrong)
    report.save("soak", {**found, "wrong": wrong, "options": vars(options)})
    return 1 if wrong else 0


def _engine(programs: Processes, number: int, seed: int) -> dict[str, Any]:
    port = free_port()
    script = Path(__file__).resolve().parent / "upstream" / "flapping.py"
    argv = [sys.executable, str(script), "--port", str(port), "--seed", str(seed * 100 + number)]
    engine = programs.start(f"engine-{number}", argv)
    engine.wait_until_answers(port, "/v1/models")
    return {
        "service_id": f"bench-host/engine-{number}",
        "kinds": ["chat"],
        "endpoint": f"http://127.0.0.1:{port}",
        "discover_protocol": None,
        "assets": [{"asset_id": MODEL}],
    }


class Soak:
    """One run."""

    def __init__(self, url: str, others: list[psutil.Process], seed: int) -> None:
        self._url = url
        self._others = others
        self._clients = Clients(url, HEADERS, MODEL, lambda prompt: "".join(words(prompt)), random.Random(seed))
        self._samples: list[Sample] = []

    async def run(self, seconds: float, clients: int, rate: float) -> dict[str, Any]:
        """Ask and look, then wait until all is quiet; what was seen."""
        began = time.monotonic()
        async with aiohttp.ClientSession(headers=HEADERS) as http:
            before = await self._sample(http, began)
            until = began + seconds
            async with asyncio.TaskGroup() as tasks:
                asking = tasks.create_task(self._clients.run(clients, rate, lambda: time.monotonic() > until))
                while not asking.done():
                    self._samples.append(await self._sample(http, began))
                    await asyncio.wait([asking], timeout=_EVERY_S)
            after = await self._quiet(http, began, before)
        return {
            "seconds": round(time.monotonic() - began, 1),
            "answers": dict(sorted(self._clients.counts.items())),
            "lies": self._clients.lies[:20],
            "before": before._asdict(),
            "after": after._asdict(),
            "samples": [each._asdict() for each in self._samples],
        }

    async def _quiet(self, http: aiohttp.ClientSession, began: float, before: Sample) -> Sample:
        """The first sample in which nothing is left, or the last that there is time for."""
        deadline = time.monotonic() + _SETTLE_S
        while True:
            seen = await self._sample(http, began)
            if not _left(before, seen) or time.monotonic() > deadline:
                return seen
            await asyncio.sleep(0.5)

    async def _sample(self, http: aiohttp.ClientSession, began: float) -> Sample:
        async with http.get(f"{self._url}/metrics") as found:
            text = await found.text()
        seen: dict[str, float] = {}
        for family in text_string_to_metric_families(text):
            for one in family.samples:
                name = one.name if "state" not in one.labels else f"{one.name}_{one.labels['state']}"
                seen[name] = seen.get(name, 0) + one.value
        return Sample(
            time.monotonic() - began,
            seen["geniehive_gateway_tasks"],
            seen["geniehive_gateway_open_requests"] - 1,  # the scrape itself
            seen.get("geniehive_gateway_in_flight", 0),
            seen["geniehive_gateway_upstream_connections_open"],
            seen["geniehive_gateway_upstream_connections_idle"],
            seen["process_open_fds"],
            seen["process_resident_memory_bytes"],
            seen["process_cpu_seconds_total"],
            *(other.memory_info().rss for other in self._others),
        )


def _left(before: Sample, after: Sample) -> list[str]:
    """What is still there that was not before. Connections that wait for the next request are no leak."""
    found = []
    if after.open_requests:
        found.append(f"{after.open_requests:g} requests are open")
    if after.in_flight:
        found.append(f"{after.in_flight:g} places at services are taken")
    if after.upstream_open > after.upstream_idle:
        found.append(
            f"{after.upstream_open - after.upstream_idle:g} connections to engines are neither idle nor closed"
        )
    if after.tasks > before.tasks:
        found.append(f"{after.tasks - before.tasks:g} more tasks than before")
    if after.fds - after.upstream_open > before.fds - before.upstream_open:
        found.append(f"{after.fds - after.upstream_open - before.fds + before.upstream_open:g} more open files")
    return found


def _judge(found: dict[str, Any]) -> list[str]:
    """What is wrong; empty if nothing is."""
    before, after = Sample(**found["before"]), Sample(**found["after"])
    wrong = _left(before, after) + [f"an untrue answer: {each}" for each in found["lies"]]
    wrong += [f"{name} logged {count} tracebacks" for name, count in found["errors_logged"].items() if count]
    for name in ("rss", "control_rss", "node_rss"):
        began, ended = _ends(found["samples"], name)
        if ended - began > max(_GROWTH * began, _GROWTH_BYTES):
            wrong.append(f"{name} grew from {began / _MB:.1f} to {ended / _MB:.1f} MB after the warm-up")
    kinds = found["answers"]
    for needed in ("stream: whole", "plain: whole", "stream: whole, resumed", "stream: left", "plain: left"):
        if not kinds.get(needed):
            wrong.append(f"not one answer of the kind {needed!r}: the run proves nothing")
    return wrong


def _ends(samples: list[dict[str, float]], name: str) -> tuple[float, float]:
    """The median of a value just after the warm-up and at the end."""
    warm = [each[name] for each in samples[int(len(samples) * _WARM) :]]
    part = max(1, len(warm) // 5)
    return sorted(warm[:part])[part // 2], sorted(warm[-part:])[part // 2]


def _slope(samples: list[dict[str, float]], name: str) -> float:
    """Units an hour after the warm-up, by least squares."""
    warm = samples[int(len(samples) * _WARM) :]
    times = [each["at"] / 3600 for each in warm]
    values = [each[name] for each in warm]
    middle, mean = sum(times) / len(times), sum(values) / len(values)
    spread = sum((at - middle) ** 2 for at in times) or 1.0
    return sum((at - middle) * (value - mean) for at, value in zip(times, values, strict=True)) / spread


def _print(found: dict[str, Any], wrong: list[str]) -> None:
    samples, total = found["samples"], sum(found["answers"].values())
    print(f"{total:,} requests in {found['seconds']:,.0f} s")
    print(report.table(["answers", "number"], [[kind, f"{count:,}"] for kind, count in found["answers"].items()]))
    names = ("tasks", "open_requests", "in_flight", "upstream_open", "fds")
    rows = [
        [
            name,
            *(
                f"{value:g}"
                for value in (found["before"][name], max(each[name] for each in samples), found["after"][name])
            ),
        ]
        for name in names
    ]
    print("\n" + report.table(["gateway", "before", "most", "after"], rows))
    rows = []
    for name, title in (("rss", "gateway"), ("control_rss", "control plane"), ("node_rss", "node agent")):
        began, ended = _ends(samples, name)
        rows.append(
            [title, *(f"{each / _MB:.1f}" for each in (found["before"][name], began, ended, _slope(samples, name)))]
        )
    print("\n" + report.table(["memory, MB", "before", "warm", "end", "an hour"], rows))
    for each in wrong:
        print(f"WRONG: {each}")
    print("nothing is left behind, nothing was untrue" if not wrong else "")


if __name__ == "__main__":
    sys.exit(main())
