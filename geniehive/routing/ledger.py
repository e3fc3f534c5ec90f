"""What one gateway worker knows of its own requests: open ones, where prompts are warm, how engines did.

The routing table says what the cluster told; the ledger says what this worker saw. Strategies read both.
`begin`, `first` and `end` are told of every attempt; nothing here waits, and `now` is the caller's clock.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Mapping
from math import exp, log
from typing import NamedTuple

from geniehive.resources import Observed
from geniehive.routing.affinity import NOTHING, Prefix, offset
from geniehive.routing.backlog import Backlog, Work
from geniehive.routing.candidate import Candidate
from geniehive.routing.learn import Lengths, Line, Returns
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


class Model:
    """What is learned of a model, whoever serves it."""

    __slots__ = ("asset_id", "bytes_per_token", "lengths", "live", "places", "returns")

    def __init__(self, asset_id: str) -> None:
        self.asset_id = asset_id
        self.bytes_per_token = _BYTES_PER_TOKEN
        self.lengths = Lengths()
        self.returns = Returns()
        self.live = 0.0  # chance that a conversation that is thrown out of a cache goes on, lately
        self.places: list[Place] = []

    def spread(self) -> None:
        """Suppose of places where nobody was yet that they are like the others, on average."""
        known = [place for place in self.places if place.reading.samples]
        unknown = [place for place in self.places if not place.reading.samples and not place.told]
        if not unknown:
            return
        count = len(known)
        slope = exp(sum(log(max(place.reading.slope, 1e-6)) for place in known) / count)
        base = sum(place.reading.base for place in known) / count
        token_s = exp(sum(log(max(place.writing.base, 1e-6)) for place in known) / count)
        for place in unknown:
            place.reading.suppose(base, slope)
            place.writing.suppose(token_s, 0.1 * token_s)


class Station:
    """A service: its backlog, and which model it was last asked for."""

    __slots__ = ("asked_at", "backlog", "last", "ours", "places", "shared")

    def __init__(self, slots: int) -> None:
        self.backlog = Backlog(slots)
        self.places: list[Place] = []
        self.last: Place | None = None
        self.shared = False  # by several models, so that one may have to make room for another
        self.asked_at = float("-inf")
        self.ours = 1.0  # share of the open requests there that are this worker's, lately


class Place:
    """A model at a service: its speeds and its cache."""

    __slots__ = ("cache", "load", "model", "reading", "service_id", "station", "told", "writing")

    def __init__(self, service_id: str, model: Model, station: Station, cache_slots: int, load_s: float) -> None:
        self.service_id = service_id
        self.model = model
        self.station = station
        self.cache = PlaceCache(self, cache_slots)
        self.reading = Line(0.02, 0.0002, _PROMPT, rigid=True)
        self.writing = Line(0.01, 0.001, 3.0)
        self.load = load_s
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


class Ticket:
    """One attempt: give it back to the ledger when it begins to be answered, and when it is over."""

    __slots__ = ("alone", "ask", "kind", "place", "sequence", "streams", "work")

    def __init__(self, place: Place, ask: Ask, work: Work, sequence: Sequence, streams: float, *, alone: bool) -> None:
        self.place = place
        self.ask = ask
        self.work = work
        self.sequence = sequence
        self.streams = streams
        self.alone = alone  # nobody else's request was there: what is seen can be explained
        self.kind = kind_of(ask.prefix)


class Ledger:
    """One for each gateway worker."""

    def __init__(self) -> None:
        self.warmth = Warmth()
        self._models: dict[str, Model] = {}
        self._stations: dict[str, Station] = {}
        self._places: dict[tuple[str, str], Place] = {}
        self.fields: dict[int, object] = {}  # what strategies remember between decisions, by their own keys
        self.freed: deque[Place] = deque(maxlen=8)  # where requests ended last
        self._ended: dict[int, float] = {}  # when the answer to a prompt ended, by the prompt's key, oldest first

    def place(self, candidate: Candidate) -> Place:
        """What is known of the candidate; made when it is first met."""
        key = (candidate.service.service_id, candidate.asset.asset_id)
        return self._places.get(key) or self._meet(key, candidate)

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
        model.places.append(place)
        place.tell(service.observed)
        return place

    def remember(self, key: int, field: object) -> None:
        """Keep something for the next decision; the oldest is forgotten."""
        self.fields[key] = field
        if len(self.fields) > _MOST_FIELDS:
            del self.fields[next(iter(self.fields))]

    def reshape(self, known: Collection[str]) -> None:
        """The cluster changed: forget what fits its old shape, and services that are neither known nor busy."""
        self.fields.clear()
        gone = [name for name, station in self._stations.items() if name not in known and not station.backlog.works]
        for name in gone:
            for place in self._stations.pop(name).places:
                self.warmth.clear(place.cache)
                place.model.places.remove(place)
                del self._places[name, place.model.asset_id]

    # --- what is going on --------------------------------------------------------------------------

    def observe(self, observed: Mapping[str, Observed], reported: Mapping[str, int]) -> None:
        """New measurements of the cluster came. `reported` is what this worker last reported to have open."""
        if not self._stations:
            return
        for service_id, seen in observed.items():
            station = self._stations.get(service_id)
            if station is None:
                continue
            backlog = station.backlog
            if seen.slots:
                backlog.slots = seen.slots
            for place in station.places:
                if not place.reading.samples:
                    place.tell(seen)
            backlog.others = max((seen.in_flight or 0) - reported.get(service_id, 0), 0)
            if depth := backlog.depth:
                station.ours += 0.01 * (len(backlog.works) / depth - station.ours)
            slots = max(round(backlog.slots * station.ours), 1)
            for place in station.places:
                if place.cache.slots:
                    place.cache.slots = slots  # the others' requests leave their prompts in the rest

    def begin(self, candidate: Candidate, ask: Ask) -> Ticket:
        """The request is sent to the candidate."""
        place = self.place(candidate)
        self._goes_on(place.model, ask)
        backlog = place.station.backlog
        tokens, answer = self.expect(place.model, ask)
        matched, held = match(self.warmth.levels(ask.prefix), place)
        warm = 0.0 if held is None else warm_tokens(ask, tokens, matched, held)
        fresh = tokens - warm
        place.model.live += 0.05 * (self.regret(place, ask, matched, held)[0] - place.model.live)
        load_s = 0.0 if self.warm(place, candidate, ask.now) else place.load
        if load_s:
            self.warmth.clear(place.cache)
        work = Work(place, place, ask.now, fresh, answer, load_s)
        streams = min(backlog.depth + 1, backlog.slots)
        ticket = Ticket(
            place, ask, work, self.warmth.begin(place.cache, ask.prefix, ask.now), streams, alone=backlog.others == 0
        )
        place.station.last, place.station.asked_at = place, ask.now
        backlog.begin(work, ask.now)
        return ticket

    def _goes_on(self, model: Model, ask: Ask) -> None:
        """If this is the next turn of a conversation, learn how long it paused."""
        for key in reversed(ask.prefix.keys):
            ended_at = self._ended.pop(key, None)
            if ended_at is not None:
                model.returns.returned(ask.now - ended_at)
                return

    def first(self, ticket: Ticket, now: float) -> None:
        """The first token is there."""
        ticket.place.station.backlog.first(ticket.work, now)

    def end(self, ticket: Ticket, now: float, outcome: Outcome) -> None:
        """The request is over."""
        place, work = ticket.place, ticket.work
        backlog = place.station.backlog
        if outcome.ok:
            self._learn(ticket, now, outcome)
        backlog.end(work, now)
        self.freed.append(place)
        if not outcome.ok:
            self.warmth.drop(ticket.sequence)
            return
        tokens = outcome.prompt_tokens or 0
        place.model.returns.ended()
        self._ended[ticket.sequence.end] = now
        if len(self._ended) > _MOST_ENDED:
            del self._ended[next(iter(self._ended))]
        self.warmth.end(ticket.sequence, now, tokens=tokens, answer=outcome.answer_tokens or 0)

    def _learn(self, ticket: Ticket, now: float, outcome: Outcome) -> None:
        place, work = ticket.place, ticket.work
        fresh = self._count(ticket, outcome)
        if outcome.answer_tokens:
            place.model.lengths.learn(ticket.kind, outcome.answer_tokens)
        if work.first_at is None:
            return
        self._time_reading(ticket, fresh, work.first_at)
        if outcome.answer_tokens and outcome.answer_tokens > 1 and now > work.first_at:
            backlog = place.station.backlog
            streams = (ticket.streams + min(backlog.depth, backlog.slots)) / 2
            place.writing.learn(streams - 1.0, (now - work.first_at) / (outcome.answer_tokens - 1))

    def _count(self, ticket: Ticket, outcome: Outcome) -> float:
        """Tokens that had to be read, as far as is known; and what that says about bytes and about the mirror."""
        fresh = ticket.work.fresh
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
    def _time_reading(ticket: Ticket, fresh: float, first_at: float) -> None:
        place, work = ticket.place, ticket.work
        took = first_at - (work.sent_at if work.began_at is None else work.began_at)
        if work.load_s and took > place.reading_s(fresh):
            place.load += 0.5 * (took - place.reading_s(fresh) - place.load)
        elif ticket.alone or place.reading.samples < 3:
            place.reading.learn(fresh, took)
            if place.reading.samples == 1:
                place.model.spread()

    # --- what is to be expected --------------------------------------------------------------------

    def expect(self, model: Model, ask: Ask) -> tuple[float, float]:
        """Tokens of the prompt, and of the answer."""
        return ask.prefix.size / model.bytes_per_token, model.lengths.expected(kind_of(ask.prefix), ask.max_tokens)

    def regret(self, place: Place, ask: Ask, matched: int, held: Sequence | None) -> tuple[float, float]:
        """What a prompt would throw out of the place's cache: the chance that it is asked for again, its tokens."""
        cache, model = place.cache, place.model
        victim = self.warmth.victim(cache, ask.prefix, matched, held)
        if victim is None:
            return 0.0, 0.0
        if not victim.tokens:
            return model.returns.likely(0.0, cache.life_s), victim.prefix.size / model.bytes_per_token
        tokens = float(victim.tokens + victim.answer)
        if victim is held:
            tokens *= 1.0 - matched / held.prefix.size
        return model.returns.likely(ask.now - victim.ended_at, cache.life_s), tokens

    def warm(self, place: Place, candidate: Candidate, now: float) -> bool:
        """Whether the model is loaded there, or will be by the time that it is this request's turn."""
        station = place.station
        if station.last is not None and (station.backlog.works or now - station.asked_at < _MEMORY_S):
            return station.last is place or (
                candidate.asset.loaded is not False and not any(work.load_s for work in station.backlog.works)
            )
        return candidate.asset.loaded is not False


def warm_tokens(ask: Ask, tokens: float, matched: int, held: Sequence) -> float:
    """Tokens of a prompt of `tokens` that a sequence should hold which shares `matched` bytes with it."""
    warm = tokens * matched / ask.prefix.size
    if held.tokens and matched == offset(held.end):
        warm += held.answer
    return min(warm, tokens - 1.0)


def kind_of(prefix: Prefix) -> int:
    """The class of a prompt: how it begins."""
    return prefix.keys[0] if prefix.keys else 0
