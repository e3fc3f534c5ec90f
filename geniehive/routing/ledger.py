"""What one gateway worker knows of its own requests: open ones, where prompts are warm, how engines did.

The routing table says what the cluster told; the ledger says what this worker saw. Strategies read both.
`begin`, `first` and `end` are told of every attempt; nothing here waits, and `now` is the caller's clock.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

from geniehive.resources import Observed
from geniehive.routing.affinity import NOTHING, Prefix
from geniehive.routing.backlog import Backlog, Work
from geniehive.routing.candidate import Candidate, Resolution
from geniehive.routing.learn import Lengths, Line, Returns
from geniehive.routing.table import RoutingTable
from geniehive.routing.warmth import PlaceCache, Sequence, Warmth, match

_SLOTS = {"ollama": 1, "llamacpp": 4, "lmstudio": 4, "vllm": 256, "sglang": 256}  # where an engine does not tell
_SOME_SLOTS = 4
_SHARED = ("vllm", "sglang")  # engines with one cache for all requests
_BYTES_PER_TOKEN = 4.0
_LOAD_BYTES_S = 1e9  # a model comes from disk at about this pace
_LOAD_S = 8.0
_MEMORY_S = 15.0  # for this long this worker's own loads count for more than the table
_READS_FASTER = 20.0  # than it writes, any engine, about
_PROMPT = 2000.0  # tokens: the span of the prior of reading
_MOST_ENDED = 8192
_MOST_FIELDS = 1024
_LIVELIEST = 0.9
_HOPE = 0.9  # of the time of the fastest is what a place may take where nobody was yet
_PRICE_S = 0.25  # what the loss of a sequence would cost is good for this long at least,
_PRICE = 0.25  # and for this share of the time that it was idle


class Ask(NamedTuple):
    """What is known of a request when it is routed; `now` in seconds of any steady clock."""

    now: float
    prefix: Prefix = NOTHING
    max_tokens: int | None = None
    turn: int = 0
    """Counts the decisions of the caller: spreads ties."""


NO_ASK = Ask(0.0)


class Outcome(NamedTuple):
    """What is known of an answer at its end; None is unknown."""

    ok: bool = True
    prompt_tokens: int | None = None
    cached_tokens: int | None = None
    answer_tokens: int | None = None
    times: tuple[float, float] | None = None
    """Seconds of reading and of writing by the engine's own clock."""


class Model:
    """What is learned of a model, whoever serves it."""

    __slots__ = ("asset_id", "bytes_per_token", "dear", "lengths", "live", "places", "returns")

    def __init__(self, asset_id: str) -> None:
        self.asset_id = asset_id
        self.bytes_per_token = _BYTES_PER_TOKEN
        self.lengths = Lengths()
        self.returns = Returns()
        self.live = 0.0  # chance that a conversation that is thrown out of a cache goes on, lately
        self.dear = 1.0  # evictions that one leads to, if those who come back throw out the next
        self.places: list[Place] = []

    def threw_out(self, chance: float) -> None:
        """A prompt took the place of one that goes on with this chance; 0 if it took nobody's."""
        self.live += 0.05 * (chance - self.live)
        self.dear = 1.0 / (1.0 - min(self.live, _LIVELIEST))

    def spread(self) -> None:
        """Suppose of places where nobody was yet that they are a little better than the fastest: so they are tried.

        One request is enough to learn otherwise, and other gateways hear of it.
        """
        known = [place for place in self.places if place.reading.samples]
        unknown = [place for place in self.places if not place.reading.samples and not place.told]
        if not unknown:
            return
        slope = _HOPE * min(max(place.reading.slope, 1e-6) for place in known)
        base = _HOPE * min(place.reading.base for place in known)
        token_s = _HOPE * min(max(place.writing.base, 1e-6) for place in known)
        for place in unknown:
            place.reading.suppose(base, slope)
            place.writing.suppose(token_s, 0.1 * token_s)


class Station:
    """A service: its backlog, and which model it was last asked for.

    Models that are in memory together have slots of their own, so each has its own backlog; models that have to
    make room for each other stand in one queue.
    """

    __slots__ = ("asked_at", "backlog", "last", "ours", "places", "reported", "shared")

    def __init__(self, slots: int) -> None:
        self.backlog = Backlog(slots)
        self.places: list[Place] = []
        self.last: Place | None = None
        self.shared = False  # by several models, so that one may have to make room for another
        self.asked_at = float("-inf")
        self.reported = 0  # requests that this worker last said to have open there
        self.ours = 1.0  # share of the open requests there that are this worker's, lately

    @property
    def works(self) -> int:
        """Requests that this worker has open there."""
        return sum(len(backlog.works) for backlog in self.backlogs())

    def backlogs(self) -> list[Backlog]:
        """All of them; requests may still be open in those that are not used any more."""
        return [self.backlog, *self.backlog.mates]

    def part(self) -> None:
        """Give each model its own backlog, or all of them one, by whether they are in memory together."""
        together = self.shared and all(place.loaded for place in self.places)
        for place in self.places:
            place.backlog = place.own if together else self.backlog
        every = [self.backlog, *(place.own for place in self.places)] if self.shared else [self.backlog]
        for backlog in every:
            backlog.mates = [each for each in every if each is not backlog]

    def told(self, slots: int | None, others: int) -> None:
        """How many slots each model has there, and how many requests of others there are."""
        if self.places and self.places[0].backlog is not self.backlog:
            for place in self.places:
                place.backlog.told(slots, round(others * place.use))
            others = 0
        self.backlog.told(slots, others)


class Place:
    """A model at a service: its speeds and its cache."""

    __slots__ = (
        "backlog", "cache", "load", "loaded", "model", "own", "reading", "service_id", "station", "told", "use",
        "writing",
    )  # fmt: skip

    def __init__(self, service_id: str, model: Model, station: Station, cache_slots: int, load_s: float) -> None:
        self.service_id = service_id
        self.model = model
        self.station = station
        self.cache = PlaceCache(self, cache_slots)
        self.reading = Line(0.02, 0.0002, _PROMPT, rigid=True)
        self.writing = Line(0.01, 0.001, 3.0)
        self.load = load_s
        self.loaded = True  # in memory, as far as the cluster knows
        self.use = 1.0  # share of the requests there that are for this model, lately
        self.own = Backlog(station.backlog.slots)
        self.backlog = station.backlog
        self.told = False  # speeds by the cluster

    def reading_s(self, fresh_tokens: float) -> float:
        """Seconds from the start of reading to the first token."""
        return self.reading.base + self.reading.slope * fresh_tokens

    def token_s(self, streams: float) -> float:
        """Seconds a token, with so many answers being written."""
        return self.writing.base + self.writing.slope * (streams - 1.0)

    def tokens_left(self, expected: float, written: float) -> float:
        """Tokens that an answer still has, on average."""
        return self.model.lengths.remaining(expected, written)

    def tell(self, seen: Observed) -> None:
        """Speeds as the cluster knows them: where this worker was not yet, they are all there is."""
        if self.reading.samples or not seen.tokens_per_second:
            return
        self.told = True
        token_s = 1.0 / seen.tokens_per_second
        self.writing.suppose(token_s, 0.05 * token_s)
        read = seen.prompt_tokens_per_second
        self.reading.suppose(0.05, 1.0 / read if read else token_s / _READS_FASTER)


class Ticket(Work):
    """One attempt: give it back to the ledger when it begins to be answered, and when it is over."""

    __slots__ = ("alone", "ask", "backlog", "place", "sequence", "streams")

    def __init__(self, place: Place, ask: Ask, now: float, fresh: float, answer: float, load_s: float) -> None:
        super().__init__(place, now, fresh, answer, load_s)
        self.place = place
        self.ask = ask
        self.sequence: Sequence
        self.backlog = backlog = place.backlog
        self.streams = backlog.streams
        # Nobody else's request is there, or there is room for all: what is seen can be explained.
        self.alone = backlog.others == 0 or 2 * (backlog.depth + 1) <= backlog.slots


class Ledger:
    """One for each gateway worker."""

    def __init__(self) -> None:
        self.warmth = Warmth()
        self._models: dict[str, Model] = {}
        self._stations: dict[str, Station] = {}
        self._places: dict[tuple[str, str], Place] = {}
        self.fields: dict[int, Any] = {}  # what strategies remember between decisions, by their own keys
        self.freed: deque[Place] = deque(maxlen=8)  # where requests ended last
        self._observed: Mapping[str, Observed] = {}
        self._ended: dict[int, float] = {}  # when the answer to a prompt ended, by the prompt's key, oldest first

    def knows(self, candidate: Candidate) -> bool:
        """Whether the candidate was ever one of several to choose from."""
        return (candidate.service.service_id, candidate.asset.asset_id) in self._places

    def place(self, candidate: Candidate) -> Place:
        """What is known of the candidate; made when it is first met."""
        key = (candidate.service.service_id, candidate.asset.asset_id)
        return self._places.get(key) or self._meet(key, candidate)

    def meet(self, candidate: Candidate) -> Place:
        """`place`, with what the candidate's asset tells of it now."""
        place = self.place(candidate)
        loaded = candidate.asset.loaded is not False
        if loaded is not place.loaded:
            place.loaded = loaded
            place.station.part()
        return place

    def _meet(self, key: tuple[str, str], candidate: Candidate) -> Place:
        service, asset = candidate.service, candidate.asset
        slots = service.observed.slots or service.max_concurrency or _SLOTS.get(service.protocol, _SOME_SLOTS)
        station = self._stations.setdefault(key[0], Station(slots))
        model = self._models.setdefault(key[1], Model(key[1]))
        load_s = asset.size_bytes / _LOAD_BYTES_S if asset.size_bytes else _LOAD_S
        place = Place(key[0], model, station, 0 if service.protocol in _SHARED else slots, load_s)
        station.places.append(place)
        station.shared = len(station.places) > 1
        self._places[key] = place
        place.loaded = asset.loaded is not False
        for each in station.places:
            each.use = 1.0 / len(station.places)
        station.part()
        model.places.append(place)
        place.tell(service.observed)
        return place

    def reads(self, service_id: str) -> float | None:
        """Tokens of prompts a second at a service, as this worker learned it for whoever has not been there."""
        station = self._stations.get(service_id)
        known = [place.reading for place in station.places if place.reading.samples] if station is not None else []
        if not known:
            return None
        slope = max(known, key=lambda reading: reading.samples).slope
        return 1.0 / slope if slope > 0.0 else None

    def remember(self, key: int, field: Any) -> None:
        """Keep something for the next decision; the oldest is forgotten."""
        self.fields[key] = field
        if len(self.fields) > _MOST_FIELDS:
            del self.fields[next(iter(self.fields))]

    def reshape(self, known: Collection[str]) -> None:
        """The cluster changed: forget what fits its old shape, and services that are neither known nor busy."""
        self.fields.clear()
        gone = [name for name, station in self._stations.items() if name not in known and not station.works]
        for name in gone:
            for place in self._stations.pop(name).places:
                self.warmth.clear(place.cache)
                place.model.places.remove(place)
                del self._places[name, place.model.asset_id]

    # --- what is going on --------------------------------------------------------------------------

    def observe(self, observed: Mapping[str, Observed], reported: Mapping[str, int]) -> None:
        """New measurements of the cluster came. `reported` is what this worker last reported to have open."""
        seen_last, self._observed = self._observed, observed
        for service_id, station in self._stations.items():
            seen = observed.get(service_id)
            if seen is None:
                continue
            own, works = reported.get(service_id, 0), station.works
            if seen is seen_last.get(service_id) and own == station.reported and not works:
                continue
            station.reported = own
            others = max((seen.in_flight or 0) - own, 0)
            station.told(seen.slots, others)
            if depth := works + others:
                station.ours += 0.01 * (works / depth - station.ours)
            slots = max(round(station.backlog.slots * station.ours), 1)
            for place in station.places:
                if not place.reading.samples:
                    place.tell(seen)
                if place.cache.slots:
                    place.cache.slots = slots  # the others' requests leave their prompts in the rest

    def begin(self, candidate: Candidate, ask: Ask, now: float | None = None) -> Ticket:
        """The request is sent to the candidate; `now`, if that is later than when it was routed."""
        if now is None:
            now = ask.now
        place = self.place(candidate)
        model, station, prefix, cache = place.model, place.station, ask.prefix, place.cache
        tokens, answer = self.expect(model, ask)
        matched, held, fresh = 0, None, tokens
        if prefix.keys:
            self._goes_on(model, prefix.keys, now)
            matched, held = match(self.warmth.levels(prefix), place)
            if held is not None:
                fresh -= warm_tokens(ask, tokens, matched, held)
        if cache.slots:
            victim = self.warmth.victim(cache, prefix, matched, held)
            model.threw_out(0.0 if victim is None else self._returns(place, victim, now))
        load_s = 0.0
        if (station.shared or candidate.asset.loaded is False) and not self.warm(place, candidate, now):
            load_s = place.load
            self.warmth.clear(cache)
        ticket = Ticket(place, ask, now, fresh, answer, load_s)
        ticket.sequence = self.warmth.take(cache, prefix, now, matched, held)
        station.last, station.asked_at = place, now
        if station.shared:
            for each in station.places:
                each.use += 0.05 * ((each is place) - each.use)
        ticket.backlog.begin(ticket, now)
        return ticket

    def _goes_on(self, model: Model, keys: tuple[int, ...], now: float) -> None:
        """If this is the next turn of a conversation, learn how long it paused."""
        ended = self._ended
        for key in reversed(keys):
            if key in ended:
                model.returns.returned(now - ended.pop(key))
                return

    def first(self, ticket: Ticket, now: float) -> None:
        """The first token is there."""
        ticket.backlog.first(ticket, now)

    def end(self, ticket: Ticket, now: float, outcome: Outcome) -> None:
        """The request is over."""
        place, sequence = ticket.place, ticket.sequence
        if outcome.ok:
            self._learn(ticket, now, outcome)
            known = max(place.reading.samples, place.writing.samples)
            if place.reading.samples and known & (known - 1) == 0:  # the first, second, fourth, …
                place.model.spread()
        ticket.backlog.end(ticket, now)
        self.freed.append(place)
        if not outcome.ok:
            self.warmth.drop(sequence)
            return
        place.model.returns.ended()
        self._ended[sequence.end] = now
        if len(self._ended) > _MOST_ENDED:
            del self._ended[next(iter(self._ended))]
        self.warmth.end(sequence, now, tokens=outcome.prompt_tokens or 0, answer=outcome.answer_tokens or 0)

    def _learn(self, ticket: Ticket, now: float, outcome: Outcome) -> None:
        place, first_at, answer = ticket.place, ticket.first_at, outcome.answer_tokens
        fresh = self._count(ticket, outcome)
        if answer:
            place.model.lengths.learn(kind_of(ticket.ask.prefix), answer)
        if first_at is None:
            self._learn_of_whole(ticket, now, fresh, outcome)
            return
        if not self._time_reading(ticket, fresh, first_at) and outcome.times:
            place.reading.learn(fresh, outcome.times[0])
        if answer and answer > 1 and now > first_at:
            place.writing.learn(self._others_written(ticket), (now - first_at) / (answer - 1))

    def _learn_of_whole(self, ticket: Ticket, now: float, fresh: float, outcome: Outcome) -> None:
        """Of an answer that came at once the engine alone knows when it began, where it tells."""
        place, answer, beside = ticket.place, outcome.answer_tokens, self._others_written(ticket)
        if outcome.times:
            place.reading.learn(fresh, outcome.times[0])
            if answer and answer > 1:
                place.writing.learn(beside, outcome.times[1] / (answer - 1))
        elif answer and ticket.alone and not ticket.load_s:
            took = now - (ticket.sent_at if ticket.began_at is None else ticket.began_at)
            if not place.reading.samples:
                place.reading.learn(fresh, took * fresh / (fresh + _READS_FASTER * answer))
            if took > place.reading_s(fresh):
                place.writing.learn(beside, (took - place.reading_s(fresh)) / answer)

    @staticmethod
    def _others_written(ticket: Ticket) -> float:
        """Answers that were written beside this one, on average."""
        backlog = ticket.backlog
        return float((ticket.streams + min(backlog.depth, backlog.slots)) / 2 - 1.0)

    def _count(self, ticket: Ticket, outcome: Outcome) -> float:
        """Tokens that had to be read, as far as is known; and what that says about bytes and about the mirror."""
        fresh = ticket.fresh
        if not outcome.prompt_tokens:
            return fresh
        model, size = ticket.place.model, ticket.ask.prefix.size
        if size:
            model.bytes_per_token += 0.05 * (size / outcome.prompt_tokens - model.bytes_per_token)
        if outcome.cached_tokens is None:
            return fresh
        if outcome.prompt_tokens - outcome.cached_tokens > fresh + 0.3 * outcome.prompt_tokens:
            self.warmth.missed(ticket.place.cache)
        return max(outcome.prompt_tokens - outcome.cached_tokens, 1)

    @staticmethod
    def _time_reading(ticket: Ticket, fresh: float, first_at: float) -> bool:
        """Learn from the wait for the first token; False if it may have been a wait for others."""
        place = ticket.place
        took = first_at - (ticket.sent_at if ticket.began_at is None else ticket.began_at)
        if ticket.load_s and took > place.reading_s(fresh):
            place.load += 0.5 * (took - place.reading_s(fresh) - place.load)
        elif ticket.alone or place.reading.samples < 3 or took < place.reading_s(fresh):  # who waits is never faster
            place.reading.learn(fresh, took)
        else:
            return False
        return True

    # --- what is to be expected --------------------------------------------------------------------

    def expect(self, model: Model, ask: Ask) -> tuple[float, float]:
        """Tokens of the prompt, and of the answer."""
        return ask.prefix.size / model.bytes_per_token, model.lengths.expected(kind_of(ask.prefix), ask.max_tokens)

    def regret(self, place: Place, ask: Ask, matched: int, held: Sequence | None) -> float:
        """Tokens that are expected to be read again because a prompt throws them out of the place's cache."""
        victim = self.warmth.victim(place.cache, ask.prefix, matched, held)
        if victim is None:
            return 0.0
        lost = self.loss(place, victim, ask.now)
        return lost * (1.0 - matched / victim.prefix.size) if victim is held else lost

    def loss(self, place: Place, victim: Sequence, now: float) -> float:
        """Tokens that are expected to be read again, if a sequence is thrown out."""
        if now >= victim.lost_until:
            model = place.model
            tokens = victim.tokens + victim.answer if victim.tokens else victim.prefix.size / model.bytes_per_token
            victim.lost = self._returns(place, victim, now) * tokens
            idle_s = now - victim.ended_at if victim.tokens else 0.0
            victim.lost_until = now + max(_PRICE_S, _PRICE * idle_s)
        return victim.lost

    @staticmethod
    def _returns(place: Place, victim: Sequence, now: float) -> float:
        """The chance that it would be asked for again, if it could stay as long as others do."""
        return place.model.returns.likely(now - victim.ended_at if victim.tokens else 0.0, place.cache.life_s)

    def warm(self, place: Place, candidate: Candidate, now: float) -> bool:
        """Whether the model is loaded there, or will be by the time that it is this request's turn."""
        station = place.station
        if station.last is not None and (station.works or now - station.asked_at < _MEMORY_S):
            return station.last is place or (
                candidate.asset.loaded is not False
                and not any(work.load_s for each in station.backlogs() for work in each.works)
            )
        return candidate.asset.loaded is not False


def told_ledger(table: RoutingTable, found: Resolution) -> Ledger:
    """A ledger of somebody who sends no requests: all that are open are others', as engines and gateways tell."""
    ledger = Ledger()
    for candidate in found.candidates:
        seen = table.observed.get(candidate.service.service_id, candidate.service.observed)
        running = (seen.running or 0) + (seen.waiting or 0)
        ledger.place(candidate).station.told(seen.slots, max(seen.in_flight or 0, running))
    return ledger


def warm_tokens(ask: Ask, tokens: float, matched: int, held: Sequence) -> float:
    """Tokens of a prompt of `tokens` that a sequence should hold which shares `matched` bytes with it."""
    warm = tokens * matched / ask.prefix.size
    if held.tokens and matched == held.prefix.size:
        warm += held.answer
    return min(warm, tokens - 1.0)


def kind_of(prefix: Prefix) -> int:
    """The class of a prompt: how it begins."""
    return prefix.keys[0] if prefix.keys else 0
