"""Counts are true in every case."""

import pytest

from gateway.inflight import InFlight
from geniehive.routing.ledger import Ask
from geniehive.routing.resolve import resolve
from tests.geniehive.routing.fleet import Observed, service, table


class Now:
    def __init__(self):
        self.value = 100.0

    def __call__(self):
        return self.value


def test_a_guard_takes_a_place_and_frees_it():
    open_now = InFlight(Now())
    with open_now.guard("a"), open_now.guard("a"):
        assert open_now.counts == {"a": 2}
    assert open_now.counts == {}


def test_a_guard_frees_its_place_when_the_request_fails_and_only_once():
    open_now = InFlight(Now())
    guard = open_now.guard("a")
    with pytest.raises(RuntimeError), guard:
        raise RuntimeError
    guard.close()
    assert open_now.total == 0


def test_a_report_tells_medians_and_totals():
    now = Now()
    open_now = InFlight(now)
    for seconds in (1.0, 2.0, 9.0):
        with open_now.guard("a") as guard:
            now.value += seconds
            guard.first_byte()
            now.value += 1.0
            guard.finish(ok=True, tokens=11)
    (traffic,) = open_now.report({"a"})
    assert (traffic.succeeded_total, traffic.ttft_seconds, traffic.latency_seconds) == (3, 2.0, 3.0)
    assert traffic.tokens_per_second == 10.0


def test_a_failure_counts_and_is_no_latency():
    open_now = InFlight(Now())
    with open_now.guard("a") as guard:
        guard.finish(ok=False)
    (traffic,) = open_now.report({"a"})
    assert (traffic.failed_total, traffic.latency_seconds) == (1, None)


def test_a_client_that_leaves_counts_for_nothing():
    open_now = InFlight(Now())
    with open_now.guard("a"):
        pass
    assert open_now.report({"a"}) == ()


def test_what_left_the_cluster_is_forgotten_once_idle():
    open_now = InFlight(Now())
    guard = open_now.guard("a")
    guard.finish(ok=True)
    assert [traffic.service_id for traffic in open_now.report(())] == ["a"]
    guard.close()
    assert open_now.report(()) == ()


def test_every_move_is_worth_a_report():
    open_now = InFlight(Now())
    before = open_now.moved
    with open_now.guard("a"):
        assert open_now.moved > before


def test_what_the_cluster_counts_beyond_the_last_report_is_others_work():
    fleet = table(service("a"), service("b"))
    candidate = resolve(fleet, "qwen").candidates[0]
    open_now = InFlight(Now())
    place = open_now.ledger.place(candidate)
    with open_now.guard("a", candidate, Ask(0.0)):
        open_now.report(("a", "b"))
        with open_now.guard("a", candidate, Ask(0.0)):  # not reported yet
            open_now.observe(fleet.with_observed({"a": Observed(in_flight=4)}, {}))
            assert place.station.backlog.others == 3
            assert place.station.backlog.depth == 5
    assert place.station.backlog.depth == 3
