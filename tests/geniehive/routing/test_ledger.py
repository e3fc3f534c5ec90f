"""The ledger keeps what is there, and no more."""

from geniehive.routing.affinity import fingerprint
from geniehive.routing.ledger import Ask, Ledger, Outcome
from geniehive.routing.resolve import resolve
from geniehive.routing.strategy import order
from tests.geniehive.routing.fleet import Observed, service, table

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
