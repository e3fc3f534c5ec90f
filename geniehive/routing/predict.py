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
from geniehive.routing.ledger import Ask, Ledger, warm_tokens
from geniehive.routing.warmth import SIMILAR, Levels, match

WRITING = 0.1  # seconds of waiting that a second of writing is worth
KEEP = 1.0  # seconds of waiting that a second of reading again is worth, to whom was thrown out


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


Parts = tuple[float, float, float, float, float, float]
"""The fields of a `Prediction`; making one of them is left to whoever wants to read it."""


def predict(ledger: Ledger, candidate: Candidate, ask: Ask) -> Prediction:
    """What to expect of one candidate, in parts: `costs` at leisure."""
    place = ledger.place(candidate)
    tokens, answer = ledger.expect(place.model, ask)
    matched, sequence = match(ledger.warmth.levels(ask.prefix), place)
    warm = 0.0 if sequence is None else warm_tokens(ask, tokens, matched, sequence)
    backlog = place.backlog
    return Prediction(
        wait_s=backlog.wait_s(ask.now),
        load_s=0.0 if ledger.warm(place, candidate, ask.now) else place.load,
        reading_s=place.reading_s(tokens - warm),
        writing_s=answer * place.token_s(backlog.streams),
        eviction_s=ledger.regret(place, ask, matched, sequence) * place.reading.slope * place.model.dear,
        warm_tokens=warm,
    )


def costs(  # noqa: C901, PLR0912 - the request path: written out, calls would take longer than the work
    group: Group, numbers: Sequence[int], ledger: Ledger, ask: Ask, levels: Levels
) -> tuple[list[float], list[Parts]]:
    """`predict(...).cost` of these candidates, and its parts."""
    now, size = ask.now, ask.prefix.size
    similar = SIMILAR * size
    places, candidates = group.places, group.candidates
    model, tokens, answer, dear = None, 0.0, 0.0, 1.0
    found: list[float] = []
    parts: list[Parts] = []
    for number in numbers:
        place = places[number]
        if place.model is not model:
            model = place.model
            tokens, answer = ledger.expect(model, ask)
            dear = model.dear
        reading, writing, station, cache = place.reading, place.writing, place.station, place.cache
        backlog = place.backlog
        slope = reading.slope
        warm = lost_s = wait_s = load_s = 0.0
        matched, held, victim = 0, None, None
        for matched, here in levels:
            held = here.get(place)
            if held is not None:
                warm = tokens * matched / size
                if held.tokens and matched == held.prefix.size:
                    warm += held.answer
                if warm > tokens - 1.0:  # noqa: PLR1730 - max() takes longer
                    warm = tokens - 1.0
                break
        if cache.slots:  # whom it would throw out: see `Warmth.victim`
            if held is not None and matched >= similar:
                victim = held if matched != held.prefix.size else None
            elif len(cache.sequences) >= cache.slots:
                victim = next(iter(cache.idle or cache.sequences))
            if victim is not None:
                lost = victim.lost if now < victim.lost_until else ledger.loss(place, victim, now)
                if lost:
                    lost_s = lost * slope * dear
                    if victim is held:
                        lost_s *= 1.0 - matched / victim.prefix.size
        if backlog.works or backlog.others or backlog.mates:
            if now > backlog.until:
                backlog.foresee(now)
            wait_s = backlog.ready_at - now
            if wait_s < backlog.floor_s:  # noqa: PLR1730 - see above
                wait_s = backlog.floor_s
        if (station.shared or candidates[number].asset.loaded is False) and not ledger.warm(
            place, candidates[number], now
        ):
            load_s = place.load
        reading_s = reading.base + slope * (tokens - warm)
        writing_s = answer * (writing.base + writing.slope * (backlog.streams - 1.0))
        found.append(wait_s + load_s + reading_s + WRITING * writing_s + KEEP * lost_s)
        parts.append((wait_s, load_s, reading_s, writing_s, lost_s, warm))
    return found, parts
