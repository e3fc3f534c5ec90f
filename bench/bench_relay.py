"""How much the gateway costs: short chats and event streams, side by side with other proxies in one run.

    python bench/bench_relay.py [--seconds S] [--rounds N] [--streams 1000,2000] [--peers] [--only NAME,...]
                                [--held N]

Every proxy gets the same core, the same upstream and the same load; the rounds go round all of them, so that what
else the machine does falls on each. Of the rounds the median is reported. The gateway is the real stack (control
plane, node agent, gateway) with keys, routing and metrics on. Then, for the gateway alone: memory, open streams, a
second worker, long prompts (--held 0 leaves that out). docs/performance.md explains the figures, and has the plot.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from kit import load, native, peers, plot, report, scale
from kit.processes import BenchError, Cores, Processes, Program
from kit.stack import MODEL, service, start_stack, start_upstream

GATEWAY, UPSTREAM, NGINX, AIOHTTP = "GenieHive gateway", "upstream itself", "nginx", "plain aiohttp"
# LiteLLM is two orders of magnitude slower: more streams than these only measure its queue.
FEW_STREAMS = {"LiteLLM": 50}


@dataclass
class Tested:
    """One proxy and what was measured of it, round by round."""

    name: str
    start: Callable[[Processes, int, Sequence[int]], int]
    process: str
    many: list[dict[str, Any]] = field(default_factory=list)
    one: list[dict[str, Any]] = field(default_factory=list)
    streams: dict[int, list[dict[str, Any]]] = field(default_factory=dict)
    skipped: str = ""

    def chat(self, which: str, key: str) -> float | None:
        """The median of a figure of short chats; None if there is none."""
        rounds = self.many if which == "many" else self.one
        return median(each[key] for each in rounds) if rounds else None

    def stream(self, count: int, key: str) -> float | None:
        """The median of a figure of so many streams; None if there is none."""
        rounds = self.streams.get(count)
        return median(each[key] for each in rounds) if rounds else None


def main() -> int:
    """Measure, print, save."""
    options = _options()
    cores = Cores.of_this_machine()
    tested = _contestants(options)
    native.tool("wrk", "wrk")
    with Processes() as programs:
        upstream = start_upstream(programs, cores.upstream)
        ports = _start_all(programs, tested, upstream, cores)
        for turn in range(options.rounds):
            for each in tested:
                if each.name in ports:
                    print(f"round {turn + 1} of {options.rounds}: {each.name} ...", file=sys.stderr, flush=True)
                    program = programs.named(each.process)
                    _chats(each, program, ports[each.name], cores, options)
                    _streams(each, program, ports[each.name], cores, options)
    held = scale.measure(cores, held=options.held, seconds=options.seconds) if options.held else None
    _print(tested, options)
    if held is not None:
        print("\n" + report.table(("the gateway alone", "measured", "target"), scale.rows(held)))
    path = report.save("relay", {**_as_json(tested, cores, options), "scale": held})
    picture = path.with_suffix(".svg")
    picture.write_text(_plot(tested, options))
    print(f"\nplotted in {picture}", end="")
    print(f"\nwritten to {path}")
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=3, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--streams", default="1000,2000", help="how many at once, each of 50 events a second")
    parser.add_argument("--peers", action="store_true", help="SGLang's router and LiteLLM too, installed from PyPI")
    parser.add_argument("--only", default="", help="names, separated by commas")
    parser.add_argument(
        "--held", type=int, default=10_000, help="open streams on one worker; 0 skips what it does alone"
    )
    options = parser.parse_args()
    options.streams = [int(count) for count in options.streams.split(",") if count]
    return options


def _contestants(options: argparse.Namespace) -> list[Tested]:
    every = [
        Tested(UPSTREAM, lambda _programs, upstream, _cores: upstream, "upstream"),
        Tested(GATEWAY, _gateway, "gateway"),
        Tested(NGINX, peers.nginx, "nginx"),
        Tested(AIOHTTP, peers.plain_aiohttp, "aiohttp"),
    ]
    if options.peers:
        every += [
            Tested("SGLang router", peers.sglang_router, "sglang-router"),
            Tested("LiteLLM", peers.litellm, "litellm"),
        ]
    wanted = {name.strip().lower() for name in options.only.split(",") if name.strip()}
    return [each for each in every if not wanted or any(word in each.name.lower() for word in wanted)]


def _gateway(programs: Processes, upstream: int, cores: Sequence[int]) -> int:
    return start_stack(programs, [service("bench/chat", upstream)], cores=cores).port


def _start_all(programs: Processes, tested: Sequence[Tested], upstream: int, cores: Cores) -> dict[str, int]:
    """The ports by name; who cannot run says why, and only the gateway must."""
    ports = {}
    for each in tested:
        try:
            ports[each.name] = each.start(programs, upstream, cores.tested)
        except BenchError as error:
            if each.name == GATEWAY:
                raise
            lines = str(error).splitlines()
            each.skipped = " … ".join(dict.fromkeys((lines[0], lines[-1])))
            print(f"without {each.name}: {error}", file=sys.stderr)
    return ports


def _chats(each: Tested, program: Program, port: int, cores: Cores, options: argparse.Namespace) -> None:
    load.wrk(port, connections=8, seconds=1, cores=cores.load)  # connections are open, caches are warm
    before = program.cpu_seconds()
    found = load.wrk(port, connections=64, seconds=options.seconds, cores=cores.load)
    found["cpu_us"] = (program.cpu_seconds() - before) / max(1, found["requests"]) * 1e6
    each.many.append(found)
    each.one.append(load.wrk(port, connections=1, seconds=max(1, options.seconds / 2), cores=cores.load))


def _streams(each: Tested, program: Program, port: int, cores: Cores, options: argparse.Namespace) -> None:
    for count in options.streams:
        fewer = min(count, FEW_STREAMS.get(each.name, count))
        if fewer == count or count == min(options.streams):
            before = program.cpu_seconds()
            found = load.streams(port, count=fewer, seconds=options.seconds, cores=cores.load)
            found["cpu_us"] = (program.cpu_seconds() - before) / max(1, found["delivered"]) * 1e6
            each.streams.setdefault(count, []).append(found)


def _print(tested: Sequence[Tested], options: argparse.Namespace) -> None:
    by_name = {each.name: each for each in tested}
    nginx, aiohttp = by_name.get(NGINX), by_name.get(AIOHTTP)
    _print_chats([each for each in tested if each.many], nginx, aiohttp)
    for count in options.streams:
        _print_streams([each for each in tested if each.streams.get(count)], nginx, aiohttp, count)
    for each in tested:
        if each.skipped:
            print(f"\nnot measured: {each.name}: {each.skipped}")


def _of(base: Tested | None, figure: Callable[[Tested], float | None]) -> float | None:
    return figure(base) if base is not None else None


def _print_chats(tested: Sequence[Tested], nginx: Tested | None, aiohttp: Tested | None) -> None:
    def rate(each: Tested) -> float | None:
        return each.chat("many", "requests_per_s")

    def cpu(each: Tested) -> float | None:
        return each.chat("many", "cpu_us")

    def p50(each: Tested) -> float | None:
        return each.chat("one", "p50_ms")

    rows = [
        (
            each.name,
            report.number(rate(each)),
            report.ratio(rate(each), _of(nginx, rate)),
            report.ratio(rate(each), _of(aiohttp, rate)),
            report.number(each.chat("many", "p99_ms"), 1),
            report.number(cpu(each)),
            report.ratio(cpu(each), _of(aiohttp, cpu)),
            report.number(p50(each), 2),
            report.ratio(p50(each), _of(nginx, p50)),
            report.number(sum(run["errors"] for run in (*each.many, *each.one))),
        )
        for each in tested
    ]
    head = (
        "short chat", "req/s at 64", "of nginx", "of aiohttp", "p99 ms", "CPU µs each", "of aiohttp", "p50 ms at 1",
        "of nginx", "errors",
    )  # fmt: skip
    print("\n" + report.table(head, rows))


def _print_streams(tested: Sequence[Tested], nginx: Tested | None, aiohttp: Tested | None, count: int) -> None:
    def p99(each: Tested) -> float | None:
        return each.stream(count, "p99_ms")

    def cpu(each: Tested) -> float | None:
        return each.stream(count, "cpu_us")

    rows = [
        (
            each.name,
            report.number(each.stream(count, "open")),
            report.number(each.stream(count, "events_per_s")),
            report.number(each.stream(count, "offered_per_s")),
            report.number(each.stream(count, "p50_ms"), 2),
            report.number(p99(each), 2),
            report.ratio(p99(each), _of(nginx, p99)),
            report.number(cpu(each), 1),
            report.ratio(cpu(each), _of(aiohttp, cpu)),
            report.number(sum(run["due"] - run["delivered"] for run in each.streams[count])),
        )
        for each in tested
    ]
    head = (
        f"{count} event streams", "open", "events/s", "offered", "p50 ms", "p99 ms", "of nginx", "CPU µs each",
        "of aiohttp", "missing",
    )  # fmt: skip
    print("\n" + report.table(head, rows))


def _plot(tested: Sequence[Tested], options: argparse.Namespace) -> str:
    """Bars for what docs/performance.md shows; the engine itself is left out, since it is no proxy."""
    proxies = [each for each in tested if each.name != UPSTREAM]
    panels = [
        plot.Panel(
            "short chats: requests a second, 64 connections", _bars(proxies, lambda e: e.chat("many", "requests_per_s"))
        ),
        plot.Panel("processor time of a request, µs", _bars(proxies, lambda e: e.chat("many", "cpu_us"))),
    ]
    for count in options.streams:
        panels += [
            plot.Panel(
                f"{count:,} streams: events a second", _bars(proxies, lambda e, n=count: e.stream(n, "events_per_s"))
            ),
            plot.Panel(
                f"{count:,} streams: 99th percentile of the delay, ms",
                _bars(proxies, lambda e, n=count: e.stream(n, "p99_ms")),
            ),
        ]
    return plot.svg(panels, marked=GATEWAY)


def _bars(tested: Sequence[Tested], figure: Callable[[Tested], float | None]) -> list[tuple[str, float]]:
    found = [(each.name, figure(each)) for each in tested]
    return [(name, value) for name, value in found if value is not None]


def _as_json(tested: Sequence[Tested], cores: Cores, options: argparse.Namespace) -> dict[str, Any]:
    return {
        "command": sys.argv,
        "model": MODEL,
        "cores": {"upstream": cores.upstream, "tested": cores.tested, "load": cores.load},
        "seconds": options.seconds,
        "rounds": options.rounds,
        "proxies": {
            each.name: {"many": each.many, "one": each.one, "streams": each.streams, "skipped": each.skipped}
            for each in tested
        },
    }


if __name__ == "__main__":
    try:
        sys.exit(main())
    except BenchError as error:
        sys.exit(f"bench_relay: {error}")
