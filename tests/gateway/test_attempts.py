"""What engines do wrong, and what the client gets: a table of misbehaviour before and after the first byte."""

from __future__ import annotations

import asyncio
import gc
import socket
from types import SimpleNamespace

import httpx
import openai
import pytest

from gateway.app import spawner
from gateway.relay import Comments
from tests.gateway.harness import gateway, until
from tests.gateway.misbehaving import (
    CLOSE,
    DONE,
    HANG,
    KEEP,
    LAST_CHUNK,
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
from tests.ports import free_port

ASK = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
CHAT = "/v1/chat/completions"
BOOM = {"error": {"message": "boom", "type": "server_error", "code": 500}}
QUICK = {"first_byte_timeout_s": 0.3, "idle_timeout_s": 0.3, "connect_timeout_s": 1, "load_timeout_s": 0.6}


async def ask(gw, *, streamed=False, **more):
    async with httpx.AsyncClient(timeout=10) as http:
        return await http.post(gw.url + CHAT, json={**ASK, "stream": streamed, **more})


async def test_a_failure_before_the_first_byte_goes_to_the_next_candidate():
    """In whatever way it fails: `misbehaviour.py` has the table."""
    async with (
        upstream((RESET,)) as bad,
        upstream((completion("good"), KEEP)) as good,
        gateway(bad.url, good.url) as gw,
    ):
        found = await ask(gw)
        assert found.json()["choices"][0]["message"]["content"] == "good"
        assert found.headers["x-geniehive-attempts"] == "2"
        assert found.headers["x-geniehive-service"] == "h2/s"
        assert gw.in_flight.counts == {}


async def test_a_whole_answer_that_is_no_utf_8_goes_to_the_next_candidate():
    """Its bytes stand where nobody looks: in the text."""
    broken = b'{"choices":[{"message":{"content":"\xff"},"finish_reason":"stop"}]}'
    async with (
        upstream((answer(200, broken), KEEP)) as bad,
        upstream((completion("good"), KEEP)) as good,
        gateway(bad.url, good.url) as gw,
    ):
        found = await ask(gw)
        assert found.json()["choices"][0]["message"]["content"] == "good"
        assert found.headers["x-geniehive-attempts"] == "2"


async def test_a_refused_connection_goes_to_the_next_candidate():
    async with (
        upstream((completion("good"), KEEP)) as good,
        gateway(f"http://127.0.0.1:{free_port()}", good.url) as gw,
    ):
        assert (await ask(gw)).status_code == 200


ALONE = {
    "reset": ((RESET,), 502, 2),
    "hang before headers": ((HANG,), 504, 1),
    "500 gets one more attempt": ((answer(500, BOOM), KEEP), 502, 2),
    "503": ((answer(503, {"error": {"message": "not well"}}), KEEP), 503, 1),
    "503 of a full queue gets one more attempt": ((answer(503, {"error": "server busy"}), KEEP), 503, 2),
    "401 is not the client's": ((answer(401, BOOM), KEEP), 502, 1),
    "redirect": ((answer(302, b"", location="/x"), KEEP), 502, 1),
    "400 is passed on": ((answer(400, BOOM), KEEP), 400, 1),
    "404 is passed on": ((answer(404, BOOM), KEEP), 404, 1),
    "422 is passed on": ((answer(422, {"detail": "bad"}), KEEP), 422, 1),
    "429 is passed on": ((answer(429, {"error": "slow down"}, retry_after="60"), KEEP), 429, 1),
    "200 with an error of the request": ((answer(200, {"error": {"message": "long", "code": 400}}), KEEP), 400, 1),
    "only an error event": ((STREAM_HEAD, chunk(event(BOOM)), LAST_CHUNK, KEEP), 502, 2),
}


@pytest.mark.parametrize(("script", "status", "attempts"), ALONE.values(), ids=ALONE)
async def test_with_nobody_else_the_client_gets_an_error_in_openais_shape(script, status, attempts):
    async with upstream(script) as bad, gateway(bad.url, **QUICK) as gw:
        found = await ask(gw, streamed=True)
        assert found.status_code == status
        assert set(found.json()["error"]) == {"message", "type", "param", "code"}
        assert found.headers["x-geniehive-attempts"] == str(attempts)
        assert found.headers.get("x-should-retry") == (None if status == 429 else "false")
        assert "127.0.0.1" not in found.text
        assert len(bad.seen) == attempts
        assert gw.in_flight.counts == {}


async def test_an_error_that_is_null_is_none():
    async with upstream((answer(200, {"error": None, "id": "x"}), KEEP)) as up, gateway(up.url) as gw:
        assert (await ask(gw)).json() == {"error": None, "id": "x"}


async def test_the_engines_words_reach_the_client():
    async with upstream((answer(400, {"error": {"message": "context too long"}}), KEEP)) as bad, gateway(bad.url) as gw:
        assert (await ask(gw)).json()["error"]["message"] == "context too long"
    async with upstream((answer(429, {"error": "slow down"}, retry_after="60"), KEEP)) as bad, gateway(bad.url) as gw:
        found = await ask(gw)
        assert found.json()["error"]["message"] == "slow down"
        assert found.headers["retry-after"] == "60"


BUSY = {
    "no time named": ({}, 0.15),
    "a short time named": ({"retry_after": "1"}, 1.0),
}


@pytest.mark.parametrize(("headers", "seconds"), BUSY.values(), ids=BUSY)
async def test_a_busy_engine_without_another_is_asked_once_more_after_a_while(headers, seconds):
    busy = (answer(429, {"error": "slow down"}, **headers), KEEP)
    async with upstream(busy, (completion("good"), KEEP)) as up, gateway(up.url) as gw:
        found = await ask(gw)
        assert found.json()["choices"][0]["message"]["content"] == "good"
        assert found.elapsed.total_seconds() >= seconds
        overhead_s = float(found.headers["x-geniehive-overhead-ms"]) / 1000
        assert overhead_s <= found.elapsed.total_seconds() - seconds / 2, "the pause is no overhead of ours"
    async with upstream(busy) as one, upstream(busy) as two, gateway(one.url, two.url) as gw:
        assert (await ask(gw)).status_code == 429
        assert sorted([len(one.seen), len(two.seen)]) == [1, 2]


async def test_a_4xx_is_asked_of_one_candidate_only():
    async with (
        upstream((answer(400, BOOM), KEEP)) as one,
        upstream((completion(), KEEP)) as two,
        gateway(one.url, two.url) as gw,
    ):
        assert (await ask(gw)).status_code == 400
        assert two.seen == []


async def test_a_connect_that_hangs_is_502_in_time():
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)  # a queue of one: later connects get no answer
        waiting = [socket.socket() for _ in range(4)]
        for each in waiting:
            each.setblocking(False)
            each.connect_ex(full.getsockname())
        try:
            async with gateway(f"http://127.0.0.1:{full.getsockname()[1]}", connect_timeout_s=0.3) as gw:
                found = await ask(gw)
                assert found.status_code == 502
                assert "connecting took too long" in found.json()["error"]["message"]
        finally:
            for each in waiting:
                each.close()


BEGUN = (STREAM_HEAD, chunk(delta("hel")))
CUT = {
    "reset": (*BEGUN, RESET),
    "hang": (*BEGUN, HANG),
    "a clean end without a finish": (*BEGUN, LAST_CHUNK, KEEP),
    "an error event": (*BEGUN, chunk(event(BOOM)), chunk(DONE), LAST_CHUNK, KEEP),
}


@pytest.mark.parametrize("script", CUT.values(), ids=CUT)
async def test_a_stream_that_breaks_is_an_error_to_openais_own_client(script):
    async with upstream(script) as bad, gateway(bad.url, idle_timeout_s=0.3) as gw:
        async with openai.AsyncOpenAI(base_url=gw.url + "/v1", api_key="k", max_retries=0) as ai:
            chunks = await ai.chat.completions.create(**ASK, stream=True)
            assert (await anext(chunks)).choices[0].delta.content == "hel"
            with pytest.raises(openai.APIError):
                [each async for each in chunks]
        assert len(bad.seen) == 1


USAGE = event({"id": "c1", "choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2}})
FINISHED = (*BEGUN, chunk(delta(finish="stop")))


async def test_a_finished_stream_without_done_is_finished_at_once():
    async with upstream((*FINISHED, HANG)) as up, gateway(up.url) as gw:
        found = await ask(gw, streamed=True)
        assert found.content.endswith(DONE)


async def test_usage_that_was_asked_for_is_waited_for():
    async with upstream((*FINISHED, 0.6, chunk(USAGE), HANG)) as up, gateway(up.url) as gw:
        found = await ask(gw, streamed=True, stream_options={"include_usage": True})
        assert found.content.endswith(USAGE + DONE)


async def test_crlf_comments_and_multi_line_data_pass_untouched():
    text = delta("hel").decode().rstrip("\n")
    odd = (text + "\r\n\r\n: note\r\nid: 4\r\n" + text.replace(',"model"', ',\ndata: "model"') + "\r\n\r\n").encode()
    script = (STREAM_HEAD, chunk(odd[:50]), chunk(odd[50:]), chunk(delta(finish="stop") + DONE), LAST_CHUNK, KEEP)
    async with upstream(script) as up, gateway(up.url) as gw:
        assert (await ask(gw, streamed=True)).content == odd + delta(finish="stop") + DONE


async def test_an_event_of_broken_json_is_left_out():
    script = (*BEGUN, chunk(b"data: {broken\n\n"), chunk(delta(finish="stop") + DONE), LAST_CHUNK, KEEP)
    async with upstream(script) as up, gateway(up.url) as gw:
        assert (await ask(gw, streamed=True)).content == delta("hel") + delta(finish="stop") + DONE


async def test_a_waiting_stream_gets_comments_and_then_its_events():
    async with upstream((0.25, *stream("late"), KEEP)) as up, gateway(up.url, keepalive_comment_s=0.1) as gw:
        found = await ask(gw, streamed=True)
        assert found.content.startswith(b": keepalive\n\n")
        assert found.content.endswith(DONE)
        assert "x-geniehive-service" not in found.headers


@pytest.mark.filterwarnings("error")
async def test_comments_that_are_stopped_before_they_began_leave_nothing_behind():
    async with asyncio.TaskGroup() as tasks:
        exchange = SimpleNamespace(loop=asyncio.get_running_loop())
        comments = Comments(exchange, 60, spawner(tasks))
        comments._start()
        await comments.stop()
    gc.collect()


async def test_a_failure_after_comments_is_an_error_event():
    script = (0.25, answer(400, BOOM), KEEP)
    async with upstream(script) as up, gateway(up.url, keepalive_comment_s=0.1) as gw:
        found = await ask(gw, streamed=True)
        assert found.status_code == 200
        assert b'data: {"error":' in found.content
        assert b"boom" in found.content
        assert b"[DONE]" not in found.content


@pytest.mark.parametrize("begun", [(), BEGUN], ids=["before headers", "in the stream"])
async def test_a_client_that_goes_away_ends_the_upstream_request(begun):
    async with upstream((*begun, HANG)) as up, gateway(up.url) as gw:
        reader, writer = await asyncio.open_connection("127.0.0.1", gw.port)
        body = b'{"model":"m","stream":true,"messages":[]}'
        writer.write(
            b"POST %b HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b"
            % (CHAT.encode(), len(body), body)
        )
        await up.arrived.wait()
        if begun:
            await reader.readuntil(b"hel")
        assert gw.in_flight.counts == {"h1/s": 1}
        writer.close()
        async with asyncio.timeout(20):
            await up.gone.wait()
        await until(lambda: gw.in_flight.counts == {})
        await until(lambda: gw.front.open_requests == 0)


async def test_a_client_that_does_not_read_stops_the_upstream_and_is_closed():
    big = chunk(delta("x" * 60_000))
    async with upstream((STREAM_HEAD, *[big] * 2000, HANG)) as up, gateway(up.url, idle_timeout_s=0.5) as gw:
        _, writer = await asyncio.open_connection("127.0.0.1", gw.port, limit=1024)
        body = b'{"model":"m","stream":true,"messages":[]}'
        writer.write(
            b"POST %b HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b"
            % (CHAT.encode(), len(body), body)
        )
        await up.arrived.wait()
        async with asyncio.timeout(20):
            await up.gone.wait()
        await until(lambda: gw.in_flight.counts == {})
        writer.close()


LARGE = b'{"data":"' + b"x" * (12 * 2**20)
BREAKS = {"closed": CLOSE, "reset": RESET, "hang": HANG}


async def test_a_large_answer_beyond_the_cap_is_broken_off():
    script = (b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n" + LARGE, *[b"x" * 2**20] * 8, HANG)
    async with upstream(script) as bad, gateway(bad.url, max_answer_bytes=16 * 2**20) as gw:
        with pytest.raises(httpx.RemoteProtocolError):
            await ask(gw)
        await asyncio.wait_for(bad.gone.wait(), 20)


async def test_an_answer_beyond_the_cap_is_a_failed_attempt():
    async with upstream((answer(200, {"x": "x" * 2000}), KEEP)) as bad, gateway(bad.url, max_answer_bytes=1000) as gw:
        found = await ask(gw)
        assert found.status_code == 502
        assert "max_answer_bytes" in found.json()["error"]["message"]


ENDLESS = (STREAM_HEAD, *[chunk(delta("x" * 100)), 0.02] * 500, HANG)
CAPS = {
    "bytes": ({"max_answer_bytes": 2000}, b"max_answer_bytes"),
    "time": ({"request_timeout_s": 0.3}, b"within 0.3 s"),
}


@pytest.mark.parametrize(("limits", "said"), CAPS.values(), ids=CAPS)
async def test_an_endless_stream_ends_in_an_error_event(limits, said):
    async with upstream(ENDLESS) as bad, gateway(bad.url, **limits) as gw:
        found = await ask(gw, streamed=True)
        assert found.content.startswith(delta("x" * 100))
        last = found.content.split(b"\n\n")[-2]
        assert last.startswith(b'data: {"error":')
        assert said in last
        await until(lambda: gw.front.open_requests == 0)


async def test_a_request_that_takes_too_long_before_its_first_byte_is_504():
    async with upstream((HANG,)) as bad, gateway(bad.url, request_timeout_s=0.2) as gw:
        assert (await ask(gw)).status_code == 504


@pytest.mark.parametrize("end", BREAKS.values(), ids=BREAKS)
async def test_a_large_answer_that_breaks_is_never_made_whole(end):
    script = (b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 30000000\r\n\r\n" + LARGE, end)
    async with upstream(script) as bad, gateway(bad.url, **QUICK) as gw, httpx.AsyncClient(timeout=10) as http:
        got = bytearray()

        async def read():
            async with http.stream("POST", gw.url + CHAT, json=ASK) as found:
                assert found.status_code == 200
                async for piece in found.aiter_bytes():
                    got.extend(piece)

        with pytest.raises(httpx.RemoteProtocolError):
            await read()
        assert LARGE.startswith(got)
        await until(lambda: gw.front.open_requests == 0)
        assert gw.in_flight.counts == {}


async def test_nothing_is_left_behind_after_many_failures():
    async with (
        upstream((RESET,), (answer(500), KEEP), (STREAM_HEAD, CLOSE), (*BEGUN, RESET), (*stream("a"), KEEP)) as up,
        gateway(up.url, **QUICK) as gw,
    ):
        before = len(asyncio.all_tasks())
        for _ in range(10):
            await ask(gw, streamed=True)
        await until(lambda: gw.front.open_requests == 0)
        assert gw.in_flight.counts == {}
        await until(lambda: len(asyncio.all_tasks()) <= before + 3)  # kept connections of both sides


async def test_draining_ends_streams_with_an_error_event_and_refuses_new_work():
    async with upstream((*BEGUN, HANG)) as up, gateway(up.url) as gw, httpx.AsyncClient(timeout=10) as http:
        running = asyncio.ensure_future(ask(gw, streamed=True))
        await up.arrived.wait()
        draining = asyncio.ensure_future(gw.front.drain(0.3))
        await until(lambda: gw.front.draining)
        assert (await http.get(gw.url + "/readyz")).status_code == 503
        assert (await http.get(gw.url + "/healthz")).status_code == 200
        assert (await http.post(gw.url + CHAT, json=ASK)).status_code == 503
        found = await running
        assert b"shutting down" in found.content
        assert b"[DONE]" not in found.content
        await draining


async def test_draining_lets_a_stream_finish():
    async with (
        upstream((*BEGUN, 0.2, chunk(delta(finish="stop") + DONE), LAST_CHUNK, KEEP)) as up,
        gateway(up.url) as gw,
    ):
        running = asyncio.ensure_future(ask(gw, streamed=True))
        await up.arrived.wait()
        await gw.front.drain(5)
        assert (await running).content.endswith(DONE)


async def test_draining_answers_a_request_that_still_waits_for_its_first_byte():
    async with upstream((HANG,)) as up, gateway(up.url) as gw:
        running = asyncio.ensure_future(ask(gw))
        await up.arrived.wait()
        await gw.front.drain(0.2)
        assert (await running).status_code == 503


async def test_a_client_that_leaves_between_the_first_byte_and_its_delivery_frees_the_engine(monkeypatch):
    async def leave(_comments):
        raise asyncio.CancelledError

    async with upstream((STREAM_HEAD, chunk(delta("x")), HANG)) as engine, gateway(engine.url) as gw:
        monkeypatch.setattr(Comments, "stop", leave)
        async with httpx.AsyncClient(timeout=10) as http:
            with pytest.raises(httpx.TransportError):
                await http.post(f"{gw.url}/v1/chat/completions", json={"model": "m", "messages": [], "stream": True})
        async with asyncio.timeout(20):
            await engine.gone.wait()
        await until(lambda: gw.in_flight.counts == {})
