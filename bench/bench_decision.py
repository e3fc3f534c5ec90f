"""What decisions cost inside a gateway, in microseconds, without any I/O.

    python bench/bench_decision.py

One decision is `resolve` and `decided`, by an asset's name and by a role, in a cluster of 20 and of 1,000 services;
"first" is the first one after a change of the cluster, when nothing is remembered. Then what a change costs: the table
built anew, new measurements applied; and a heartbeat on the wire.
"""

from __future__ import annotations

import sys
import time
import timeit
from collections.abc import Callable
from statistics import median

from kit import report

from geniehive import codec
from geniehive.resources import (
    Asset,
    Health,
    HealthStatus,
    Host,
    Observed,
    Operation,
    Role,
    RoutingPolicy,
    Service,
    ServiceState,
    Snapshot,
)
from geniehive.routing.ledger import NO_ASK, Ledger
from geniehive.routing.resolve import resolve
from geniehive.routing.strategy import LIMIT, decided
from geniehive.routing.table import RoutingTable
from geniehive.v1 import node_service_pb2 as pb

SIZES = (20, 1000)
SERVICES_A_HOST, MODELS = 4, 10
ROUNDS, ROUND_S = 7, 0.05


def main() -> int:
    """Measure, print, save."""
    figures: dict[str, dict[str, float]] = {}
    for size in SIZES:
        for name, cost in _costs(size).items():
            figures.setdefault(name, {})[str(size)] = cost
    rows = [(name, *(report.number(costs[str(size)], 1) for size in SIZES)) for name, costs in figures.items()]
    print(report.table(("µs", *(f"{size} services" for size in SIZES)), rows))
    print(f"\nwritten to {report.save('decision', {'microseconds': figures})}")
    return 0


def _costs(size: int) -> dict[str, float]:
    snapshot = cluster(size)
    table, ledger = RoutingTable(snapshot), Ledger()
    load = {name: at % 3 for at, name in enumerate(snapshot.services)}
    measured = {name: Observed(running=1, waiting=0) for name in list(snapshot.services)[:10]}
    message = heartbeat(snapshot)
    data = message.SerializeToString()
    return {
        "decide by model name": _microseconds(lambda: decide(table, "model-3", load, ledger)),
        "decide by model name, first": _fresh(snapshot, "model-3", load),
        "decide by role": _microseconds(lambda: decide(table, "helper", load, ledger)),
        "decide by role, first": _fresh(snapshot, "helper", load),
        "build the table": _microseconds(lambda: RoutingTable(snapshot)),
        "apply measurements of 10 services": _microseconds(lambda: table.with_observed(measured, {})),
        "heartbeat of 4 services: encode": _microseconds(lambda: heartbeat(snapshot).SerializeToString()),
        "heartbeat of 4 services: decode": _microseconds(lambda: _decode(data)),
    }


def decide(table: RoutingTable, name: str, load: dict[str, int], ledger: Ledger) -> str:
    """One decision, as the gateway makes it for each request."""
    found = resolve(table, name, Operation.CHAT)
    return decided(table, found, load, 7, NO_ASK, ledger, LIMIT).candidates[0].service.service_id


def _fresh(snapshot: Snapshot, name: str, load: dict[str, int]) -> float:
    """The first decision on each of many new tables, without the cost of building them."""
    tables, ledger = [RoutingTable(snapshot) for _ in range(20)], Ledger()
    decide(tables[0], name, load, ledger)  # a worker knows the services from before

    def first(table: RoutingTable) -> float:
        return timeit.timeit(lambda: decide(table, name, load, ledger), number=1, timer=time.process_time)

    return median(first(table) for table in tables[1:]) * 1e6


def cluster(size: int) -> Snapshot:
    """Services over hosts of four, ten models, a role that wants a family with a context and has a fallback."""
    hosts = {
        f"host-{at}": Host(host_id=f"host-{at}", trust_tier="trusted", labels={"room": f"r{at % 3}"})
        for at in range(-(-size // SERVICES_A_HOST))
    }
    services = {
        f"host-{at // SERVICES_A_HOST}/chat/{at}": Service(
            service_id=f"host-{at // SERVICES_A_HOST}/chat/{at}",
            host_id=f"host-{at // SERVICES_A_HOST}",
            operations=(Operation.CHAT,),
            endpoint=f"http://10.0.{at // 250}.{at % 250 + 1}:8080",
            assets=(
                Asset(
                    asset_id=f"model-{at % MODELS}",
                    aliases=(f"alias-{at % MODELS}",),
                    loaded=True,
                    context_size=32768,
                    family=f"family-{at % 3}",
                ),
            ),
            health=Health(status=HealthStatus.HEALTHY),
            observed=Observed(running=at % 4, waiting=0, slots=4),
        )
        for at in range(size)
    }
    policy = RoutingPolicy(preferred_families=("family-1",), min_context=8192, allowed_trust_tiers=("trusted",))
    roles = {
        "helper": Role(role_id="helper", routing_policy=_with_fallback(policy)),
        "spare": Role(role_id="spare", routing_policy=policy),
    }
    return Snapshot(epoch=1, revision=1, hosts=hosts, services=services, roles=roles)


def _with_fallback(policy: RoutingPolicy) -> RoutingPolicy:
    return RoutingPolicy(
        preferred_families=policy.preferred_families,
        min_context=policy.min_context,
        allowed_trust_tiers=policy.allowed_trust_tiers,
        fallback_roles=("spare",),
    )


def heartbeat(snapshot: Snapshot) -> pb.Heartbeat:
    """A heartbeat of one host."""
    states = [
        codec.service_state_to_pb(
            ServiceState(service_id=each.service_id, health=each.health, observed=each.observed),
        )
        for each in list(snapshot.services.values())[:SERVICES_A_HOST]
    ]
    return pb.Heartbeat(sequence=1, services=states)


def _decode(data: bytes) -> list[ServiceState]:
    return [codec.service_state_from_pb(each) for each in pb.Heartbeat.FromString(data).services]


def _microseconds(work: Callable[[], object]) -> float:
    """The median of some rounds, for one call."""
    timer = timeit.Timer(work, timer=time.process_time)
    once = max(timer.timeit(1), 1e-7)
    number = max(1, round(ROUND_S / once))
    return median(timer.repeat(ROUNDS, number)) / number * 1e6


if __name__ == "__main__":
    sys.exit(main())
