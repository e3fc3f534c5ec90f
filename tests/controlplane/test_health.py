from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.events import Finding
from controlplane.health import EJECTED_AT_MOST_S, EJECTED_S, Ended, HealthBook
from geniehive.resources import Health, HealthStatus

GOOD = Health(status=HealthStatus.HEALTHY)
BAD = Health(status=HealthStatus.UNHEALTHY, reason="refused")
UP, DOWN = Finding(HealthStatus.HEALTHY), Finding(HealthStatus.UNHEALTHY, "status 500")


def probed(book, finding, told=GOOD, times=1):
    for _ in range(times):
        book.probed({"s": finding}, {"s": told})
    return book.weigh("s", told)


def failing(book, told=GOOD, times=5, start=0.0, step=1.0):
    for n in range(times):
        book.traffic("s", told, Ended(0, 1), start + n * step)
    return book.weigh("s", told)


# --- probes ---


def test_one_bad_probe_is_not_believed_and_two_in_a_row_are():
    book = HealthBook()
    assert probed(book, DOWN) == GOOD
    assert probed(book, UP) == GOOD
    assert probed(book, DOWN) == GOOD
    found = probed(book, DOWN)
    assert (found.status, found.reason) == (HealthStatus.UNHEALTHY, "probe: status 500")
    assert probed(book, UP) == GOOD


def test_a_good_probe_is_believed_at_once():
    assert probed(HealthBook(), UP, told=BAD).status is HealthStatus.HEALTHY
    assert probed(HealthBook(), UP, told=Health()).status is HealthStatus.HEALTHY


def test_a_probe_that_says_nothing_leaves_the_nodes_word():
    book = HealthBook()
    probed(book, UP, told=BAD)
    assert probed(book, Finding(None), told=BAD) == BAD


def test_the_nodes_word_counts_again_once_it_changes():
    book = HealthBook()
    assert probed(book, DOWN, times=2).status is HealthStatus.UNHEALTHY
    assert book.weigh("s", BAD) == BAD
    assert book.weigh("s", GOOD) == GOOD


def test_if_most_probes_fail_at_once_the_way_from_here_is_suspected():
    book = HealthBook()
    names = "abcd"
    for _ in range(3):
        assert book.probed(dict.fromkeys(names, DOWN), dict.fromkeys(names, GOOD)) == frozenset()
    assert book.weigh("a", GOOD) == GOOD
    two = {"a": DOWN, "b": DOWN, "c": UP, "d": UP}
    for _ in range(2):
        book.probed(two, dict.fromkeys(names, GOOD))
    assert book.weigh("a", GOOD).status is HealthStatus.UNHEALTHY


# --- traffic ---


def test_a_few_failures_are_not_enough_nor_are_many_at_once():
    assert failing(HealthBook(), times=4) == GOOD
    assert failing(HealthBook(), times=50, step=0.0) == GOOD


def test_failures_in_a_row_over_some_time_eject_and_time_lets_back():
    book = HealthBook()
    found = failing(book)
    assert found.status is HealthStatus.UNHEALTHY
    assert found.reason.startswith("traffic: 5 requests in a row failed")
    assert book.expire(4.0 + EJECTED_S - 0.1) == frozenset()
    assert book.expire(4.0 + EJECTED_S) == {"s"}
    assert book.weigh("s", GOOD) == GOOD


def test_one_that_has_requests_open_may_be_full_and_gets_more_time():
    book = HealthBook()
    for n in range(30):
        book.traffic("s", GOOD, Ended(0, 1, busy=True), float(n))
        assert book.weigh("s", GOOD) == GOOD
    book.traffic("s", GOOD, Ended(0, 1, busy=True), 30.0)
    assert book.weigh("s", GOOD).status is HealthStatus.UNHEALTHY


def test_one_that_was_seen_idle_between_its_failures_is_not_full():
    book = HealthBook()
    for n in range(5):
        book.traffic("s", GOOD, Ended(0, 1, busy=n != 2), float(n))
    assert book.weigh("s", GOOD).status is HealthStatus.UNHEALTHY


def test_one_success_between_begins_the_count_anew():
    book = HealthBook()
    failing(book, times=4)
    book.traffic("s", GOOD, Ended(1, 0), 4.0)
    assert failing(book, times=4, start=5.0) == GOOD


def test_a_failed_trial_ejects_for_twice_as_long_up_to_a_limit_and_a_success_forgets():
    book, now = HealthBook(), 4.0
    failing(book)
    lasted = []
    for _ in range(6):
        began = now
        while not book.expire(now):
            now += 0.5
        lasted.append(now - began)
        assert book.traffic("s", GOOD, Ended(0, 1), now)
    assert lasted == [EJECTED_S, *[EJECTED_AT_MOST_S] * 5]
    assert book.traffic("s", GOOD, Ended(1, 0), now)
    assert book.weigh("s", GOOD) == GOOD
    assert failing(book, times=4, start=now) == GOOD


def test_a_good_probe_does_not_excuse_failing_traffic():
    book = HealthBook()
    failing(book)
    assert probed(book, UP).status is HealthStatus.UNHEALTHY


def test_what_the_node_says_anew_ends_an_ejection():
    book = HealthBook()
    failing(book)
    book.weigh("s", BAD)
    assert book.weigh("s", GOOD) == GOOD
    assert book.expire(1000.0) == frozenset()


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), max_size=60))
def test_a_service_that_answers_well_now_and_then_is_never_ejected(reports):
    book = HealthBook()
    run = 0
    for n, (well, failed) in enumerate(reports):
        run = 0 if well else run + failed
        if run >= 5:
            book.traffic("s", GOOD, Ended(1, 0), float(n))
            run = 0
            continue
        book.traffic("s", GOOD, Ended(well, failed), float(n))
        assert book.weigh("s", GOOD) == GOOD


@pytest.mark.parametrize("told", [GOOD, BAD, Health()])
def test_without_a_case_the_nodes_word_is_passed_on_as_it_is(told):
    assert HealthBook().weigh("s", told) is told
