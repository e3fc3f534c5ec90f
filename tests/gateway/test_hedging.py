"""A second service is asked where an answer is late: the first to begin wins, and nothing is left of the other."""

from __future__ import annotations

import asyncio
import time
from types import SimpleNamespace

import httpx
import msgspec
import pytest

from gateway.hedging import Race
from gateway.inflight import InFlight
from gateway.retry_budget import RetryBudget
from gateway.verdict import AttemptFailed
from geniehive.errors import UpstreamTimeout
from tests.gateway.harness import gateway, role, service, until
from tests.gateway.misbehaving import DONE, HANG, KEEP, STREAM_HEAD, answer, chunk, completion, delta, stream, upstream

CHAT = "/v1/chat/completions"
ROLES = (role("r", assets=["m"], hedge=True), role("plain", assets=["m"]))
GOOD = (*stream("good"), KEEP)
BAD = (answer(502, {"error": "boom"}), KEEP)
LIMITS = {"roles": ROLES, "first_byte_timeout_s": 2}


def seen_to_take(gw, seconds, service_id="h1/s", count=30):
    """As if the service had answered so often, within about so many seconds."""
    now = time.monotonic()
    for each in range(count):
        gw.in_flight.finished(service_id, now - seconds * each / count, now, ok=True, tokens=None)


async def ask(gw, *, streamed=True, model="r"):
    body = {"model": model, "messages": [{"role": "user", "content": "hi"}], "stream": streamed}
    async with httpx.AsyncClient(timeout=10) as http:
        return await http.post(gw.url + CHAT, json=body)


async def receipt(gw, found):
    async with httpx.AsyncClient(timeout=10) as http:
        return (await http.get(f"{gw.url}/v1/cluster/requests/{found.headers['x-request-id']}")).json()


@pytest.mark.parametrize("late", [(HANG,), (STREAM_HEAD, HANG)], ids=["before headers", "before content"])
async def test_a_late_answer_is_asked_of_a_second_service_and_the_loser_is_cancelled(late):
    async with upstream(late) as one, upstream(GOOD) as two, gateway(one.url, two.url, **LIMITS) as gw:
        seen_to_take(gw, 0.1)
        found = await ask(gw)
        assert found.content.endswith(DONE)
        assert found.headers["x-geniehive-service"] == "h2/s"
        assert found.headers["x-geniehive-attempts"] == "2"
        async with asyncio.timeout(20):
            await one.gone.wait()
        assert gw.in_flight.counts == {}
        told = await receipt(gw, found)
        assert told["service_id"] == "h2/s"
        assert told["outcome"] == "ok"
        lost, won = told["attempts"]
        assert (lost["service_id"], lost["outcome"]) == ("h1/s", "cancelled")
        assert lost["error"] == "another service was faster"
        assert "a hedge: nothing had come within 0." in won["note"]
        assert won["started_ms"] >= 90
        assert not gw.circuits.known


async def test_the_loser_is_gone_before_the_winner_has_finished():
    long = (STREAM_HEAD, chunk(delta("a")), HANG)
    async with upstream((HANG,)) as one, upstream(long) as two, gateway(one.url, two.url, **LIMITS) as gw:
        seen_to_take(gw, 0.1)
        running = asyncio.create_task(ask(gw))
        async with asyncio.timeout(20):
            await one.gone.wait()
        await until(lambda: gw.in_flight.counts == {"h2/s": 1})
        assert not running.done()
        running.cancel()
        async with asyncio.timeout(20):
            await two.gone.wait()
        await until(lambda: gw.in_flight.counts == {})


async def test_the_first_may_still_win():
    async with (
        upstream((HANG,)) as two,
        upstream((two.arrived, *stream("slow"), KEEP)) as one,
        gateway(one.url, two.url, **LIMITS) as gw,
    ):
        seen_to_take(gw, 0.1)
        found = await ask(gw)
        assert found.headers["x-geniehive-service"] == "h1/s"
        assert found.headers["x-geniehive-attempts"] == "2"
        assert b"slow" in found.content
        async with asyncio.timeout(20):
            await two.gone.wait()
        assert (await receipt(gw, found))["service_id"] == "h1/s"
        assert gw.in_flight.counts == {}


async def test_whole_answers_are_hedged_by_how_long_whole_answers_take():
    good = (completion("good"), KEEP)
    async with upstream((HANG,)) as one, upstream(good) as two, gateway(one.url, two.url, **LIMITS) as gw:
        seen_to_take(gw, 0.1)
        found = await ask(gw, streamed=False)
        assert found.json()["choices"][0]["message"]["content"] == "good"
        assert found.headers["x-geniehive-attempts"] == "2"


NOT = {
    "the role does not want it": ("plain", 30, 0.1),
    "too few answers were seen": ("r", 19, 0.1),
    "it is not late": ("r", 30, 1.9),
}


@pytest.mark.parametrize(("model", "count", "usual"), NOT.values(), ids=NOT)
async def test_nobody_else_is_asked_where(model, count, usual):
    slow = (0.3, *stream("slow"), KEEP)
    async with upstream(slow) as one, upstream(GOOD) as two, gateway(one.url, two.url, **LIMITS) as gw:
        seen_to_take(gw, usual, count=count)
        found = await ask(gw, model=model)
        assert b"slow" in found.content
        assert two.seen == []


async def test_nobody_else_is_asked_where_the_budget_is_spent(monkeypatch):
    monkeypatch.setattr(RetryBudget, "spend", lambda _self, _now: False)
    slow = (0.3, *stream("slow"), KEEP)
    async with upstream(slow) as one, upstream(GOOD) as two, gateway(one.url, two.url, **LIMITS) as gw:
        seen_to_take(gw, 0.1)
        assert b"slow" in (await ask(gw)).content
        assert two.seen == []


async def test_where_one_fails_the_other_goes_on_and_where_both_fail_a_third_is_asked():
    async with (
        upstream(BAD) as two,
        upstream((two.arrived, 0.3, *stream("slow"), KEEP)) as one,
        gateway(one.url, two.url, **LIMITS) as gw,
    ):
        seen_to_take(gw, 0.1)
        found = await ask(gw)
        assert b"slow" in found.content
        assert [each["outcome"] for each in (await receipt(gw, found))["attempts"]] == ["failed", "ok"]
    async with (
        upstream(BAD) as two,
        upstream((two.arrived, 0.1, *BAD)) as one,
        upstream(GOOD) as three,
        gateway(one.url, two.url, three.url, **LIMITS) as gw,
    ):
        seen_to_take(gw, 0.1)
        found = await ask(gw)
        assert found.headers["x-geniehive-service"] == "h3/s"
        assert found.headers["x-geniehive-attempts"] == "3"
        assert gw.in_flight.counts == {}


async def test_where_nothing_comes_from_either_both_are_too_late():
    async with upstream((HANG,)) as one, upstream((HANG,)) as two, gateway(one.url, two.url, **LIMITS) as gw:
        seen_to_take(gw, 0.1)
        found = await ask(gw)
        assert found.status_code == 504
        assert found.headers["x-geniehive-attempts"] == "2"
        async with asyncio.timeout(20):
            await one.gone.wait()
            await two.gone.wait()
        assert gw.in_flight.counts == {}


async def test_a_client_that_leaves_ends_both():
    async with upstream((HANG,)) as one, upstream((HANG,)) as two, gateway(one.url, two.url, roles=ROLES) as gw:
        seen_to_take(gw, 0.1)
        running = asyncio.create_task(ask(gw))
        await two.arrived.wait()
        assert gw.in_flight.counts == {"h1/s": 1, "h2/s": 1}
        running.cancel()
        async with asyncio.timeout(20):
            await one.gone.wait()
            await two.gone.wait()
        await until(lambda: gw.in_flight.counts == {})
        await until(lambda: gw.front.open_requests == 0)


async def test_a_shutdown_ends_both():
    async with upstream((HANG,)) as one, upstream((HANG,)) as two, gateway(one.url, two.url, roles=ROLES) as gw:
        seen_to_take(gw, 0.1)
        running = asyncio.create_task(ask(gw))
        await two.arrived.wait()
        await gw.front.drain(0.1)
        assert (await running).status_code == 503
        assert gw.in_flight.counts == {}


async def test_what_is_the_requests_fault_ends_the_race():
    wrong = answer(400, {"error": {"message": "wrong"}})
    async with (
        upstream((HANG,)) as two,
        upstream((two.arrived, wrong, KEEP)) as one,
        gateway(one.url, two.url, **LIMITS) as gw,
    ):
        seen_to_take(gw, 0.1)
        found = await ask(gw)
        assert found.status_code == 400
        assert found.json()["error"]["message"] == "wrong"
        assert (await receipt(gw, found))["service_id"] == "h1/s"
        async with asyncio.timeout(20):
            await two.gone.wait()
        assert gw.in_flight.counts == {}


async def test_a_full_service_is_not_hedged_to():
    slow = (0.3, *stream("slow"), KEEP)
    async with upstream(slow) as one, upstream(GOOD) as two:
        full = msgspec.structs.replace(service(2, two.url), max_concurrency=1)
        async with gateway(one.url, full, **LIMITS) as gw:
            seen_to_take(gw, 0.1)
            held = gw.in_flight.guard("h2/s")
            assert b"slow" in (await ask(gw)).content
            assert two.seen == []
            held.close()


def test_late_is_later_than_nineteen_of_twenty():
    in_flight = InFlight(lambda: 100.0)
    assert in_flight.late_s("a", streamed=True) is None
    for each in range(1, 20):
        in_flight.finished("a", 100.0 - each, 100.0, ok=True, tokens=None)
    assert in_flight.late_s("a", streamed=True) is None
    in_flight.finished("a", 80.0, None, ok=True, tokens=None)
    assert in_flight.late_s("a", streamed=True) is None
    assert in_flight.late_s("a", streamed=False) == 19.0
    in_flight.finished("a", 0.0, 100.0, ok=True, tokens=None)
    assert in_flight.late_s("a", streamed=True) == 19.0


async def test_an_answer_that_begins_in_the_moment_of_the_deadline_is_too_late_and_no_crash():
    class Moment:
        """A deadline that ends when the answer has begun, before anybody could look."""

        def __enter__(self):
            return self

        def __exit__(self, *_):
            raise TimeoutError

    async def ask_of(_plan, _tried):
        raise AssertionError

    attempt = SimpleNamespace(tried=SimpleNamespace(began=0.0, until=0.0, candidate=None), close=lambda: None)
    exchange = SimpleNamespace(
        interruption=None, now=lambda: 1.0, deadline=lambda *_: Moment(), upstream_seconds=0.0, tried=[]
    )
    opening = SimpleNamespace(ask=ask_of, patience=lambda *_: (1.0, None), too_late=lambda *_: AttemptFailed(LATE))
    race = Race(exchange, None, opening, attempt, lambda: None)
    race._compete = lambda tasks, _delay: begun(race, tasks, attempt)
    assert await race.run(1.0) is None
    assert [each.error.error for each in race.lost] == [LATE]


LATE = UpstreamTimeout("late")


async def begun(race, tasks, attempt):
    """The leg is done, and the race did not get to hear of it."""
    leg = tasks.create_task(asyncio.sleep(0))
    race._legs[leg] = attempt
    await leg
    raise TimeoutError


async def test_a_client_that_leaves_while_the_loser_ends_frees_the_winner_too(monkeypatch):
    async def leave(*_):
        raise asyncio.CancelledError

    async with (
        upstream((HANG,)) as one,
        upstream((STREAM_HEAD, chunk(delta("x")), HANG)) as two,
        gateway(one.url, two.url, **LIMITS) as gw,
    ):
        seen_to_take(gw, 0.1)
        monkeypatch.setattr(asyncio.TaskGroup, "__aexit__", leave)
        with pytest.raises(httpx.TransportError):
            await ask(gw)
        monkeypatch.undo()
        async with asyncio.timeout(20):
            await two.gone.wait()
        await until(lambda: gw.in_flight.counts == {})
