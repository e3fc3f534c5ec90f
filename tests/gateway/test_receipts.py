"""What becomes of a request is on record: at /v1/cluster/requests, end to end."""

from __future__ import annotations

import gc
import weakref

import httpx
import pytest

from gateway.exchange import Exchange
from geniehive.resources import Health, HealthStatus, Observed
from tests.gateway.harness import gateway, role, service, until
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
    event,
    stream,
    upstream,
)

CHAT = "/v1/chat/completions"
REQUESTS = "/v1/cluster/requests"
SECRET = "the-secret-prompt"
BOOM = {"error": {"message": f"boom: {SECRET}", "type": "server_error", "code": 500}}
QUICK = {"first_byte_timeout_s": 0.3, "idle_timeout_s": 0.3, "connect_timeout_s": 1}


def body(model="m", **more):
    return {"model": model, "messages": [{"role": "user", "content": SECRET}], **more}


async def ask(gw, *, key="", **more):
    async with httpx.AsyncClient(timeout=10) as http:
        return await http.post(gw.url + CHAT, json=body(**more), headers=credentials(key))


async def get(gw, path=REQUESTS, *, key="", **params):
    async with httpx.AsyncClient(timeout=10) as http:
        return await http.get(gw.url + path, params=params, headers=credentials(key))


def credentials(key):
    return {"authorization": f"Bearer {key}"} if key else {}


async def listed(gw, **params):
    return (await get(gw, **params)).json()["data"]


async def explained(gw, response):
    """The receipt of an answered request."""
    found = await get(gw, f"{REQUESTS}/{response.headers['x-request-id']}")
    assert found.status_code == 200, found.text
    assert SECRET not in found.text
    return found.json()


async def closed(gw):
    """Wait until no request is open but the one that asks."""
    await until(lambda: gw.front.open_requests == 0)


async def test_a_failover_shows_two_attempts_with_the_reason_of_the_first():
    async with (
        upstream((answer(500, BOOM), KEEP)) as bad,
        upstream((completion("good"), KEEP)) as good,
        gateway(bad.url, good.url) as gw,
    ):
        found = await explained(gw, await ask(gw, model="nick"))
        assert (found["model"], found["match"], found["operation"]) == ("nick", "alias", "chat")
        assert (found["principal"], found["strategy"]) == ("anonymous", "round_robin")
        first, second = found["attempts"]
        assert (first["service_id"], first["outcome"], first["status"]) == ("h1/s", "failed", 500)
        assert first["error"] == "the engine failed with status 500"
        assert first["first_byte_ms"] is None
        assert (second["service_id"], second["outcome"], second["status"]) == ("h2/s", "ok", 200)
        assert second["error"] is None
        assert 0 <= first["started_ms"] < second["started_ms"]
        assert (found["service_id"], found["asset_id"], found["host_id"]) == ("h2/s", "m", "h2")
        assert (found["outcome"], found["status"], found["error"]) == ("ok", 200, None)
        assert (found["prompt_tokens"], found["completion_tokens"], found["finish_reason"]) == (3, 2, "stop")
        assert found["request_bytes"] > 0
        assert found["answer_bytes"] > 0
        spent = found["timings"]
        assert 0 < spent["overhead_ms"] < spent["total_ms"]
        assert 0 < spent["upstream_ms"] < spent["total_ms"]
        assert spent["first_byte_ms"] is None  # a whole answer does not tell
        assert [each["service_id"] for each in found["candidates"]] == ["h1/s", "h2/s"]


async def test_candidates_have_signals_and_the_dropped_their_reasons():
    sick = Health(status=HealthStatus.UNHEALTHY, reason="connection refused")
    async with upstream((completion(), KEEP)) as one:
        ill = service(2, "http://127.0.0.1:1")
        async with gateway(service(1, one.url), type(ill)(**{**fields(ill), "health": sick})) as gw:
            gw.view.measure({"h1/s": Observed(running=3, waiting=1)}, {})
            found = await explained(gw, await ask(gw))
            (kept,) = found["candidates"]
            assert kept["signals"] == {"running": 3, "waiting": 1, "own_in_flight": 0}
            assert kept["reasons"] == ["service is healthy", "model is loaded"]
            (dropped,) = found["dropped"]
            assert dropped == {"service_id": "h2/s", "asset_id": "m", "reason": "unhealthy: connection refused"}


def fields(struct):
    return {name: getattr(struct, name) for name in struct.__struct_fields__}


async def test_a_role_is_named():
    async with upstream((completion(), KEEP)) as one, gateway(one.url, roles=(role("fast"),)) as gw:
        found = await explained(gw, await ask(gw, model="fast"))
        assert (found["match"], found["role_id"], found["asset_id"]) == ("role", "fast", "m")


async def test_a_request_is_open_until_its_stream_ended():
    async with (
        upstream((STREAM_HEAD, chunk(delta("a")), 0.3, chunk(delta(finish="stop")), chunk(DONE), KEEP)) as one,
        gateway(one.url) as gw,
        httpx.AsyncClient() as http,
    ):
        async with http.stream("POST", gw.url + CHAT, json=body(stream=True)) as response:
            lines = response.aiter_lines()
            await anext(lines)
            (found,) = await listed(gw, status="open")
            assert (found["outcome"], found["status"], found["attempts"][0]["outcome"]) == ("open", None, "open")
            assert found["request_id"] == response.headers["x-request-id"]
            assert (await explained(gw, response))["candidates"]
            async for _ in lines:
                pass
        await closed(gw)
        (found,) = await listed(gw)
        assert (found["outcome"], found["status"], found["stream"]) == ("ok", 200, True)
        assert found["finish_reason"] == "stop"
        spent = found["timings"]
        assert 0 < found["attempts"][0]["first_byte_ms"] < spent["first_byte_ms"] < spent["total_ms"] - 250
        assert found["answer_bytes"] > len(delta("a"))


CUT = {
    "reset": ((STREAM_HEAD, chunk(delta("a")), RESET), "broke its answer off"),
    "hang": ((STREAM_HEAD, chunk(delta("a")), HANG), "sent nothing for 0.3 s"),
    "end without a finish": (stream("a", finish=None, done=False), "ended before it was finished"),
    "error event": ((STREAM_HEAD, chunk(delta("a")), chunk(event(BOOM)), HANG), "reported an error in its stream"),
}


@pytest.mark.parametrize(("script", "reason"), CUT.values(), ids=CUT)
async def test_a_stream_that_breaks_is_cut_with_the_reason(script, reason):
    async with upstream(script) as one, gateway(one.url, **QUICK) as gw:
        response = await ask(gw, stream=True)
        await closed(gw)
        found = await explained(gw, response)
        assert (found["outcome"], found["status"], found["stream_cut"]) == ("cut", 200, True)
        assert reason in found["error"]
        assert reason in found["attempts"][0]["error"]
        assert found["attempts"][0]["first_byte_ms"] > 0


FAILED = {
    "engine's words stay out": ((answer(503, BOOM), KEEP), 503, "the engine cannot answer now"),
    "400 is passed on": ((answer(400, BOOM), KEEP), 400, "the engine refused the request; its answer was passed on"),
    "429 is passed on": ((answer(429, BOOM), KEEP), 429, "the engine takes no more requests now"),
    "hang": ((HANG,), 504, "the engine sent nothing within 0.3 s"),
}


@pytest.mark.parametrize(("script", "status", "reason"), FAILED.values(), ids=FAILED)
async def test_a_failure_has_our_words_for_it(script, status, reason):
    async with upstream(script) as one, gateway(one.url, **QUICK) as gw:
        found = await explained(gw, await ask(gw))
        assert (found["outcome"], found["status"], found["error"]) == ("failed", status, reason)
        assert found["attempts"][-1]["error"] == reason


async def test_a_stream_that_failed_after_comment_lines_is_a_failure():
    async with upstream((0.2, RESET)) as one, gateway(one.url, keepalive_comment_s=0.05) as gw:
        response = await ask(gw, stream=True)
        assert response.status_code == 200
        found = await explained(gw, response)
        assert (found["outcome"], found["status"]) == ("failed", 200)
        assert found["error"].startswith("the engine did not answer")


async def test_a_client_that_leaves_is_cancelled():
    async with upstream((HANG,)) as one, gateway(one.url) as gw:
        with pytest.raises(httpx.ReadTimeout):
            async with httpx.AsyncClient(timeout=0.3) as http:
                await http.post(gw.url + CHAT, json=body())
        await closed(gw)
        (found,) = await listed(gw, status="cancelled")
        assert (found["outcome"], found["status"], found["error"]) == ("cancelled", 499, "the client went away")
        assert found["attempts"][0]["outcome"] == "cancelled"


async def test_names_that_lead_nowhere_and_services_that_cannot_answer_are_on_record():
    down = type(one := service(1, "http://127.0.0.1:1"))(**{**fields(one), "reachable": False})
    async with gateway(down) as gw:
        found = await explained(gw, await ask(gw, model="nope"))
        assert (found["outcome"], found["status"], found["match"], found["attempts"]) == ("failed", 404, None, [])
        assert "'nope' does not exist" in found["error"]
        found = await explained(gw, await ask(gw))
        assert (found["status"], found["match"], found["candidates"]) == (503, "asset", [])
        assert found["dropped"][0]["reason"] == "its endpoint listens on its own host only"


async def test_what_was_not_routed_leaves_no_receipt():
    async with gateway("http://127.0.0.1:1", keys=("k",), admins=("boss",)) as gw, httpx.AsyncClient() as http:
        assert (await ask(gw)).status_code == 401
        assert (await http.post(gw.url + CHAT, content=b"{", headers={"x-api-key": "k"})).status_code in {400, 415}
        assert (await get(gw, key="boss")).json() == {"object": "list", "data": [], "kept": 0, "silent_workers": 0}


async def test_newest_first_filtered_and_at_most_so_many():
    async with (
        upstream((completion(), KEEP)) as one,
        upstream((answer(500, BOOM), KEEP)) as bad,
        gateway(service(1, one.url, asset="m1"), service(2, bad.url, asset="m2")) as gw,
    ):
        for model in ("m1", "m2", "nope", "m1"):
            await ask(gw, model=model)
        assert [each["model"] for each in await listed(gw)] == ["m1", "nope", "m2", "m1"]
        assert [each["model"] for each in await listed(gw, limit=2)] == ["m1", "nope"]
        assert [each["model"] for each in await listed(gw, model="m1")] == ["m1", "m1"]
        assert [each["model"] for each in await listed(gw, service_id="h2/s")] == ["m2"]
        assert [each["status"] for each in await listed(gw, status="failed")] == [404, 502]
        assert [each["status"] for each in await listed(gw, status="5xx")] == [502]
        assert [each["status"] for each in await listed(gw, status="404")] == [404]
        assert await listed(gw, status="open") == []
        assert all("candidates" not in each for each in await listed(gw))


@pytest.mark.parametrize(
    "params", [{"limit": "0"}, {"limit": "1001"}, {"limit": "x"}, {"status": "bad"}, {"status": "9xx"}]
)
async def test_a_question_that_makes_no_sense_is_a_clear_error(params):
    async with gateway("http://127.0.0.1:1") as gw:
        found = await get(gw, **params)
        assert found.status_code == 400
        error = found.json()["error"]
        assert error["param"] == next(iter(params))
        assert sorted(error) == ["code", "message", "param", "type"]


async def test_an_unknown_request_is_a_404_that_says_how_many_are_kept():
    async with upstream((completion(), KEEP)) as one, gateway(one.url, receipts=2) as gw:
        first = await ask(gw)
        for _ in range(3):
            await ask(gw)
        assert len(await listed(gw)) == 2
        found = await get(gw, f"{REQUESTS}/{first.headers['x-request-id']}")
        assert found.status_code == 404
        error = found.json()["error"]
        assert error["param"] == "request_id"
        assert "this gateway keeps 2, the last 2 of each worker" in error["message"]


async def test_receipts_can_be_off():
    async with upstream((completion(), KEEP)) as one, gateway(one.url, receipts=0) as gw:
        response = await ask(gw)
        assert response.status_code == 200
        assert await listed(gw) == []
        found = await get(gw, f"{REQUESTS}/{response.headers['x-request-id']}")
        assert found.status_code == 404
        assert "set gateway.receipts" in found.json()["error"]["message"]


async def test_a_client_sees_its_own_requests_and_an_admin_all():
    async with (
        upstream((completion(), KEEP)) as one,
        gateway(one.url, keys=("ann", "bob"), admins=("boss",)) as gw,
    ):
        by_ann, by_bob = await ask(gw, key="ann"), await ask(gw, key="bob")
        assert [each["request_id"] for each in (await get(gw, key="ann")).json()["data"]] == [
            by_ann.headers["x-request-id"]
        ]
        assert len((await get(gw, key="boss")).json()["data"]) == 2
        path = f"{REQUESTS}/{by_bob.headers['x-request-id']}"
        assert (await get(gw, path, key="bob")).status_code == 200
        assert (await get(gw, path, key="boss")).json()["principal"] == "client-2"
        assert (await get(gw, path, key="ann")).status_code == 404
        assert (await get(gw, path)).status_code == 401
        assert (await get(gw)).status_code == 401


async def test_a_receipt_holds_no_key_no_prompt_and_nothing_of_the_request_itself():
    async with (
        upstream((completion("the-secret-answer"), KEEP)) as one,
        gateway(one.url, keys=("key-of-a-client",)) as gw,
    ):
        response = await ask(gw, key="key-of-a-client")
        found = await get(gw, f"{REQUESTS}/{response.headers['x-request-id']}", key="key-of-a-client")
        for secret in ("key-of-a-client", SECRET, "the-secret-answer", one.url):
            assert secret not in found.text


async def test_what_is_kept_keeps_no_request_alive_and_a_request_leaves_no_cycle():
    seen = []

    class Watched(Exchange):
        def __post_init__(self):
            seen.append(weakref.ref(self.request))

    async with upstream((completion(), KEEP)) as one, gateway(one.url) as gw:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("gateway.middleware.Exchange", Watched)
            gc.disable()
            try:
                await ask(gw)
                await until(lambda: [each() for each in seen] == [None])
            finally:
                gc.enable()
        assert len(await listed(gw)) == 1
