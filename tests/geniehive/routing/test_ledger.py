"""The ledger keeps what is there, and no more."""

import pytest
from msgspec.structs import replace

from geniehive.routing.affinity import fingerprint
from geniehive.routing.ledger import Ask, Ledger, Outcome
from geniehive.routing.resolve import resolve
from geniehive.routing.strategy import order
from tests.geniehive.routing.fleet import Asset, Observed, service, table

PROMPT = fingerprint(b'[{"role":"user","content":"' + b"hello " * 400 + b'"}]')


def test_a_service_that_is_gone_is_forgotten_once_it_is_idle():
    fleet = table(service("a"), service("b"))
    found, ledger = resolve(fleet, "qwen"), Ledger()
    first, second = order(fleet, found, {}, 0, ask=Ask(0.0, PROMPT), ledger=ledger)
    old, ticket = ledger.place(first), ledger.begin(first, Ask(0.0, PROMPT))
    ledger.reshape({second.service.service_id})
    assert not ledger.fields
    assert ledger.place(first) is old
    ledger.end(ticket, 1.0, Outcome())
    assert ledger.warmth.levels(PROMPT)
    ledger.reshape({second.service.service_id})
    assert not ledger.warmth.levels(PROMPT)
    assert ledger.place(first) is not old
    assert old not in ledger.place(second).model.places


def test_what_others_have_open_is_what_the_cluster_counts_less_what_was_reported():
    fleet = table(service("a"), service("b"))
    ledger = Ledger()
    place = ledger.place(resolve(fleet, "qwen").candidates[0])
    ledger.observe({"a": Observed(in_flight=5)}, {"a": 2})
    assert place.station.backlog.others == 3
    ledger.observe({"a": Observed(in_flight=1)}, {"a": 2})
    assert place.station.backlog.others == 0


def whole(ledger, candidate, at, outcome, took=2.0):
    """A plain answer: nobody sees when its first token came."""
    ticket = ledger.begin(candidate, Ask(at, fingerprint(b"%d" % at * 2000)))
    ledger.end(ticket, at + took, outcome)
    return ledger.place(candidate)


def test_the_engines_own_clock_tells_how_fast_a_plain_answer_was_read_and_written():
    fleet = table(service("a"), service("b"))
    ledger, one = Ledger(), resolve(fleet, "qwen").candidates[0]
    told = Outcome(prompt_tokens=1000, cached_tokens=0, answer_tokens=101, times=(0.5, 4.0))
    for n in range(8):
        place = whole(ledger, one, 10 * n, told)
    assert place.reading_s(1000) == pytest.approx(0.5, rel=0.2)
    assert place.token_s(1) == pytest.approx(0.04, rel=0.2)
    assert ledger.reads("a") == pytest.approx(2000, rel=0.3)


def test_a_plain_answer_that_tells_its_tokens_alone_teaches_how_long_such_answers_take():
    fleet = table(service("a"), service("b"))
    ledger, (one, two) = Ledger(), resolve(fleet, "qwen").candidates
    for n in range(12):
        quick = whole(ledger, one, 10 * n, Outcome(prompt_tokens=500, answer_tokens=100), took=1.0)
        slow = whole(ledger, two, 10 * n + 5, Outcome(prompt_tokens=500, answer_tokens=100), took=4.0)
    for place, took in ((quick, 1.0), (slow, 4.0)):
        assert place.reading_s(500) + 100 * place.token_s(1) == pytest.approx(took, rel=0.2)


def test_an_answer_that_tells_nothing_teaches_no_speed():
    ledger, one = Ledger(), resolve(table(service("a"), service("b")), "qwen").candidates[0]
    place = whole(ledger, one, 0, Outcome())
    assert place.reading.samples == place.writing.samples == 0
    assert ledger.reads("a") is None
    assert ledger.reads("nobody") is None


def test_a_speed_that_another_gateway_learned_counts_where_this_one_has_not_been():
    fleet = table(service("a"), service("b"))
    ledger, one = Ledger(), resolve(fleet, "qwen").candidates[0]
    place = ledger.place(one)
    ledger.observe({"a": Observed(tokens_per_second=50.0, prompt_tokens_per_second=100.0)}, {})
    assert place.reading_s(1000) == pytest.approx(10.0, rel=0.1)
    assert place.token_s(1) == pytest.approx(0.02)


def test_models_that_are_in_memory_together_have_slots_of_their_own():
    both = (Asset(asset_id="qwen", loaded=True), Asset(asset_id="phi", loaded=True))
    fleet = table(service("a", assets=both, observed=Observed(slots=1)), service("b"))
    ledger, qwen, phi = Ledger(), resolve(fleet, "qwen").candidates[0], resolve(fleet, "phi").candidates[0]
    busy, other = ledger.meet(qwen), ledger.meet(phi)
    ticket = ledger.begin(qwen, Ask(0.0))
    ledger.first(ticket, 0.1)
    assert busy.backlog.wait_s(0.2) > 0
    assert other.backlog.wait_s(0.2) == 0
    apart = replace(phi, asset=Asset(asset_id="phi", loaded=False))
    assert ledger.meet(apart) is other
    assert other.backlog is busy.backlog is busy.station.backlog
    ledger.end(ticket, 1.0, Outcome())
    assert busy.station.works == 0
