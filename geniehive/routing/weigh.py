"""What a strategy made of the candidates that it chose, in numbers, for receipts and explanations."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from geniehive.resources import Observed
from geniehive.routing.candidate import Candidate, Resolution
from geniehive.routing.ledger import Ask, Ledger
from geniehive.routing.predict import predict
from geniehive.routing.receipt import Weighed
from geniehive.routing.scored import WEIGHTS, signals
from geniehive.routing.table import RoutingTable
from geniehive.routing.warmth import Levels, match

_NOTHING = Observed()


def weigh(
    table: RoutingTable,
    found: Resolution,
    ordered: tuple[Candidate, ...],
    in_flight: Mapping[str, int],
    ask: Ask,
    ledger: Ledger,
) -> tuple[Weighed, ...]:
    """Score and signals of each candidate, in their order.

    The score of `scored` is from 0 to 1, higher is better; that of `predicted` is seconds below zero.
    """
    if found.strategy == "predicted":
        return tuple(_predicted(ledger, each, ask) for each in ordered)
    seen = [table.observed.get(each.service.service_id, _NOTHING) for each in ordered]
    fastest = max((each.tokens_per_second or 0.0 for each in seen), default=0.0)
    levels = ledger.warmth.levels(ask.prefix)
    return tuple(
        _scored(ledger, each, told, in_flight.get(each.service.service_id, 0), fastest, ask, levels)
        for each, told in zip(ordered, seen, strict=True)
    )


def _predicted(ledger: Ledger, candidate: Candidate, ask: Ask) -> Weighed:
    expected = predict(ledger, candidate, ask)
    reasons = ("has the beginning of this prompt in its cache",) if expected.warm_tokens else ()
    return Weighed(-expected.cost, {**expected._asdict(), "expected_ttft_s": expected.ttft_s}, reasons)


def _scored(
    ledger: Ledger, candidate: Candidate, seen: Observed, own: int, fastest: float, ask: Ask, levels: Levels
) -> Weighed:
    place = ledger.place(candidate)
    share = match(levels, place)[0] / ask.prefix.size if levels else 0.0
    found = signals(candidate, seen, own, seen.slots or place.station.backlog.slots, fastest, share)
    reasons = ("has the beginning of this prompt in its cache",) if share else ()
    return Weighed(found.score(WEIGHTS), msgspec.structs.asdict(found), reasons)
