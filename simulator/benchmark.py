"""The routing benchmark: every policy on every trace, fleet and load, from fixed seeds."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from functools import partial
from typing import NamedTuple

from geniehive.routing import predict
from simulator import fleet, policies, trace
from simulator.world import Done, PolicyFactory, World

TRACES = ("chat", "agent", "mixed")
FLEETS = (2, 4, 16)
GATEWAYS = {2: 1, 4: 2, 16: 3}
REQUESTS = {2: 1200, 4: 1200, 16: 2400}
SEEDS = (11, 12)
_WARM_UP = 0.15  # of the time in which conversations start: what starts there is not counted
_FRESH_AND_ANSWER = {"chat": (350.0, 220.0), "agent": (3500.0, 95.0), "mixed": (350.0, 220.0)}

# Share of what the fleet bears, roughly; with tree caches and many slots the large fleet bears more.
LOADS: Mapping[str, Mapping[tuple[str, int], float]] = {
    "light": {(kind, size): 0.25 if size < 16 else 0.4 for kind in TRACES for size in FLEETS},
    "busy": {(kind, size): 0.5 if size < 16 else {"chat": 0.75, "agent": 1.1, "mixed": 0.6}[kind]
             for kind in TRACES for size in FLEETS},
}  # fmt: skip

# name: (strategy of the routing table, policy)
POLICIES: Mapping[str, tuple[str, PolicyFactory]] = {
    "random": ("scored", policies.Random),
    "round_robin": ("scored", policies.RoundRobin),
    "least_loaded": ("least_loaded", policies.Shipped),
    "sglang": ("scored", policies.CacheAware),
    "llm-d": ("scored", policies.Weighted),
    "scored": ("scored", policies.Shipped),
    "predicted": ("predicted", policies.Shipped),
}
# Weights of writing and of what others lose: the oracle compares what `predicted` compares, only truly; the selfish
# one minds its own first token and nothing else.
ORACLES = {"oracle": (predict.WRITING, predict.KEEP), "selfish oracle": (0.0, 0.0)}


class Cell(NamedTuple):
    """One run: a policy in a situation."""

    load: str
    trace: str
    fleet: int
    policy: str
    seed: int


class Result(NamedTuple):
    """Seconds; `warm` is the share of prompt tokens that were cached."""

    requests: int
    ttft_mean: float
    ttft_p50: float
    ttft_p95: float
    latency_mean: float
    warm: float


def run(cell: Cell) -> list[Done]:
    """One run: what came of the requests that count."""
    machines = fleet.make(cell.fleet, 7)
    fresh, answer = _FRESH_AND_ANSWER[cell.trace]
    rate = fleet.capacity(machines, trace.SMALL, fresh, answer) * LOADS[cell.load][cell.trace, cell.fleet]
    talks = trace.make(cell.trace, cell.seed, REQUESTS[cell.fleet], rate)
    if cell.policy in POLICIES:
        strategy, policy = POLICIES[cell.policy]
    else:
        writing, keep = ORACLES[cell.policy]
        returning = frozenset(turn.answer.id for talk in talks for turn in talk.turns[:-1])
        strategy, policy = "predicted", partial(policies.Oracle, writing=writing, keep=keep, returning=returning)
    world = World(machines, talks, policy, strategy=strategy, gateways=GATEWAYS[cell.fleet], seed=5)
    starts = _WARM_UP * talks[-1].starts_at
    return [done for done in world.run() if talks[done.talk].starts_at >= starts]


def summed(runs: list[list[Done]]) -> Result:
    """Runs of one situation with several seeds, together."""
    done = [each for one in runs for each in one]
    ttft = sorted(each.ttft for each in done)
    return Result(
        requests=len(done),
        ttft_mean=statistics.fmean(ttft),
        ttft_p50=ttft[len(ttft) // 2],
        ttft_p95=ttft[int(len(ttft) * 0.95)],
        latency_mean=statistics.fmean(each.latency for each in done),
        warm=sum(each.cached for each in done) / sum(each.turn.prompt_tokens for each in done),
    )
