"""Strategies at work in a gateway: what it learns from its requests decides where the next ones go."""

from __future__ import annotations

import asyncio
import collections
import contextlib

import httpx
import pytest

from geniehive.resources import Operation
from geniehive.routing.resolve import resolve
from geniehive.routing.warmth import match
from tests.gateway.harness import gateway, role, until
from tests.gateway.misbehaving import HANG, KEEP, LAST_CHUNK, STREAM_HEAD, answer, chunk, completion, delta, upstream

CHAT = "/v1/chat/completions"
LEARNING = ["scored", "predicted"]


def user(text):
    return {"role": "user", "content": text}


def conversation(number):
    return [user(f"conversation {number}, at length. " * 100)]


def read_slowly():
    """A plain answer of an engine that takes 100 ms for a thousand tokens, as its usage tells."""
    usage = {"prompt_tokens": 1000, "completion_tokens": 2}
    choice = {"index": 0, "message": {"role": "assistant", "content": "well"}, "finish_reason": "stop"}
    return (0.1, answer(body={"object": "chat.completion", "choices": [choice], "usage": usage}), KEEP)


def told(wait_s):
    """A short stream that begins after so many seconds."""
    return (STREAM_HEAD, wait_s, chunk(delta("well")), chunk(delta(finish="stop")), LAST_CHUNK, KEEP)


async def ask(gw, http, messages, *, model="m", stream=False):
    found = await http.post(gw.url + CHAT, json={"model": model, "messages": messages, "stream": stream})
    assert found.status_code == 200
    return found.headers["x-geniehive-service"]


def places(gw):
    """What the ledger knows of each service, by its id."""
    found = resolve(gw.view.table, "m", Operation.CHAT)
    return {each.service.service_id: gw.in_flight.ledger.place(each) for each in found.candidates}


@pytest.mark.parametrize("model", ["m", "helper"])
@pytest.mark.parametrize("strategy", LEARNING)
async def test_a_conversation_goes_back_to_the_service_that_has_its_beginning_warm(strategy, model):
    script, roles = read_slowly(), [role("helper", assets=["m"])]
    async with (
        upstream(script) as a,
        upstream(script) as b,
        gateway(a.url, b.url, strategy=strategy, roles=roles) as gw,
        httpx.AsyncClient(timeout=10) as http,
    ):
        first = [await ask(gw, http, conversation(n), model=model) for n in range(4)]  # as many as one has slots
        if strategy == "scored":  # the forecast may find that one of two equals is enough
            assert set(first) == {"h1/s", "h2/s"}
        for n in (1, 0, 3, 2):  # out of step with the turns that spread equals
            more = [*conversation(n), {"role": "assistant", "content": "well"}, user("and then?")]
            assert await ask(gw, http, more, model=model) == first[n]


@pytest.mark.parametrize("strategy", LEARNING)
async def test_of_two_engines_the_faster_gets_more_work(strategy):
    async with (
        upstream(told(0.005)) as fast,
        upstream(told(0.5)) as slow,
        gateway(fast.url, slow.url, strategy=strategy) as gw,
        httpx.AsyncClient(timeout=10) as http,
    ):
        sent = collections.Counter()

        async def client(name):
            for n in range(8):
                sent[await ask(gw, http, [user(f"{name} {n}")], stream=True)] += 1

        await asyncio.gather(client("x"), client("y"))
        assert sent["h1/s"] > 2 * sent["h2/s"]


async def test_an_engine_that_was_slow_is_left_alone_as_long_as_the_fast_one_is_idle():
    async with (
        upstream(told(0.005)) as fast,
        upstream(told(0.4)) as slow,
        gateway(fast.url, slow.url, strategy="predicted") as gw,
        httpx.AsyncClient(timeout=10) as http,
    ):
        sent = [await ask(gw, http, [user(f"question {n} " * 200)], stream=True) for n in range(12)]
        assert sent.count("h2/s") <= 2
        assert len(slow.seen) == sent.count("h2/s")


@pytest.mark.parametrize("script", [(answer(500), KEEP), (STREAM_HEAD, chunk(delta("w")), HANG), (HANG,)])
async def test_a_request_that_fails_or_is_given_up_leaves_nothing_open_and_nothing_warm(script):
    async with (
        upstream(script) as a,
        upstream(script) as b,
        gateway(a.url, b.url, strategy="predicted") as gw,
        httpx.AsyncClient(timeout=0.3) as http,
    ):
        body = {"model": "m", "messages": conversation(1), "stream": True}
        with contextlib.suppress(httpx.TimeoutException):
            await http.post(gw.url + CHAT, json=body)
        await until(lambda: gw.in_flight.total == 0)
        for place in places(gw).values():
            assert place.station.backlog.depth == 0
            assert place.reading.samples == 0
            assert not place.cache.sequences


async def test_what_was_answered_is_warm_where_it_was_answered_and_nowhere_else():
    script = (completion("well"), KEEP)
    async with (
        upstream(script) as a,
        upstream(script) as b,
        gateway(a.url, b.url, strategy="scored") as gw,
        httpx.AsyncClient(timeout=10) as http,
    ):
        chosen = await ask(gw, http, conversation(1))
        for name, place in places(gw).items():
            kept = list(place.cache.sequences)
            assert [each.tokens for each in kept] == ([3] if name == chosen else [])
            if kept:
                assert match(gw.in_flight.ledger.warmth.levels(kept[0].prefix), place)[0] == kept[0].prefix.size


@pytest.mark.parametrize("strategy", ["round_robin", "least_loaded"])
async def test_strategies_that_learn_nothing_keep_nothing(strategy):
    script = (completion("well"), KEEP)
    async with (
        upstream(script) as a,
        upstream(script) as b,
        gateway(a.url, b.url, strategy=strategy) as gw,
        httpx.AsyncClient(timeout=10) as http,
    ):
        await ask(gw, http, conversation(1))
        assert all(not place.cache.sequences for place in places(gw).values())
        assert all(place.station.asked_at == float("-inf") for place in places(gw).values())


@pytest.mark.parametrize(("strategy", "signal"), [("scored", "warm"), ("predicted", "expected_ttft_s")])
async def test_the_receipt_tells_score_and_signals(strategy, signal):
    script = read_slowly()
    async with (
        upstream(script) as a,
        upstream(script) as b,
        gateway(a.url, b.url, strategy=strategy) as gw,
        httpx.AsyncClient(timeout=10) as http,
    ):
        await ask(gw, http, conversation(1))
        body = {"model": "m", "messages": [*conversation(1), user("more")]}
        second = await http.post(gw.url + CHAT, json=body)
        receipt = (await http.get(f"{gw.url}/v1/cluster/requests/{second.headers['x-request-id']}")).json()
        best, other = receipt["candidates"]
        assert best["service_id"] == receipt["service_id"]
        assert best["score"] > other["score"]
        assert signal in best["signals"]
        assert "has the beginning of this prompt in its cache" in best["reasons"]
        assert "has the beginning of this prompt in its cache" not in other["reasons"]
