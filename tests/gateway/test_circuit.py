"""How services are ejected and come back, as scenarios that can be read; and that the table is whole."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.circuit import TRANSITIONS, Circuits, Event, State
from geniehive.config import EjectionConfig
from geniehive.routing.candidate import Candidate
from geniehive.routing.strategy import Ordered
from tests.geniehive.routing.fleet import host, service

LIMITS = EjectionConfig(failures=3, failure_rate=0.5, least_requests=8, first_s=1, longest_s=4, trials=1)
S = "a"

# A scenario is lines of: seconds since the start, what happens, the state after it.
SCENARIOS = {
    "three failures in a row eject for a second; a trial that goes well ends it": """
        0.0  failed  closed
        0.1  failed  closed
        0.2  failed  ejected
        1.1  -       ejected
        1.2  -       half_open
        1.3  trial   half_open
        1.4  well    closed
    """,
    "a success between them starts the row anew": """
        0.0  failed  closed
        0.1  failed  closed
        0.2  well    closed
        0.3  failed  closed
        0.4  failed  closed
        0.5  failed  ejected
    """,
    "each ejection in a row is twice as long, up to the longest": """
        0.0  failed  closed
        0.0  failed  closed
        0.0  failed  ejected
        1.0  trial   half_open
        1.0  failed  ejected
        2.9  -       ejected
        3.0  trial   half_open
        3.0  failed  ejected
        6.9  -       ejected
        7.0  trial   half_open
        7.0  failed  ejected
       10.9  -       ejected
       11.0  -       half_open
    """,
    "half of many requests eject as well, though none fail in a row": """
        0.0  failed  closed
        0.1  well    closed
        0.2  failed  closed
        0.3  well    closed
        0.4  failed  closed
        0.5  well    closed
        0.6  well    closed
        0.7  failed  ejected
    """,
    "failures that are long ago count no more": """
        0.0  failed  closed
        0.1  failed  closed
        1.0  well    closed
       12.0  failed  closed
       13.0  well    closed
       14.0  well    closed
       15.0  well    closed
       16.0  well    closed
       17.0  well    closed
       18.0  well    closed
       19.0  failed  closed
    """,
    "what was begun before the ejection changes nothing": """
        0.0  failed  closed
        0.0  failed  closed
        0.0  failed  ejected
        0.1  failed  ejected
        0.2  well    ejected
        0.3  busy:9  ejected
        1.0  well    half_open
        1.1  failed  half_open
    """,
    "a busy service rests for as long as it says, and is closed then": """
        0.0  busy:2  resting
        1.0  well    resting
        1.9  -       resting
        2.0  -       closed
    """,
    "the longest rest that was asked for counts": """
        0.0  busy:5  resting
        0.5  busy:1  resting
        4.9  -       resting
        5.0  -       closed
    """,
    "failures while it rests eject it": """
        0.0  busy:9  resting
        0.1  failed  resting
        0.1  failed  resting
        0.1  failed  ejected
    """,
    "a trial that finds it busy ends the ejection: it is alive": """
        0.0  failed  closed
        0.0  failed  closed
        0.0  failed  ejected
        1.0  trial   half_open
        1.1  busy:2  resting
        3.1  -       closed
    """,
    "an ejected service that is tried because nobody else is left comes back at once": """
        0.0  failed  closed
        0.0  failed  closed
        0.0  failed  ejected
        0.5  trial   ejected
        0.6  well    closed
    """,
    "a trial whose client left leaves room for another": """
        0.0  failed  closed
        0.0  failed  closed
        0.0  failed  ejected
        1.0  trial   half_open
        1.1  left    half_open
        1.2  trial   half_open
        1.3  well    closed
    """,
}


def play(circuits, text):
    """Run a scenario; a result belongs to the trial that was begun last, if one is out."""
    out = 0
    for line in text.strip().splitlines():
        at, what, state = line.split()
        now, (what, _, seconds) = float(at), what.partition(":")
        if what == "trial":
            assert circuits.begin(S, now), f"no trial at {line}"
            out += 1
        elif what == "left":
            circuits.let_go(S)
            out -= 1
        elif what == "busy":
            circuits.busy(S, now, float(seconds), trial=out > 0)
            out = 0
        elif what in {"well", "failed"}:
            getattr(circuits, what)(S, now, trial=out > 0)
            out = 0
        assert circuits.state(S, now) == state, line


@pytest.mark.parametrize("text", SCENARIOS.values(), ids=SCENARIOS)
def test_scenario(text):
    play(Circuits(LIMITS), text)


def test_every_state_has_a_move_for_everything_that_can_happen_in_it():
    results = {Event.WELL, Event.FAILED, Event.TOO_MANY, Event.BUSY}
    trials = {Event.TRIAL_WELL, Event.TRIAL_FAILED, Event.TRIAL_BUSY}
    possible = {
        State.CLOSED: results,
        State.RESTING: results | {Event.DUE},
        State.EJECTED: results | trials | {Event.DUE},
        State.HALF_OPEN: results | trials,
    }
    assert TRANSITIONS.keys() == {(state, event) for state, events in possible.items() for event in events}


def test_half_open_admits_as_many_trials_as_are_allowed():
    circuits = Circuits(EjectionConfig(failures=1, first_s=1, trials=2))
    circuits.failed(S, 0.0)
    assert "ejected for another 0.5 s" in circuits.kept_back(S, 0.5)
    assert circuits.kept_back(S, 1.0) == ""
    assert circuits.begin(S, 1.0)
    assert circuits.kept_back(S, 1.0) == ""
    assert circuits.begin(S, 1.0)
    assert "being tried" in circuits.kept_back(S, 1.0)
    circuits.well(S, 1.2, trial=True)
    assert circuits.kept_back(S, 1.2) == ""
    assert not circuits.begin(S, 1.2)


def test_who_never_failed_costs_nothing_and_who_is_well_for_long_is_forgotten():
    circuits = Circuits(LIMITS)
    circuits.well(S, 0.0)
    assert not circuits.known
    circuits.failed(S, 0.0)
    assert circuits.known
    circuits.well(S, 30.0)
    assert circuits.known
    circuits.well(S, 61.0)
    assert not circuits.known


def test_switched_off_nothing_is_ejected():
    circuits = Circuits(EjectionConfig(failures=0, failure_rate=0))
    for second in range(100):
        circuits.failed(S, float(second))
    assert circuits.state(S, 100.0) is State.CLOSED


def test_those_who_are_kept_back_come_last_the_least_bad_first():
    made = [service(name) for name in ("one", "two", "three", "four")]
    one, two, three, four = (Candidate(each, each.assets[0], host()) for each in made)
    circuits = Circuits(EjectionConfig(failures=1, first_s=1))
    circuits.failed(one.service.service_id, 0.0)
    circuits.failed(one.service.service_id, 0.1)
    circuits.failed(two.service.service_id, 0.2)
    circuits.busy(three.service.service_id, 0.2, 9)
    ordered, kept = circuits.arrange(Ordered((one, two, three, four), ("1", "2", "3", "4")), 0.5)
    assert ordered == Ordered((four, three, one, two), ("4", "3", "1", "2"))
    assert kept.keys() == {each.service.service_id for each in (one, two, three)}
    assert circuits.arrange(Ordered((four,)), 0.5) == (Ordered((four,)), {})


@given(
    st.lists(
        st.tuples(
            st.floats(0, 3), st.sampled_from(["begin", "well", "failed", "busy", "left"]), st.sampled_from(["a", "b"])
        ),
        max_size=80,
    )
)
def test_whatever_happens_trials_are_counted_and_every_service_comes_back(steps):
    circuits, now, out = Circuits(LIMITS), 0.0, {"a": 0, "b": 0}
    for seconds, what, name in steps:
        now += seconds
        trial = out[name] > 0
        if what == "begin":
            out[name] += circuits.begin(name, now)
            continue
        if what == "left":
            if trial:
                circuits.let_go(name)
                out[name] -= 1
            continue
        if what == "busy":
            circuits.busy(name, now, 2.0, trial=trial)
        else:
            getattr(circuits, what)(name, now, trial=trial)
        out[name] -= trial
    for name, trials in out.items():
        for _ in range(trials):
            circuits.let_go(name)
        assert circuits.kept_back(name, now + 10) == ""
        trial = circuits.begin(name, now + 10)
        circuits.well(name, now + 10, trial=trial)
        assert circuits.state(name, now + 10) is State.CLOSED
