"""Who is next: scenarios that can be read, and what holds whatever happens."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from gateway.line import BATCH_EVERY, Line, Priority, Waiter

# Who joins (key and number; ! is batch; + has begun; where: all services by default), and the order in which service 1
# takes them.
SCENARIOS = {
    "one key: first come, first served": ("a1 a2 a3", "a1 a2 a3"),
    "keys take turns": ("a1 a2 a3 b1 b2 c1", "a1 b1 c1 a2 b2 a3"),
    "a key that comes late waits for one turn of each": ("a1 a2 a3 a4 a5 b1", "a1 b1 a2 a3 a4 a5"),
    "interactive goes before batch": ("a1! a2! b1 b2", "b1 b2 a1! a2!"),
    "batch gets one place in eight": (
        "a1! a2! b1 b2 b3 b4 b5 b6 b7 b8 b9",
        "b1 b2 b3 b4 b5 b6 b7 a1! b8 b9 a2!",
    ),
    "keys take turns within batch too": ("a1! a2! b1! b2!", "a1! b1! a2! b2!"),
    "who has begun goes ahead of all keys, in turn": ("a1 b1 a2+ b2+ c1", "a2+ b2+ a1 b1 c1"),
    "batch that has begun goes ahead of batch alone": ("a1! b1!+ c1", "c1 b1!+ a1!"),
}


def waiter(name, services=("1", "2")):
    priority = Priority.BATCH if "!" in name else Priority.INTERACTIVE
    return Waiter(services, name[0], priority, name, begun=name.endswith("+"))


@pytest.mark.parametrize(("joined", "order"), SCENARIOS.values(), ids=SCENARIOS)
def test_scenario(joined, order):
    line = Line()
    for name in joined.split():
        line.join(waiter(name))
    taken = []
    while (found := line.next("1")) is not None:
        taken.append(found.grant)
    assert taken == order.split()
    assert len(line) == 0
    assert not line.services


def test_who_is_taken_at_one_service_waits_nowhere_else():
    line = Line()
    both, second = waiter("a1"), waiter("b1", ("2",))
    line.join(both)
    line.join(second)
    assert (line.waiting("1"), line.waiting("2")) == (1, 2)
    assert line.next("1") is both
    assert (line.waiting("1"), line.waiting("2")) == (0, 1)
    assert line.next("1") is None
    assert line.next("2") is second
    assert line.next("nowhere") is None


def test_who_leaves_is_not_taken_and_leaving_twice_is_nothing():
    line = Line()
    one, two = waiter("a1"), waiter("a2")
    line.join(one)
    line.join(two)
    line.leave(one)
    line.leave(one)
    assert list(line.at("1")) == [two]
    assert line.next("2") is two
    line.leave(two)
    assert len(line) == 0


SERVICES = st.sampled_from([("1",), ("2",), ("1", "2"), ("2", "3"), ("1", "2", "3")])


class AnyLine(RuleBasedStateMachine):
    """Whatever joins and leaves: nobody is lost or taken twice, keys take turns, and nobody is passed over for long."""

    def __init__(self):
        super().__init__()
        self.line = Line()
        self.waiting = []
        self.over = set()
        self.since = {}  # of each waiter and service: grants there by lane and key since it became its key's first

    @rule(services=SERVICES, owner=st.sampled_from("abcd"), priority=st.sampled_from(Priority))
    def join(self, services, owner, priority):
        new = Waiter(services, owner, priority, None)
        self.line.join(new)
        self.waiting.append(new)
        for each in services:
            self.since[new, each] = Counter()

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def leave(self, data):
        gone = data.draw(st.sampled_from(self.waiting))
        self.line.leave(gone)
        self.waiting.remove(gone)
        self.over.add(gone)

    @rule(service=st.sampled_from("123"))
    def take(self, service):
        here = [each for each in self.waiting if service in each.services]
        found = self.line.next(service)
        assert (found is None) == (not here)
        if found is None:
            return
        assert found in here
        assert found not in self.over
        mine = [each for each in here if (each.owner, each.priority) == (found.owner, found.priority)]
        assert found is mine[0], "the requests of one key stand in their order"
        self.waiting.remove(found)
        self.over.add(found)
        for each in here:
            seen = self.since[each, service]
            seen[found.priority, found.owner] += 1
            if (found.owner, found.priority) == (each.owner, each.priority):
                seen.clear()  # its key had its turn
                continue
            same = [count for (lane, _), count in seen.items() if lane is each.priority]
            assert max(same, default=0) <= 1, "between two turns of a key every other has one at most"
            other = sum(count for (lane, _), count in seen.items() if lane is not each.priority)
            if each.priority is Priority.BATCH:
                assert other <= BATCH_EVERY * (len(same) + 1), "batch gets its share"
            else:
                assert other <= len(same) // (BATCH_EVERY - 1) + 1, "interactive goes first"

    @invariant()
    def everybody_waits_where_they_joined(self):
        assert len(self.line) == len(self.waiting)
        for service in "123":
            here = {each for each in self.waiting if service in each.services}
            assert set(self.line.at(service)) == here
            assert self.line.waiting(service) == len(here)
        assert set(self.line.services) == {each for waiter in self.waiting for each in waiter.services}


TestAnyLine = AnyLine.TestCase
TestAnyLine.settings = settings(max_examples=60, stateful_step_count=60, deadline=None)
