"""Services that fail are kept out and come back; engines that load are waited for; long prompts find room."""

from __future__ import annotations

import asyncio
import time

import httpx
import msgspec
import pytest

from geniehive.config import EjectionConfig
from geniehive.resources import Asset, Health, HealthStatus
from tests.gateway.harness import gateway, role, service, snapshot, until
from tests.gateway.misbehaving import (
    DONE,
    HANG,
    KEEP,
    RESET,
    STREAM_HEAD,
    answer,
    chunk,
    completion,
    delta,
    stream,
    upstream,
)

ASK = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
CHAT = "/v1/chat/completions"
BAD = (answer(502, {"error": "boom"}), KEEP)
GOOD = (completion("good"), KEEP)
SOON = {"ejection": EjectionConfig(failures=2, first_s=0.3, longest_s=0.6)}
LOADING = (answer(503, {"error": {"message": "Loading model", "type": "unavailable_error", "code": 503}}), KEEP)


async def ask(gw, *, streamed=False, **more):
    async with httpx.AsyncClient(timeout=10) as http:
        return await http.post(gw.url + CHAT, json={**ASK, "stream": streamed, **more})


async def explain(gw, found):
    async with httpx.AsyncClient(timeout=10) as http:
        return (await http.get(f"{gw.url}/v1/cluster/requests/{found.headers['x-request-id']}")).json()


async def metrics(gw):
    async with httpx.AsyncClient(timeout=10) as http:
        return (await http.get(f"{gw.url}/metrics")).text


async def test_a_failing_service_is_kept_out_and_gets_its_traffic_back_once_it_is_well():
    limits = {"ejection": EjectionConfig(failures=2, first_s=60, longest_s=60)}
    async with upstream(BAD) as bad, upstream(GOOD) as good, gateway(bad.url, good.url, **limits) as gw:
        for _ in range(8):
            assert (await ask(gw)).status_code == 200
        assert len(bad.seen) == 2
        found = await ask(gw)
        text = await metrics(gw)
        assert found.headers["x-geniehive-attempts"] == "1"
        seen = await explain(gw, found)
        kept = next(each for each in seen["candidates"] if each["service_id"] == "h1/s")
        assert any("ejected for another" in reason for reason in kept["reasons"])
        assert seen["candidates"][-1] == kept
        assert 'geniehive_gateway_kept_back{service="h1/s",state="ejected"} 1.0' in text
        assert 'geniehive_gateway_ejections_total{service="h1/s"} 1.0' in text
        bad.scripts = [GOOD]
        gw.circuits.known["h1/s"].until = 0.0  # its time is over
        for _ in range(6):
            assert (await ask(gw)).headers["x-geniehive-attempts"] == "1"
        assert len(bad.seen) == 5
        assert "kept_back{" not in await metrics(gw)


async def test_a_trial_that_fails_costs_the_client_nothing_and_the_service_a_longer_ejection():
    async with upstream(BAD) as bad, upstream(GOOD) as good, gateway(bad.url, good.url, **SOON) as gw:
        told = []
        async with asyncio.timeout(20):
            while len(bad.seen) < 4:
                found = await ask(gw)
                assert found.status_code == 200
                if len(bad.seen) > 2 and found.headers["x-geniehive-attempts"] == "2":
                    told.append(await explain(gw, found))
                await asyncio.sleep(0.02)
        assert bad.seen[3].at - bad.seen[2].at > 0.5
        assert [each["attempts"][0]["note"] for each in told] == ["a trial: the service was ejected"] * 2


async def test_a_stream_closes_the_circuit_with_its_first_byte():
    slow = (*stream("a", done=False, finish=None, end=None), 1.0, *stream("b", end=None)[2:], HANG)
    async with upstream(BAD, BAD, slow, GOOD) as up, gateway(up.url, **SOON) as gw:
        assert (await ask(gw)).status_code == 502
        running = asyncio.create_task(ask(gw, streamed=True))
        await until(lambda: len(up.seen) == 3)
        await until(lambda: not gw.circuits.out(time.monotonic()))
        assert not running.done()
        running.cancel()


async def test_where_all_are_ejected_the_least_bad_is_tried_and_comes_back_at_once():
    limits = {"ejection": EjectionConfig(failures=1, first_s=30, longest_s=60)}
    async with upstream(BAD) as one, upstream(BAD) as two, gateway(one.url, two.url, **limits) as gw:
        assert (await ask(gw)).status_code == 502
        assert (len(one.seen), len(two.seen)) == (1, 1)
        one.scripts = two.scripts = [GOOD]
        assert (await ask(gw)).status_code == 200
        assert (await ask(gw)).status_code == 200
        assert len(one.seen) + len(two.seen) == 4
        assert len(gw.circuits.out(time.monotonic())) == 1


async def test_a_service_that_just_refused_is_not_asked_before_its_time():
    full = (answer(429, {"error": "slow down"}, retry_after="60"), KEEP)
    async with upstream(full) as up, gateway(up.url) as gw:
        assert (await ask(gw)).status_code == 429
        found = await ask(gw)
        assert found.status_code == 503
        assert 1 < int(found.headers["retry-after"]) <= 60
        assert found.headers["x-geniehive-attempts"] == "0"
        assert len(up.seen) == 1


async def test_of_several_failures_the_client_hears_of_the_one_that_says_when_to_come_back():
    full = (answer(429, {"error": "slow down"}, retry_after="50"), KEEP)
    async with upstream(full) as one, upstream(BAD) as two, gateway(one.url, two.url) as gw:
        found = await ask(gw)
        assert found.status_code == 429
        assert found.headers["retry-after"] == "50"
        assert found.headers["x-geniehive-attempts"] == "2"


async def test_a_rest_that_is_short_is_waited_for():
    full = (answer(429, {"error": "slow down"}, retry_after="1"), KEEP)
    async with upstream(full, GOOD) as up, gateway(up.url) as gw:
        one, two = await asyncio.gather(ask(gw), ask(gw))
        assert (one.status_code, two.status_code) == (200, 200)
        assert len(up.seen) <= 4


async def test_many_failures_of_one_request_do_not_eject_a_service():
    async with upstream((answer(400, {"error": "bad"}), KEEP)) as up, gateway(up.url, **SOON) as gw:
        for _ in range(5):
            assert (await ask(gw)).status_code == 400
        assert len(up.seen) == 5
        assert not gw.circuits.known


async def test_what_the_gateway_itself_ends_is_not_held_against_the_service():
    endless = (STREAM_HEAD, chunk(delta("a")), HANG)
    async with upstream(endless) as up, gateway(up.url, request_timeout_s=0.3, **SOON) as gw:
        for _ in range(3):
            assert b'{"error":' in (await ask(gw, streamed=True)).content
        assert not gw.circuits.known
        assert gw.in_flight.report(("h1/s",)) == ()


async def test_streams_that_are_cut_are_held_against_the_service():
    cut = (STREAM_HEAD, chunk(delta("a")), RESET)
    async with upstream(cut) as up, gateway(up.url, **SOON) as gw:
        for _ in range(2):
            assert b'{"error":' in (await ask(gw, streamed=True)).content
        assert gw.circuits.out(time.monotonic()) == {"h1/s": "ejected"}


# --- an engine that loads ------------------------------------------------------------------------------


async def test_an_engine_that_says_that_it_loads_is_waited_for_with_comments_to_a_stream():
    limits = {"keepalive_comment_s": 0.1, "first_byte_timeout_s": 0.2}
    async with upstream(LOADING, LOADING, (*stream("ready"), KEEP)) as up, gateway(up.url, **limits) as gw:
        found = await ask(gw, streamed=True)
        assert found.content.startswith(b": keepalive\n\n")
        assert found.content.endswith(DONE)
        assert len(up.seen) == 3
        seen = await explain(gw, found)
        assert [each["outcome"] for each in seen["attempts"]] == ["ok"]
        assert seen["attempts"][0]["note"] == "the model had to be loaded"
        assert not gw.circuits.known


async def test_another_service_is_asked_rather_than_one_that_loads():
    async with upstream(LOADING) as one, upstream(GOOD) as two, gateway(one.url, two.url) as gw:
        assert (await ask(gw)).status_code == 200
        assert (await ask(gw)).status_code == 200
        assert len(one.seen) <= 1


async def test_one_that_loads_is_waited_for_where_the_others_fail():
    async with upstream(LOADING, LOADING, GOOD) as one, upstream(BAD) as two, gateway(one.url, two.url) as gw:
        found = await ask(gw)
        assert found.status_code == 200
        assert found.headers["x-geniehive-service"] == "h1/s"
        assert len(one.seen) == 3


async def test_an_engine_that_loads_for_ever_is_503_in_the_end():
    async with upstream(LOADING) as up, gateway(up.url, load_timeout_s=0.6) as gw:
        found = await ask(gw)
        assert found.status_code == 503
        assert found.headers["x-geniehive-attempts"] == "1"


def cold(url, **fields):
    made = service(1, url)
    return msgspec.structs.replace(made, assets=(Asset(asset_id="m", loaded=False),), **fields)


LATE = (1.6, completion("late"), KEEP)
COLD = {
    "the model is not loaded": {},
    "the service is loading": {"health": Health(status=HealthStatus.LOADING)},
}


@pytest.mark.parametrize("fields", COLD.values(), ids=COLD)
async def test_the_first_byte_is_not_due_while_the_engine_loads(fields):
    async with upstream(LATE) as up, gateway(cold(up.url, **fields), first_byte_timeout_s=0.4) as gw:
        assert (await ask(gw)).status_code == 200


async def test_once_it_is_loaded_the_first_byte_is_due():
    async with upstream((HANG,)) as up, gateway(cold(up.url), first_byte_timeout_s=0.4) as gw:
        running = asyncio.create_task(ask(gw))
        await up.arrived.wait()
        gw.view.replace(snapshot([service(1, up.url)]))
        found = await running
        assert found.status_code == 504


async def test_a_load_is_bounded():
    limits = {"first_byte_timeout_s": 0.2, "load_timeout_s": 0.7}
    async with upstream((HANG,)) as up, gateway(cold(up.url), **limits) as gw:
        found = await ask(gw)
        assert found.status_code == 504
        assert "did not load the model within 0.7 s" in found.json()["error"]["message"]
        assert found.elapsed.total_seconds() > 0.6


# --- prompts that are too long -------------------------------------------------------------------------

LONG = (
    answer(400, {"error": {"code": 400, "type": "exceed_context_size_error", "message": "too long", "n_ctx": 64}}),
    KEEP,
)


def sized(number, url, context, asset="m"):
    made = service(number, url)
    return msgspec.structs.replace(made, assets=(Asset(asset_id=asset, loaded=True, context_size=context),))


async def test_a_prompt_that_is_too_long_is_asked_of_a_larger_context_of_the_role():
    async with upstream(LONG) as one, upstream(LONG) as two, upstream(GOOD) as three:
        roles = (role("r", assets=["m"], fallback_roles=["f"]), role("f", assets=["big"]))
        services = (sized(1, one.url, 64), sized(2, two.url, 64), sized(3, three.url, 512, "big"))
        async with gateway(*services, roles=roles) as gw:
            found = await ask(gw, model="r")
            assert found.status_code == 200
            assert found.headers["x-geniehive-attempts"] == "2"
            assert found.headers["x-geniehive-service"] == "h3/s"
            assert not gw.circuits.known


async def test_where_there_is_no_larger_context_the_engines_words_are_passed_on():
    async with (
        upstream(LONG) as one,
        upstream(LONG) as two,
        gateway(sized(1, one.url, 64), sized(2, two.url, 64)) as gw,
    ):
        found = await ask(gw)
        assert found.status_code == 400
        assert found.json()["error"]["message"] == "too long"
        assert found.headers["x-geniehive-attempts"] == "1"


# --- fallback roles ------------------------------------------------------------------------------------


async def test_failures_lead_along_the_fallback_roles_each_with_its_own_policy():
    roles = (
        role("r", assets=["m"], fallback_roles=["f"]),
        msgspec.structs.replace(
            role("f", assets=["small"]),
            prompt_policy=msgspec.convert({"system_prompt": "be brief"}, type(role("x").prompt_policy)),
        ),
    )
    async with upstream(BAD) as one, upstream((STREAM_HEAD, HANG)) as two, upstream(GOOD) as three:
        services = (service(1, one.url), service(2, two.url), service(3, three.url, asset="small"))
        async with gateway(*services, roles=roles, first_byte_timeout_s=1) as gw:
            found = await ask(gw, model="r")
            assert found.status_code == 200
            assert found.headers["x-geniehive-attempts"] == "3"
            assert three.seen[0].json["model"] == "small"
            assert three.seen[0].json["messages"][0] == {"role": "system", "content": "be brief"}
            assert "be brief" not in one.seen[0].body.decode()
            assert (await explain(gw, found))["role_id"] == "f"
