from __future__ import annotations

from controlplane.traffic import TrafficTable
from geniehive.resources import Observed, ServiceTraffic


def traffic(service_id: str = "s", in_flight: int = 1, **fields) -> ServiceTraffic:
    return ServiceTraffic(service_id=service_id, in_flight=in_flight, **fields)


def test_what_no_gateway_has_seen_stays_unknown() -> None:
    assert TrafficTable().merge("s", Observed()) == Observed()


def test_in_flight_is_the_sum_and_a_gateway_that_is_gone_counts_nothing() -> None:
    table = TrafficTable()
    for stream, open_now in (("1", 2), ("2", 5)):
        table.connect(stream, f"gateway-{stream}")
        table.report(stream, [traffic(in_flight=open_now)])
    assert table.merge("s", Observed()).in_flight == 7
    assert table.open("s") == 7
    assert table.disconnect("2") == {"s"}
    assert table.merge("s", Observed()).in_flight == 2
    table.disconnect("1")
    assert table.merge("s", Observed()).in_flight == 0
    assert table.gateways == 0


def test_only_services_that_moved_are_touched() -> None:
    table = TrafficTable()
    table.connect("1", "gw")
    assert table.report("1", [traffic("a"), traffic("b")]) == {"a", "b"}
    assert table.report("1", [traffic("a"), traffic("b", 2)]) == {"b"}
    assert table.report("1", [traffic("a")]) == {"b"}


def test_what_the_engine_tells_wins_over_what_gateways_saw() -> None:
    table = TrafficTable()
    table.connect("1", "gw")
    table.report("1", [traffic(ttft_seconds=0.5, tokens_per_second=40.0)])
    found = table.merge("s", Observed(ttft_seconds=0.1))
    assert (found.ttft_seconds, found.tokens_per_second, found.latency_seconds) == (0.1, 40.0, None)


def test_of_several_gateways_the_middle_counts() -> None:
    table = TrafficTable()
    for stream, seconds in (("1", 9.0), ("2", 1.0), ("3", 2.0)):
        table.connect(stream, stream)
        table.report(stream, [traffic(latency_seconds=seconds)])
    assert table.merge("s", Observed()).latency_seconds == 2.0


def test_a_report_of_a_stream_that_has_ended_is_ignored() -> None:
    table = TrafficTable()
    assert table.report("gone", [traffic()]) == frozenset()
    assert table.merge("s", Observed()).in_flight is None


def test_what_ended_is_told_from_report_to_report() -> None:
    table = TrafficTable()
    table.connect("1", "gw")
    first = [traffic(succeeded_total=100, failed_total=7)]
    assert table.ended("1", first) == {}  # the worker may be older than this control plane
    table.report("1", first)
    later = [traffic(succeeded_total=101, failed_total=9), traffic("new", failed_total=1)]
    assert table.ended("1", later) == {"s": (1, 2), "new": (0, 1)}
    table.report("1", later)
    assert table.ended("1", later) == {}
    assert table.ended("1", first) == {}  # totals never go back: another worker, to be learnt anew
    assert table.ended("gone", later) == {}
