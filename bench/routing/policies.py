"""The routing benchmark: a table of time to first token by policy, and a plot, from fixed seeds.

    make bench-routing                             everything, a few minutes on four cores
    make bench-routing ARGS="--trace agent --fleet 4 --load busy"

Writes bench/results/routing.json, and with --docs the table in docs/routing.md and docs/routing.svg.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor

from kit import report
from kit.processes import REPO

from simulator import benchmark, plot
from simulator.benchmark import Cell, Result
from simulator.world import Done

ALL = (*benchmark.POLICIES, *benchmark.ORACLES)
OTHERS = tuple(name for name in benchmark.POLICIES if name != "predicted")
_BEGIN, _END = "<!-- bench-routing: begin -->", "<!-- bench-routing: end -->"


def main() -> None:
    """Run, print, save."""
    wanted = _arguments()
    situations = [(load, trace, fleet) for load in wanted.load for fleet in wanted.fleet for trace in wanted.trace]
    cells = [Cell(*each, policy, seed) for each in situations for policy in ALL for seed in benchmark.SEEDS]
    runs: dict[tuple[str, str, int, str], list[list[Done]]] = {}
    with ProcessPoolExecutor(wanted.processes) as pool:
        for cell, done in zip(cells, pool.map(benchmark.run, cells), strict=True):
            runs.setdefault(cell[:4], []).append(done)
            if sys.stderr.isatty():
                print(f"\r{len(runs)} of {len(situations) * len(ALL)} ", end="", file=sys.stderr)
    results = {key: benchmark.summed(found) for key, found in runs.items()}
    print()
    for load, trace, fleet in situations:
        print(f"{trace}, {fleet} hosts, {load}")
        print(
            report.table(("policy", "TTFT mean", "p50", "p95", "latency", "warm"), _rows(results, load, trace, fleet))
        )
        print()
    verdicts = [_verdict(results, *each) for each in situations]
    print(report.table(_HEAD, verdicts))
    report.save("routing", {" ".join(map(str, key)): each._asdict() for key, each in results.items()})
    if wanted.docs:
        _write_docs(results, situations, verdicts)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trace", nargs="+", choices=benchmark.TRACES, default=benchmark.TRACES)
    parser.add_argument("--fleet", nargs="+", type=int, choices=benchmark.FLEETS, default=benchmark.FLEETS)
    parser.add_argument("--load", nargs="+", choices=tuple(benchmark.LOADS), default=tuple(benchmark.LOADS))
    parser.add_argument("--processes", type=int, default=None)
    parser.add_argument("--docs", action="store_true", help="write the table and the plot into docs/")
    return parser.parse_args()


def _rows(results: Mapping[tuple[str, str, int, str], Result], load: str, trace: str, fleet: int) -> list[list[str]]:
    rows = []
    for policy in ALL:
        one = results[load, trace, fleet, policy]
        figures = (one.ttft_mean, one.ttft_p50, one.ttft_p95, one.latency_mean)
        rows.append([policy, *(f"{value:.2f}" for value in figures), f"{one.warm:.0%}"])
    return rows


_HEAD = (
    "situation",
    "predicted",
    "/ oracle",
    "p95",
    "/ oracle",
    "/ selfish",
    "best other",
    "is",
    "x slower",
    "p95 x",
    "scored / least_loaded",
    "p95",
)


def _verdict(results: Mapping[tuple[str, str, int, str], Result], load: str, trace: str, fleet: int) -> tuple[str, ...]:
    """One line: `predicted` beside the oracles and the best of the others, `scored` beside least_loaded."""
    by = {policy: results[load, trace, fleet, policy] for policy in ALL}
    ours, oracle, selfish = by["predicted"], by["oracle"], by["selfish oracle"]
    best = min(OTHERS, key=lambda policy: by[policy].ttft_mean)
    least_p95 = min(by[policy].ttft_p95 for policy in OTHERS)
    scored, least = by["scored"], by["least_loaded"]
    return (
        f"{trace} {fleet} {load}",
        f"{ours.ttft_mean:.2f}",
        f"{ours.ttft_mean / oracle.ttft_mean:.2f}",
        f"{ours.ttft_p95:.2f}",
        f"{ours.ttft_p95 / oracle.ttft_p95:.2f}",
        f"{ours.ttft_mean / selfish.ttft_mean:.2f}",
        f"{by[best].ttft_mean:.2f}",
        best,
        f"{by[best].ttft_mean / ours.ttft_mean:.2f}",
        f"{least_p95 / ours.ttft_p95:.2f}",
        f"{scored.ttft_mean / least.ttft_mean:.2f}",
        f"{scored.ttft_p95 / least.ttft_p95:.2f}",
    )


def _write_docs(
    results: Mapping[tuple[str, str, int, str], Result],
    situations: Sequence[tuple[str, str, int]],
    verdicts: Sequence[tuple[str, ...]],
) -> None:
    groups = [
        (f"{trace}, {fleet} hosts, {load}", [results[load, trace, fleet, policy].ttft_mean for policy in ALL])
        for load, trace, fleet in situations
    ]
    (REPO / "docs" / "routing.svg").write_text(plot.bars("Mean time to first token, seconds", ALL, groups))
    page = REPO / "docs" / "routing.md"
    before, _, rest = page.read_text().partition(_BEGIN)
    _, _, after = rest.partition(_END)
    means = [
        (f"{trace} {fleet} {load}", *(_cell(results[load, trace, fleet, policy]) for policy in ALL))
        for load, trace, fleet in situations
    ]
    tables = "\n\n".join((_markdown(("situation", *ALL), means), _markdown(_HEAD, verdicts)))
    page.write_text(f"{before}{_BEGIN}\n{tables}\n{_END}{after}")


def _cell(one: Result) -> str:
    return f"{one.ttft_mean:.2f} / {one.ttft_p95:.1f}"


def _markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = (head, ["---", *["---:"] * (len(head) - 1)], *rows)
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    main()
