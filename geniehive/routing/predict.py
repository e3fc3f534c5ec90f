"""`predicted`: seconds until a candidate's first token, and until its last, from what the ledger has seen.

Time to the first token = wait for a slot + loading the model, if it is cold + reading what is not warm
there. Two things are added by weights. Writing: an answer is read as it comes, so its speed matters less
than its start. And what others lose: on an engine with a sequence a slot, a new conversation throws an
old one out, and if that one goes on it has to be read again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from geniehive.routing.candidate import Candidate
from geniehive.routing.field import Group
from geniehive.routing.ledger import Ask, Ledger, Place, warm_tokens
from geniehive.routing.warmth import Levels, match
from geniehive.routing.warmth import Sequence as Held

WRITING = 0.1  # seconds of waiting that a second of writing is worth
KEEP = 1.0  # seconds of waiting that a second of reading again is worth, to whom was thrown out
_LIVELIEST = 0.9


class Prediction(NamedTuple):
    """Seconds, by part; `warm_tokens` of the prompt need not be read."""

    wait_s: float
    load_s: float
    reading_s: float
    writing_s: float
    eviction_s: float
    warm_tokens: float

    @property
    def ttft_s(self) -> float:
        """Seconds to the first token."""
        return self.wait_s + self.load_s + self.reading_s

    @property
    def cost(self) -> float:
        """What is compared."""
        return self.ttft_s + WRITING * self.writing_s + KEEP * self.eviction_s


def predict(ledger: Ledger, candidate: Candidate, ask: Ask) -> Prediction:
    """What to expect of one candidate, in parts: for receipts."""
    place = ledger.place(candidate)
    tokens, answer = ledger.expect(place.model, ask)
    matched, sequence = match(ledger.warmth.levels(ask.prefix), place)
    warm = 0.0 if sequence is None else warm_tokens(ask, tokens, matched, sequence)
    backlog = place.station.backlog
    return Prediction(
        wait_s=backlog.wait_s(ask.now),
        load_s=0.0 if ledger.warm(place, candidate, ask.now) else place.load,
        reading_s=place.reading_s(tokens - warm),
        writing_s=answer * place.token_s(backlog.streams),
        eviction_s=_eviction_s(ledger, place, ask, matched, sequence),
        warm_tokens=warm,
    )


def _eviction_s(ledger: Ledger, place: Place, ask: Ask, matched: int, held: Held | None) -> float:
    """Seconds of reading that others are expected to lose: who is thrown out throws out another when he comes back."""
    chance, tokens = ledger.regret(place, ask, matched, held)
    return chance * tokens * place.reading.slope / (1.0 - min(place.model.live, _LIVELIEST)) if chance else 0.0


def costs(group: Group, numbers: Sequence[int], ledger: Ledger, ask: Ask, levels: Levels) -> list[float]:
    """`predict(...).cost` of these candidates, for the request path."""
    now, expect = ask.now, ledger.expect
    places, candidates = group.places, group.candidates
    model, tokens, answer, found = None, 0.0, 0.0, []
    for number in numbers:
        place = places[number]
        if place.model is not model:
            model = place.model
            tokens, answer = expect(model, ask)
            answer *= WRITING
        reading, writing, station = place.reading, place.writing, place.station
        backlog, cache = station.backlog, place.cache
        seconds = answer * (writing.base + writing.slope * (backlog.streams - 1.0)) + reading.base
        matched, held = match(levels, place) if levels else (0, None)
        warm = 0.0 if held is None else warm_tokens(ask, tokens, matched, held)
        seconds += reading.slope * (tokens - warm)
        if backlog.works or backlog.others:
            seconds += backlog.wait_s(now)
        if station.shared or candidates[number].asset.loaded is False:
            seconds += 0.0 if ledger.warm(place, candidates[number], now) else place.load
        if cache.slots and (held is not None or len(cache.sequences) >= cache.slots):
            seconds += KEEP * _eviction_s(ledger, place, ask, matched, held)
        found.append(seconds)
    return found
