"""`predicted`, and the ledger that it reads."""

import collections

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geniehive.config import ScoredConfig
from geniehive.resources import Operation
from geniehive.routing import scored
from geniehive.routing.affinity import fingerprint
from geniehive.routing.ledger import Ask, Ledger, Outcome
from geniehive.routing.predict import Prediction, costs, predict
from geniehive.routing.resolve import resolve
from geniehive.routing.strategy import STRATEGIES, _field, order
from geniehive.routing.warmth import match
from tests.geniehive.routing.fleet import Asset, Observed, service, table

WEIGHTS = ScoredConfig(idle=1.5, speed=0.5, warm=2)


def prompt(*texts):
    return fingerprint(b"[" + b",".join(b'{"role":"user","content":"%s"}' % text for text in texts) + b"]")


class Clients:
    """Requests to a cluster whose services read at known speeds, one request at a time."""

    def __init__(self, fleet, read, write=None):
        self.table = fleet
        self.found = resolve(fleet, "qwen", Operation.CHAT)
        self.ledger = Ledger()
        self.now = 0.0
        self.turn = 0
        self.read, self.write = read, write or {}

    def choose(self, prefix, **facts):
        self.turn += 1
        ask = Ask(self.now, prefix, **facts)
        return ask, order(self.table, self.found, {}, self.turn, ask=ask, ledger=self.ledger, limit=4)[0]

    def send(self, prefix, tokens=1000, cached=0, answer=20):
        ask, chosen = self.choose(prefix)
        name = chosen.service.service_id
        ticket = self.ledger.begin(chosen, ask)
        self.now += (tokens - cached) / self.read[name]
        self.ledger.first(ticket, self.now)
        self.now += answer / self.write.get(name, 100.0)
        self.ledger.end(ticket, self.now, Outcome(prompt_tokens=tokens, cached_tokens=cached, answer_tokens=answer))
        return name


def unequal(**fields):
    return table(service("fast", **fields), service("slow", **fields), strategy="predicted")


def test_the_faster_engine_is_found_and_used():
    clients = Clients(unequal(), {"fast": 1000.0, "slow": 50.0})
    sent = collections.Counter(clients.send(prompt(b"%d" % n * 2000)) for n in range(40))
    assert sent["fast"] >= 36
    assert sent["slow"] >= 1 or sent["fast"] == 40


def test_a_conversation_goes_back_to_where_it_is_warm():
    clients = Clients(table(service("a"), service("b"), strategy="predicted"), {"a": 500.0, "b": 500.0})
    for n in range(6):
        clients.send(prompt(b"%d" % n * 4000))
    first = clients.send(prompt(b"x" * 4000))
    for n in range(3):
        clients.send(prompt(b"y%d" % n * 100), tokens=50)
    assert clients.choose(prompt(b"x" * 4000, b"hm", b"more"))[1].service.service_id == first


def test_a_warm_engine_with_a_long_queue_is_left():
    clients = Clients(table(service("a"), service("b"), strategy="predicted"), {"a": 500.0, "b": 500.0})
    for n in range(8):
        clients.send(prompt(b"%d" % n * 4000))
    warm = clients.send(prompt(b"x" * 4000))
    for n in range(12):
        ask = Ask(clients.now, prompt(b"z%d" % n * 2000))
        clients.ledger.begin(next(c for c in clients.found.candidates if c.service.service_id == warm), ask)
    assert clients.choose(prompt(b"x" * 4000, b"hm", b"more"))[1].service.service_id != warm


def test_a_cold_model_waits_for_its_load_and_is_taken_when_that_is_shorter():
    big = Asset(asset_id="qwen", loaded=False, size_bytes=2_000_000_000)
    fleet = table(service("warm"), service("cold", assets=(big,)), strategy="predicted")
    clients = Clients(fleet, {"warm": 500.0, "cold": 500.0})
    assert clients.choose(prompt(b"a" * 400))[1].service.service_id == "warm"
    for n in range(40):
        warm = next(c for c in clients.found.candidates if c.service.service_id == "warm")
        clients.ledger.begin(warm, Ask(clients.now, prompt(b"%d" % n * 4000)))
    assert clients.choose(prompt(b"a" * 400))[1].service.service_id == "cold"


def test_what_the_cluster_told_of_speeds_counts_until_one_knows_better():
    fleet = table(
        service("fast", observed=Observed(tokens_per_second=90.0, prompt_tokens_per_second=3000.0)),
        service("slow", observed=Observed(tokens_per_second=5.0, prompt_tokens_per_second=60.0)),
        strategy="predicted",
    )
    clients = Clients(fleet, {})
    assert {clients.choose(prompt(b"a" * 4000))[1].service.service_id for _ in range(4)} == {"fast"}


def test_a_failed_attempt_teaches_nothing_and_leaves_nothing_open():
    clients = Clients(table(service("a"), service("b"), strategy="predicted"), {})
    ask, chosen = clients.choose(prompt(b"a" * 4000))
    ticket = clients.ledger.begin(chosen, ask)
    clients.ledger.end(ticket, 9.0, Outcome(ok=False))
    place = clients.ledger.place(chosen)
    assert place.reading.samples == 0
    assert place.station.backlog.depth == 0
    assert match(clients.ledger.warmth.levels(ask.prefix), place) == (0, None)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(1, 9), st.booleans()), max_size=40))
def test_the_quick_way_agrees_with_the_one_in_parts(steps):
    fleet = table(
        *(service(name, protocol=kind) for name, kind in zip("abc", ("ollama", "vllm", "llamacpp"), strict=True)),
        strategy="predicted",
    )
    clients = Clients(fleet, {})
    opened = []
    for talk, size, ends in steps:
        clients.now += 0.5
        ask, chosen = clients.choose(prompt(b"%d" % talk * 900, b"more" * size))
        opened.append(clients.ledger.begin(chosen, ask))
        if ends:
            done = opened.pop(0)
            clients.ledger.first(done, clients.now)
            clients.ledger.end(done, clients.now, Outcome(prompt_tokens=500, cached_tokens=20, answer_tokens=9))
    ask = Ask(clients.now, prompt(b"1" * 900, b"more" * 3))
    (group,) = _field(clients.ledger, clients.found, clients.table).groups
    levels = clients.ledger.warmth.levels(ask.prefix)
    quick, parts = costs(group, range(3), clients.ledger, ask, levels)
    assert quick == pytest.approx([predict(clients.ledger, each, ask).cost for each in group.candidates])
    assert [Prediction(*each).cost for each in parts] == pytest.approx(quick)
    assert all(cost > 0 for cost in quick)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_among_a_thousand_the_idle_one_is_found_without_looking_at_all(strategy):
    fleet = table(
        *(service(f"s{n:04}", observed=Observed(in_flight=0 if n == 700 else 9, slots=2)) for n in range(1000)),
        strategy=strategy,
    )
    found = resolve(fleet, "qwen")
    ledger = Ledger()
    counts = {f"s{n:04}": 9 for n in range(1000) if n != 700}
    chosen = [order(fleet, found, counts, n, ask=Ask(0.0), ledger=ledger, limit=4) for n in range(200)]
    ledger.observe(fleet.observed, {})
    chosen += [order(fleet, found, counts, n, ask=Ask(0.0), ledger=ledger, limit=4) for n in range(200)]
    assert all(len(each) == 4 for each in chosen)
    if strategy == "round_robin":
        assert len({each[0].service.service_id for each in chosen}) > 40
    else:
        assert chosen[-1][0].service.service_id == "s0700"


def test_every_candidate_is_there_where_no_limit_is_set():
    fleet = unequal()
    found = resolve(fleet, "qwen")
    assert len(order(fleet, found, {}, 0)) == 2


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 9), st.integers(1, 4), st.none() | st.floats(1, 99)), min_size=2, max_size=5))
def test_the_score_of_the_request_path_is_the_one_of_its_signals(seen):
    fleet = table(
        *(
            service(f"s{n}", observed=Observed(in_flight=depth, slots=slots, tokens_per_second=speed))
            for n, (depth, slots, speed) in enumerate(seen)
        )
    )
    ledger, found = Ledger(), resolve(fleet, "qwen")
    (group,) = _field(ledger, found, fleet).groups
    quick, parts = scored.costs(group, range(len(seen)), fleet.observed, {}, Ask(0.0), [], WEIGHTS)
    fastest = max(speed or 0.0 for _, _, speed in seen)
    for number, each in enumerate(group.candidates):
        told = fleet.observed[each.service.service_id]
        signals = scored.signals(each, told, 0, told.slots, fastest, 0.0)
        assert scored.told(parts[number]) == signals
        whole = signals.score(WEIGHTS)
        assert -quick[number] == pytest.approx(whole)
        assert 0 < whole <= 1
