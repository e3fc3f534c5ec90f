"""What one routing decision costs: resolve and order, on one core, at 1, 20 and 1,000 services.

The services are busy and the prompts are conversations that go on, so that every signal is worked out;
time passes between decisions and requests begin and end, as they do in a gateway. What is timed is
the decision alone; beside it stand the fingerprint of a prompt, the bookkeeping of one request (only `scored`
and `predicted` have it), and what the scores and signals in its receipt take, where receipts are kept.
"""

from __future__ import annotations

import json
import random
import statistics
import time

from kit import report

from geniehive.resources import Asset, Health, HealthStatus, Host, Observed, Operation, Runtime, Service, Snapshot
from geniehive.routing.affinity import fingerprint
from geniehive.routing.ledger import Ask, Ledger, Outcome, Ticket
from geniehive.routing.receipt import decide
from geniehive.routing.resolve import resolve
from geniehive.routing.strategy import LEARNING, LIMIT, STRATEGIES, decided
from geniehive.routing.table import RoutingTable

_DECISIONS = 6000
_MODEL = "qwen3-8b"


def cluster(services: int, strategy: str) -> RoutingTable:
    """So many services of one model, of several engines, one a host."""
    engines = (("llamacpp", 4), ("ollama", None), ("vllm", None), ("llamacpp", 2))
    hosts, found = {}, {}
    for number in range(services):
        protocol, slots = engines[number % len(engines)]
        name = f"host-{number:04}"
        hosts[name] = Host(host_id=name)
        found[f"{name}/llm"] = Service(
            service_id=f"{name}/llm",
            host_id=name,
            operations=(Operation.CHAT,),
            endpoint=f"http://{name}:8080",
            protocol=protocol,
            runtime=Runtime(engine=protocol),
            health=Health(status=HealthStatus.HEALTHY),
            assets=(Asset(asset_id=_MODEL, loaded=True),),
            observed=Observed(slots=slots, tokens_per_second=10.0 + number % 90, in_flight=number % 3),
        )
    return RoutingTable(Snapshot(hosts=hosts, services=found), strategy)


def measure(services: int, strategy: str) -> tuple[float, ...]:
    """Microseconds: median and 99th percentile of a decision, and the medians of bookkeeping and receipt."""
    dice = random.Random(1)
    table = cluster(services, strategy)
    ledger, counts = Ledger(), dict[str, int]()
    ledger.observe(table.observed, {})
    system = json.dumps({"role": "system", "content": "be brief " * 100}).encode()
    talks = [[system] for _ in range(200)]
    opened: list[tuple[Ticket, str]] = []
    learns = strategy in LEARNING
    now, spent, kept, told = 0.0, [], [0], [0]
    clock = time.process_time_ns
    for turn in range(_DECISIONS):
        now += 0.002
        talk = talks[turn % len(talks)]
        talk.append(json.dumps({"role": "user", "content": f"{dice.random()} and so on " * 8}).encode())
        del talk[1:-12]
        ask = Ask(now, fingerprint(b"[" + b",".join(talk) + b"]"))
        began = clock()
        found = resolve(table, _MODEL, Operation.CHAT)
        best, parts = decided(table, found, counts, turn, ask, ledger, LIMIT)
        spent.append(clock() - began)
        began = clock()
        decide(_MODEL, found, best, table.observed, counts, parts)
        told.append(clock() - began)
        name = best[0].service.service_id
        began = clock()
        counts[name] = counts.get(name, 0) + 1
        ticket = ledger.begin(best[0], ask)
        ledger.first(ticket, now + 0.001)
        opened.append((ticket, name))
        if len(opened) > 2 * min(services, 100):
            old, place = opened.pop(dice.randrange(len(opened)))
            counts[place] -= 1
            ledger.end(old, now, Outcome(prompt_tokens=300, cached_tokens=100, answer_tokens=50))
        if learns:
            kept.append(clock() - began)
    warm = sorted(spent[_DECISIONS // 4 :])
    middles = (statistics.median(each) / 1e3 for each in (kept, told))
    return statistics.median(warm) / 1e3, warm[int(len(warm) * 0.99)] / 1e3, *middles


def prints() -> list[tuple[str, str]]:
    """Microseconds of a fingerprint, by the size of the prompt."""
    rows = []
    for messages, size in ((2, 300), (6, 1200), (20, 400), (40, 3000)):
        body = json.dumps([{"role": "user", "content": "some words " * (size // 11)} for _ in range(messages)]).encode()
        spent = []
        for _ in range(300):
            began = time.perf_counter_ns()
            fingerprint(body)
            spent.append(time.perf_counter_ns() - began)
        rows.append((f"{messages} messages, {len(body):,} bytes", f"{statistics.median(spent) / 1e3:.1f}"))
    return rows


def main() -> None:
    """Measure and print."""
    figures = {(strategy, size): measure(size, strategy) for size in (2, 20, 100, 1000) for strategy in STRATEGIES}
    rows = [
        (f"{strategy}, {size} services", *(f"{value:.1f}" for value in each))
        for (strategy, size), each in figures.items()
    ]
    print(report.table(("decision", "p50, µs", "p99, µs", "bookkeeping, µs", "receipt, µs"), rows))
    print()
    sizes = prints()
    print(report.table(("fingerprint", "µs"), sizes))
    report.save(
        "routing-decision", {f"{strategy} {size}": each for (strategy, size), each in figures.items()} | dict(sizes)
    )


if __name__ == "__main__":
    main()
