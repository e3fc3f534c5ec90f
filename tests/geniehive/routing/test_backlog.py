"""When a service takes the next request."""

import pytest

from geniehive.routing.backlog import Backlog, Work


class Steady:
    """Reads 100 tokens a second, writes 10, and says how many are left."""

    def reading_s(self, fresh_tokens):
        return fresh_tokens / 100

    def token_s(self, streams):
        return 0.1

    def tokens_left(self, expected, written):
        return max(expected - written, 1)


def work(now, fresh=100.0, answer=10.0):
    return Work(Steady(), now, fresh, answer, 0.0)


def test_an_idle_service_takes_a_request_at_once():
    assert Backlog(2).wait_s(5.0) == 0.0


def test_a_free_slot_is_waited_for_only_while_prompts_are_read():
    backlog = Backlog(2)
    one = work(0.0)
    backlog.begin(one, 0.0)
    assert backlog.wait_s(0.0) == pytest.approx(1.0)
    backlog.first(one, 1.0)
    assert backlog.wait_s(1.0) == 0.0


def test_a_full_service_is_waited_for_until_an_answer_ends():
    backlog = Backlog(1)
    one = work(0.0)
    backlog.begin(one, 0.0)
    backlog.first(one, 1.0)
    assert backlog.wait_s(1.0) == pytest.approx(1.0, rel=0.1)
    assert backlog.wait_s(1.5) == pytest.approx(0.5, rel=0.2)
    backlog.end(one, 2.0)
    assert backlog.wait_s(2.0) == 0.0


def test_each_request_in_the_queue_makes_it_longer():
    backlog = Backlog(1)
    waits = []
    for _ in range(4):
        backlog.begin(work(0.0), 0.0)
        waits.append(backlog.wait_s(0.0))
    assert waits == sorted(waits)
    assert waits[3] > waits[0] + 4


def test_other_gateways_requests_count():
    backlog = Backlog(1)
    backlog.others = 2
    assert backlog.wait_s(1.0) > 0
    backlog.begin(work(1.0), 1.0)
    assert backlog.wait_s(1.0) > 2


def test_who_waited_gets_the_slot_that_comes_free():
    backlog = Backlog(1)
    one, two = work(0.0), work(0.0)
    backlog.begin(one, 0.0)
    backlog.begin(two, 0.0)
    assert two.began_at is None
    backlog.first(one, 1.0)
    backlog.end(one, 2.0)
    assert two.began_at == 2.0


def test_an_engine_that_answers_more_at_once_has_more_slots():
    backlog = Backlog(1)
    for each in (one := work(0.0), two := work(0.0)):
        backlog.begin(each, 0.0)
    backlog.first(one, 1.0)
    backlog.first(two, 1.1)
    assert backlog.slots == 2
