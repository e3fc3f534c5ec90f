"""The scores that are told are those that decided."""

import pytest

from geniehive.routing.affinity import fingerprint
from geniehive.routing.ledger import Ask, Ledger, Outcome
from geniehive.routing.predict import predict
from geniehive.routing.resolve import resolve
from geniehive.routing.strategy import decided
from geniehive.routing.weigh import weighed
from tests.geniehive.routing.fleet import Asset, Observed, service, table


@pytest.mark.parametrize("strategy", ["scored", "predicted"])
def test_scores_fall_in_the_order_of_the_candidates(strategy):
    fleet = table(
        service("a", observed=Observed(in_flight=3, tokens_per_second=90.0)),
        service("b", observed=Observed(tokens_per_second=20.0)),
        service("c", assets=(Asset(asset_id="qwen", loaded=False),)),
        service("d", observed=Observed(running=9, tokens_per_second=50.0)),
        strategy=strategy,
    )
    found, ledger = resolve(fleet, "qwen"), Ledger()
    prompt = fingerprint(b'[{"role":"user","content":"' + b"hello " * 400 + b'"}]')
    warm = next(each for each in found.candidates if each.service.service_id == "d")
    ledger.end(ledger.begin(warm, Ask(0.0, prompt)), 1.0, Outcome(prompt_tokens=600, answer_tokens=9))
    ask, counts = Ask(2.0, prompt), {"a": 4}
    ordered, parts = decided(fleet, found, counts, 0, ask, ledger)
    made = [weighed(strategy, each) for each in parts]
    scores = [each.score for each in made]
    assert scores == sorted(scores, reverse=True)
    assert len(set(scores)) == 4
    assert [bool(each.reasons) for each in made] == [each is warm for each in ordered]


def test_what_is_told_of_a_prediction_is_its_parts():
    fleet = table(service("a"), service("b"), strategy="predicted")
    found, ledger = resolve(fleet, "qwen"), Ledger()
    ask = Ask(2.0, fingerprint(b"x" * 4000))
    ordered, parts = decided(fleet, found, {}, 0, ask, ledger)
    for candidate, each in zip(ordered, parts, strict=True):
        expected = predict(ledger, candidate, ask)
        told = weighed("predicted", each)
        assert told.score == -expected.cost
        assert told.signals["expected_ttft_s"] == expected.ttft_s


def test_strategies_that_do_not_weigh_tell_nothing():
    fleet = table(service("a"), service("b"), strategy="least_loaded")
    found = resolve(fleet, "qwen")
    assert decided(fleet, found, {}, 0, Ask(0.0), Ledger()).parts == ()
