from __future__ import annotations

import pytest

from controlplane.leases import LeaseTable, LeaseTerms
from geniehive.resources import LeaseState

TERMS = LeaseTerms(ttl_s=15, grace_s=60, heartbeat_interval_s=5)


def table(*hosts: str) -> LeaseTable:
    found = LeaseTable(TERMS)
    for host in hosts:
        found.renew(host, 0.0)
    return found


def test_a_renewed_lease_never_ends() -> None:
    leases = table("a")
    for second in range(0, 3600, 10):
        leases.renew("a", second)
        assert not leases.expire(second + 9).moved


@pytest.mark.parametrize(("second", "moved"), [(14.9, {}), (15.0, {"a": LeaseState.STALE})])
def test_a_lease_is_stale_at_its_ttl(second: float, moved: dict) -> None:
    assert table("a").expire(second).moved == moved


def test_a_stale_lease_is_offline_after_the_grace() -> None:
    leases = table("a")
    leases.expire(15.0)
    assert not leases.expire(74.9).moved
    assert leases.expire(75.0).moved == {"a": LeaseState.OFFLINE}
    assert not leases.expire(10_000.0).moved


def test_a_renewal_brings_a_host_up_from_wherever_it_was() -> None:
    leases = table("a")
    leases.expire(15.0)
    leases.expire(75.0)
    assert leases.renew("a", 80.0)
    assert not leases.renew("a", 81.0)
    assert leases.state("a") is LeaseState.UP


def test_a_host_without_a_lease_is_offline() -> None:
    leases = table("a")
    leases.forget("a")
    assert leases.state("a") is LeaseState.OFFLINE


def test_three_hosts_may_all_go_at_once() -> None:
    assert len(table("a", "b", "c").expire(15.0).moved) == 3


def test_half_of_the_hosts_may_go_at_once() -> None:
    leases = table("a", "b", "c", "d")
    leases.renew("a", 14.0)
    leases.renew("b", 14.0)
    assert set(leases.expire(15.0).moved) == {"c", "d"}


def test_more_than_half_are_held_even_when_their_leases_end_one_by_one() -> None:
    leases = table()
    for number in range(10):
        leases.renew(f"h{number}", number * 0.5)
    found = leases.expire(15.0)
    assert found.held == 10
    assert not found.moved
    assert not any(leases.expire(15.0 + n / 4).moved for n in range(1, 240))
    assert len(leases.expire(75.0).moved) == 10


def test_hosts_that_heal_in_the_hold_stay_up_and_the_hold_ends() -> None:
    leases = table("a", "b", "c", "d")
    assert leases.expire(15.0).held == 4
    for host in "abcd":
        leases.renew(host, 20.0)
    found = leases.expire(20.25)
    assert found.released
    assert not found.moved
    assert not leases.expire(20.5).released


def test_the_guard_works_a_second_time() -> None:
    leases = table("a", "b", "c", "d")
    leases.expire(15.0)
    for host in "abcd":
        leases.renew(host, 20.0)
    leases.expire(21.0)
    assert leases.expire(35.0).held == 4


def test_hosts_that_went_just_before_count_with_those_that_would_go_now() -> None:
    leases = table("a", "b")
    for host in "cde":
        leases.renew(host, 7.6)
    assert set(leases.expire(15.0).moved) == {"a", "b"}
    leases.renew("d", 22.0)
    leases.renew("e", 22.0)
    assert leases.expire(22.6).held == 3
