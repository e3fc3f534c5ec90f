"""A receipt says what was known at the decision, who was tried, and how it ended."""

import msgspec
import pytest

from geniehive.routing.affinity import fingerprint
from geniehive.routing.ledger import Ask, Ledger, Outcome
from geniehive.routing.receipt import (
    LONGEST_NAME,
    MEASURED,
    WHOLE_FLEET,
    Decision,
    Facts,
    Receipt,
    Tried,
    decide,
    receipt,
)
from geniehive.routing.resolve import resolve
from geniehive.routing.strategy import decided, order
from tests.geniehive.routing.fleet import (
    Asset,
    Availability,
    Observed,
    host,
    role,
    service,
    table,
)


def decision(fleet, name="qwen", counts=None, **more):
    found = resolve(fleet, name)
    ordered = order(fleet, found, counts or {}, 0)
    made = decide(name, found, ordered, fleet.observed, counts or {})
    return msgspec.structs.replace(made, **more)


def facts(made, *tried, **more):
    fields = {
        "request_id": "req_1",
        "principal": "client-1",
        "operation": made.resolution.operation if made.resolution else None,
        "decision": made,
        "tried": list(tried),
        "began": 100.0,
        "now": 102.0,
        "unix_now": 1_000_002.0,
        "status": 200,
        "stream": False,
        "body_bytes": 10,
        "body_seconds": 0.001,
        "overhead_seconds": 0.0005,
        "queue_seconds": 0.0,
        "upstream_seconds": 0.5,
        "first_byte": 100.5,
        "failure": "",
    }
    return Facts(**{**fields, **more})


def tried(made, place=0, **more):
    return Tried(**{"candidate": made.ordered[place], "began": 100.0, "until": 100.4, "outcome": "ok", **more})


FLEET = table(
    host("h1"),
    host("h2", availability=Availability.BUSY),
    service("a", observed=Observed(running=2, waiting=1, ttft_seconds=0.2)),
    service("b", "h2"),
    service("c", "gone"),
)


def test_candidates_carry_what_was_known_when_it_was_decided():
    counts = {"a": 1}
    made = decision(FLEET, counts=counts)
    counts["a"] = 9
    first, second = receipt(facts(made)).candidates
    assert (first.service_id, first.tier, first.score) == ("a", (0, 0, 0), None)
    assert first.signals == {"running": 2, "waiting": 1, "ttft_seconds": 0.2, "own_in_flight": 1}
    assert first.reasons == ("service is healthy", "model is loaded")
    assert second.reasons == ("service is healthy", "model is loaded", "host is busy")
    assert second.signals == {"own_in_flight": 0}  # unknown is absent, not zero


def test_what_was_dropped_has_its_reason():
    (gone,) = receipt(facts(decision(FLEET))).dropped
    assert (gone.service_id, gone.reason) == ("c", "host gone is not known")


def test_what_a_role_likes_in_a_candidate_is_told():
    fleet = table(
        host("h1", labels={"room": "attic"}),
        service("a", assets=(Asset(asset_id="m", family="Qwen3", loaded=False),)),
        service("b", assets=(Asset(asset_id="other", family="llama"),)),
        role("fast", preferred_families=("llama3", "qwen3"), preferred_labels={"room": "attic"}),
    )
    by_id = {one.service_id: one for one in receipt(facts(decision(fleet, "fast"))).candidates}
    assert by_id["a"].role_id == "fast"
    assert by_id["a"].reasons == (
        "service is healthy",
        "model is not loaded",
        "by role fast",
        "family Qwen3 is choice 2 of the role",
        "label room=attic",
    )
    assert not any("family" in each for each in by_id["b"].reasons)


def test_a_strategy_that_weighs_adds_score_signals_and_reasons():
    found, ledger = resolve(FLEET, "qwen"), Ledger()
    prompt = fingerprint(b"x" * 900)
    first = next(each for each in found.candidates if each.service.service_id == "a")
    ledger.end(ledger.begin(first, Ask(0.0, prompt)), 1.0, Outcome(prompt_tokens=600, answer_tokens=9))
    ordered, parts = decided(FLEET, found, {}, 0, Ask(2.0, prompt), ledger)
    one, two = receipt(facts(decide("qwen", found, ordered, FLEET.observed, {}, parts))).candidates
    assert one.score > two.score
    assert one.signals["warm"] == 1.0
    assert one.signals["running"] == 2
    assert one.reasons[-1] == "has the beginning of this prompt in its cache"
    assert two.signals["warm"] == 0.25


def test_a_failover_shows_both_attempts():
    made = decision(FLEET)
    bad = tried(made, 0, outcome="failed", reason="the engine failed with status 500", status=500)
    good = tried(made, 1, began=100.4, until=100.9, streamed=True, status=200, told=(None, 7, "stop", None, None))
    found = receipt(facts(made, bad, good))
    first, second = found.attempts
    assert (first.service_id, first.outcome, first.status, first.error) == ("a", "failed", 500, bad.reason)
    assert (first.started_ms, first.first_byte_ms, first.duration_ms) == (0, None, 400)
    assert (second.service_id, second.outcome, second.error) == ("b", "ok", None)
    assert (second.started_ms, second.first_byte_ms, second.duration_ms) == (400, 500, 1600)
    assert (found.service_id, found.completion_tokens, found.finish_reason) == ("b", 7, "stop")
    assert (found.outcome, found.error) == ("ok", None)
    assert found.timings.total_ms == 2000
    assert found.at_ms == 1_000_000_000


OUTCOMES = {
    "open": ({"status": None}, {"outcome": "open", "until": None}, "open", None),
    "ok": ({}, {}, "ok", None),
    "all attempts failed": ({"status": 502}, {"outcome": "failed", "reason": "reset"}, "failed", "reset"),
    "failed after a comment line": ({"stream": True}, {"outcome": "failed", "reason": "reset"}, "failed", "reset"),
    "cut": ({"stream": True, "failure": "it broke"}, {"outcome": "cut", "streamed": True}, "cut", "it broke"),
    "the client left": ({"status": 499}, {"outcome": "cancelled"}, "cancelled", "the client went away"),
    "shut down": ({"status": 503, "failure": "shutting down"}, {"outcome": "cancelled"}, "failed", "shutting down"),
}


@pytest.mark.parametrize(("more", "attempt", "outcome", "error"), OUTCOMES.values(), ids=OUTCOMES)
def test_how_it_ended(more, attempt, outcome, error):
    made = decision(FLEET)
    found = receipt(facts(made, tried(made, **attempt), **more))
    assert (found.outcome, found.error) == (outcome, error)
    assert found.stream_cut is (outcome == "cut")


def test_a_name_that_leads_nowhere_has_a_receipt_too():
    found = receipt(facts(Decision("nope"), status=404, failure="model 'nope' does not exist"))
    assert (found.outcome, found.match, found.service_id, found.candidates, found.dropped) == (
        "failed", None, None, (), (),
    )  # fmt: skip
    assert found.error == "model 'nope' does not exist"


def test_listings_leave_out_what_was_decided_on():
    written = msgspec.json.decode(msgspec.json.encode(receipt(facts(decision(FLEET)), whole=False)))
    assert "candidates" not in written
    assert "dropped" not in written


def test_a_receipt_survives_the_wire():
    made = decision(FLEET)
    for whole in (True, False):
        found = receipt(facts(made, tried(made)), whole=whole)
        assert msgspec.json.decode(msgspec.json.encode(found), type=Receipt) == found


def test_a_decision_holds_on_to_little_of_a_large_fleet_and_of_a_long_name():
    many = table(*(service(f"s{n:04}", observed=Observed(running=0)) for n in range(WHOLE_FLEET + 1)))
    found = resolve(many, "qwen")
    made = decide("x" * 10_000, found, found.candidates, many.observed, {f"s{n:04}": 1 for n in range(WHOLE_FLEET)})
    assert len(made.model) == LONGEST_NAME
    assert len(made.measured) == len(made.own) == MEASURED
    seen = receipt(facts(made)).candidates
    assert len(seen) == WHOLE_FLEET + 1
    assert seen[0].signals == {"running": 0, "own_in_flight": 1}
    assert seen[-1].signals == {}
    few = decide("qwen", found, found.candidates, FLEET.observed, {})
    assert few.measured is FLEET.observed
