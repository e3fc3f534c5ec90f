"""What receipts cost a request, in microseconds, without any I/O; and what it costs when somebody asks for them.

    python bench/bench_receipts.py

A request keeps what its decision saw, writes down one attempt with what its answer told, and is put into the ring.
Shaping is what a listing of 50 and one whole receipt take, from a ring of 1,000.
"""

from __future__ import annotations

import asyncio
import sys
import timeit
from statistics import median
from typing import Any

from bench_decision import cluster
from kit import report

from gateway.auth import ANYBODY
from gateway.exchange import Exchange
from gateway.receipts import Query, Receipts
from gateway.sse import SseScanner
from geniehive.resources import Operation
from geniehive.routing.receipt import decide
from geniehive.routing.resolve import resolve
from geniehive.routing.strategy import order
from geniehive.routing.table import RoutingTable

SIZES = (20, 128, 1000)
ROUNDS, CALLS = 9, 5000
_NO_REQUEST: Any = None


def main() -> int:
    """Measure, print, save."""
    figures = {str(size): _costs(size) for size in SIZES}
    names = list(figures[str(SIZES[0])])
    rows = [(name, *(report.number(figures[str(size)][name], 2) for size in SIZES)) for name in names]
    print(report.table(("µs", *(f"{size} services" for size in SIZES)), rows))
    print(f"\nwritten to {report.save('receipts', {'microseconds': figures})}")
    return 0


def _costs(size: int) -> dict[str, float]:
    snapshot = cluster(size)
    table = RoutingTable(snapshot)
    load = {name: at % 3 for at, name in enumerate(snapshot.services)}
    model = next(iter(snapshot.services.values())).assets[0].asset_id
    found = resolve(table, model, Operation.CHAT)
    ordered = order(table, found, load, 1)
    receipts, scanner, loop = Receipts(1000), SseScanner(), asyncio.new_event_loop()

    def exchange() -> Exchange:
        made = Exchange(_NO_REQUEST, "req_0123456789abcdef01234567", loop)
        made.principal, made.operation = ANYBODY, Operation.CHAT
        return made

    def decided(one: Exchange) -> None:
        one.decision = decide(model, found, ordered, table.observed, load)

    def tried(one: Exchange) -> None:
        attempt = one.attempt(ordered[0])
        attempt.status, attempt.until, attempt.streamed = 200, one.began, True
        attempt.prompt_tokens, attempt.tokens, attempt.finish_reason, attempt.cached_tokens, _ = scanner.told
        attempt.answer_bytes += scanner.bytes
        attempt.outcome = "ok"

    one = exchange()
    decided(one)
    tried(one)
    for _ in range(1000):
        receipts.keep(one, 200)
    costs = {
        "keep what the decision saw": _micros(lambda: decided(one), CALLS),
        "write down an attempt": _micros(lambda: (one.tried.clear(), tried(one)), CALLS),
        "put into the ring": _micros(lambda: receipts.keep(one, 200), CALLS),
    }
    costs["a request, together"] = sum(costs.values())
    costs["list 50"] = _micros(lambda: receipts.page(Query()), 5)
    costs["one, whole"] = _micros(lambda: receipts.page(Query(request_id=one.request_id, limit=1)), 5)
    loop.close()
    return costs


def _micros(work: Any, calls: int) -> float:
    work()
    return median(timeit.repeat(work, number=calls, repeat=ROUNDS)) / calls * 1e6


if __name__ == "__main__":
    sys.exit(main())
