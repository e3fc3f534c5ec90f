"""`scored`: its weights, and what benchmarks add."""

from msgspec.structs import replace

from geniehive.config import Config, ScoredConfig
from geniehive.resources import BenchmarkSummary, Operation, ServiceBenchmarks, Snapshot
from geniehive.routing.affinity import fingerprint
from geniehive.routing.ledger import Ask, Ledger, Outcome
from geniehive.routing.resolve import resolve
from geniehive.routing.strategy import order
from geniehive.routing.table import RoutingTable
from tests.geniehive.routing.fleet import Observed, host, ids, role, service

PROMPT = fingerprint(b"x" * 4000)


def snapshot(*services, roles=(), benchmarks=()):
    return Snapshot(
        hosts={"h1": host()},
        services={each.service_id: each for each in services},
        roles={each.role_id: each for each in roles},
        benchmarks={name: ServiceBenchmarks(service_id=name, summaries=found) for name, found in benchmarks},
    )


def ordered(shape, name="qwen", *, ledger=None, ask=None, **weights):
    table = RoutingTable(shape, "scored", ScoredConfig(**weights))
    found = resolve(table, name)
    return ids(order(table, found, {}, 0, ask=ask or Ask(0.0), ledger=ledger or Ledger()))


def test_a_weight_of_zero_leaves_its_signal_out():
    shape = snapshot(
        service("busy", observed=Observed(running=4, tokens_per_second=100.0, slots=4)),
        service("idle", observed=Observed(running=0, tokens_per_second=60.0, slots=4)),
    )
    assert ordered(shape) == ["idle", "busy"]
    assert ordered(shape, idle=0) == ["busy", "idle"]
    assert ordered(shape, speed=10) == ["busy", "idle"]


def test_the_weight_of_a_warm_cache_decides_how_much_slower_a_service_may_be():
    shape = snapshot(
        service("slow", observed=Observed(tokens_per_second=20.0)),
        service("fast", observed=Observed(tokens_per_second=60.0)),
    )
    table, ledger = RoutingTable(shape), Ledger()
    slow = next(each for each in resolve(table, "qwen").candidates if each.service.service_id == "slow")
    ledger.end(ledger.begin(slow, Ask(0.0, PROMPT)), 1.0, Outcome(prompt_tokens=900, answer_tokens=9))
    ask = Ask(2.0, PROMPT)
    assert ordered(shape, ledger=ledger, ask=ask)[0] == "slow"
    assert ordered(shape, ledger=ledger, ask=ask, warm=0.5)[0] == "fast"


def test_weights_are_in_the_config_and_nonsense_is_refused():
    assert Config().routing.scored == ScoredConfig(idle=1, speed=1, warm=1, loaded=1, benchmark=1)
    assert {"idle", "speed", "warm", "loaded", "benchmark"} == set(ScoredConfig.__struct_fields__)


def summary(workload, quality=None, speed=None, failures=0):
    return BenchmarkSummary(
        workload=workload,
        asset_id="qwen",
        operation=Operation.CHAT,
        requests=10,
        failures=failures,
        quality=quality,
        tokens_per_second=speed,
    )


def test_benchmarks_that_resemble_a_role_speak_for_who_did_well_in_them():
    helper = replace(role("helper"), description="short reasoning for support")
    marks = (
        ("bad", (summary("chat.short_reasoning", quality=0.2),)),
        ("failing", (summary("chat.short_reasoning", quality=1.0, failures=8),)),
        ("good", (summary("chat.short_reasoning", quality=0.9),)),
    )
    shape = snapshot(*(service(name) for name in ("bad", "failing", "good")), roles=[helper], benchmarks=marks)
    assert ordered(shape, "helper")[0] == "good"
    assert ordered(shape, "helper", benchmark=0) == ["bad", "failing", "good"]
    assert ordered(shape) == ["bad", "failing", "good"], "a model by its name has no task"


def test_the_speed_of_a_benchmark_counts_where_nobody_measured_another():
    marks = (("a", (summary("chat.streaming", speed=9.0),)), ("b", (summary("chat.streaming", speed=90.0),)))
    assert ordered(snapshot(service("a"), service("b"), benchmarks=marks)) == ["b", "a"]
    measured = snapshot(service("a", observed=Observed(tokens_per_second=95.0)), service("b"), benchmarks=marks)
    assert ordered(measured) == ["a", "b"]
