"""The order in which candidates are tried."""

import collections

import pytest

from geniehive.routing.resolve import resolve
from geniehive.routing.strategy import order
from tests.geniehive.routing.fleet import Asset, Observed, ids, role, service, table


def test_round_robin_gives_each_its_turn():
    fleet = table(service("a"), service("b"), service("c"), strategy="round_robin")
    found = resolve(fleet, "qwen")
    first = collections.Counter(order(fleet, found, {}, turn)[0].service.service_id for turn in range(9))
    assert first == {"a": 3, "b": 3, "c": 3}


def test_every_candidate_stays_in_line_for_a_failover():
    fleet = table(service("a"), service("b"), service("c"), strategy="round_robin")
    assert ids(order(fleet, resolve(fleet, "qwen"), {}, 1)) == ["b", "c", "a"]


@pytest.mark.parametrize("strategy", ["least_loaded", "scored", "predicted"])
def test_the_least_loaded_is_first(strategy):
    fleet = table(
        service("a", observed=Observed(running=2, waiting=1)),
        service("b", observed=Observed(running=1)),
        service("c", observed=Observed(in_flight=4)),
        strategy=strategy,
    )
    assert ids(order(fleet, resolve(fleet, "qwen"), {}, 0)) == ["b", "a", "c"]


def test_own_requests_count_where_the_engine_tells_nothing():
    fleet = table(service("a"), service("b"), strategy="least_loaded")
    assert ids(order(fleet, resolve(fleet, "qwen"), {"a": 1}, 0)) == ["b", "a"]


def test_latency_decides_between_equals():
    fleet = table(
        service("a", observed=Observed(latency_seconds=3.0)),
        service("b", observed=Observed(latency_seconds=0.5)),
        strategy="least_loaded",
    )
    assert ids(order(fleet, resolve(fleet, "qwen"), {}, 0)) == ["b", "a"]


def test_ties_are_spread():
    fleet = table(service("a"), service("b"), strategy="least_loaded")
    found = resolve(fleet, "qwen")
    assert {order(fleet, found, {}, turn)[0].service.service_id for turn in range(2)} == {"a", "b"}


def test_a_cold_model_comes_after_a_loaded_one_however_busy():
    fleet = table(
        service("cold", assets=(Asset(asset_id="qwen", loaded=False),)),
        service("warm", observed=Observed(running=9)),
        strategy="least_loaded",
    )
    assert ids(order(fleet, resolve(fleet, "qwen"), {}, 0)) == ["warm", "cold"]


def test_newer_measurements_count_without_a_new_shape():
    fleet = table(service("a"), service("b"), strategy="least_loaded")
    found = resolve(fleet, "qwen")
    newer = fleet.with_observed({"a": Observed(running=5)}, {})
    assert ids(order(newer, found, {}, 0)) == ["b", "a"]
    assert newer.snapshot.services["a"].observed.running == 5
    assert fleet.snapshot.services["a"].observed.running is None


def test_a_role_chooses_its_strategy():
    fleet = table(
        service("a", observed=Observed(running=5)), service("b"), role("r", strategy="round_robin"), strategy="scored"
    )
    assert ids(order(fleet, resolve(fleet, "r"), {}, 0)) == ["a", "b"]
