"""Chat end to end: real HTTP on both sides, the openai SDK as client."""

from __future__ import annotations

import json

import httpx
import openai
import pytest

from tests.gateway.harness import gateway, service
from tests.gateway.misbehaving import DONE, KEEP, answer, completion, delta, stream, upstream

ASK = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}


def client(gw, **options):
    return openai.AsyncOpenAI(base_url=gw.url + "/v1", api_key="k", max_retries=0, **options)


async def test_a_plain_chat_is_answered_to_the_openai_sdk():
    async with upstream((completion("hello there"), KEEP)) as up, gateway(up.url) as gw, client(gw) as ai:
        found = await ai.chat.completions.create(**ASK)
        assert found.choices[0].message.content == "hello there"
        assert found.model == "engine-name"
        assert found.usage.completion_tokens == 2
        assert up.seen[0].path == "/v1/chat/completions"
        assert up.seen[0].headers["accept"] == "application/json"


async def test_a_streamed_chat_is_answered_to_the_openai_sdk():
    async with upstream((*stream("hel", "lo"), KEEP)) as up, gateway(up.url) as gw, client(gw) as ai:
        found = await ai.chat.completions.create(**ASK, stream=True)
        text = "".join([each.choices[0].delta.content or "" async for each in found])
        assert text == "hello"
        assert up.seen[0].headers["accept"] == "text/event-stream"


async def test_the_bytes_of_a_stream_are_untouched():
    sent = delta("", role="assistant") + delta("hel") + delta("lo") + delta(finish="stop") + DONE
    async with upstream((*stream("hel", "lo"), KEEP)) as up, gateway(up.url) as gw, httpx.AsyncClient() as http:
        found = await http.post(gw.url + "/v1/chat/completions", json={**ASK, "stream": True})
        assert found.content == sent
        assert found.headers["content-type"] == "text/event-stream"
        assert found.headers["cache-control"] == "no-cache"
        assert found.headers["x-accel-buffering"] == "no"


async def test_the_model_name_is_replaced_and_all_other_bytes_stay():
    body = b'{ "messages" : [{"content":"model \\u00e9", "role":"user"}],\n"model":"nick" , "seed": 1.50e+1 }'
    async with upstream((completion(), KEEP)) as up, gateway(up.url) as gw, httpx.AsyncClient() as http:
        await http.post(gw.url + "/v1/chat/completions", content=body, headers={"content-type": "application/json"})
        assert up.seen[0].body == body.replace(b'"nick"', b'"m"')


async def test_the_answer_says_who_answered():
    async with upstream((completion(), KEEP)) as up, gateway(up.url) as gw, httpx.AsyncClient() as http:
        found = await http.post(gw.url + "/v1/chat/completions", json=ASK)
        assert found.headers["x-geniehive-service"] == "h1/s"
        assert found.headers["x-geniehive-host"] == "h1"
        assert found.headers["x-geniehive-model"] == "m"
        assert found.headers["x-geniehive-attempts"] == "1"
        assert found.headers["x-geniehive-queue-ms"] == "0"
        assert 0 < float(found.headers["x-geniehive-overhead-ms"]) < 1000
        assert found.headers["x-request-id"].startswith("req_")
        assert up.seen[0].headers["x-request-id"] == found.headers["x-request-id"]


async def test_connections_to_engines_are_used_again():
    script = (*stream("a"), KEEP)
    async with upstream(script) as up, gateway(up.url) as gw, httpx.AsyncClient() as http:
        for _ in range(5):
            await http.post(gw.url + "/v1/chat/completions", json={**ASK, "stream": True})
        assert up.connections == 1


async def test_credentials_cookies_and_odd_headers_stay_here():
    headers = {
        "authorization": "Bearer secret",
        "x-api-key": "secret",
        "cookie": "a=b",
        "x_under": "1",
        "te": "trailers",
        "x-forwarded-for": "1.2.3.4",
        "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    }
    reply = answer(body={"choices": []}, set_cookie="s=1", server="engine", x_secret="1")
    async with upstream((reply, KEEP)) as up, gateway(up.url) as gw, httpx.AsyncClient() as http:
        found = await http.post(gw.url + "/v1/chat/completions", json=ASK, headers=headers)
        assert set(up.seen[0].headers) == {
            "host",
            "content-type",
            "content-length",
            "accept",
            "accept-encoding",
            "user-agent",
            "x-request-id",
            "traceparent",
        }
        assert "set-cookie" not in found.headers
        assert "x-secret" not in found.headers
        assert found.headers["server"] != "engine"


async def test_embeddings_and_completions_have_their_routes():
    async with upstream((answer(body={"data": []}), KEEP)) as up, gateway(up.url) as gw, httpx.AsyncClient() as http:
        for path in ("/v1/embeddings", "/v1/completions"):
            found = await http.post(gw.url + path, json={"model": "m", "input": "x"})
            assert found.status_code == 200
        assert [each.path for each in up.seen] == ["/v1/embeddings", "/v1/completions"]


async def test_an_unknown_model_is_404_with_near_misses():
    async with gateway("http://127.0.0.1:1") as gw, client(gw) as ai:
        with pytest.raises(openai.NotFoundError) as caught:
            await ai.chat.completions.create(model="nik", messages=ASK["messages"])
        assert caught.value.code == "model_not_found"
        assert caught.value.param == "model"
        assert "nick" in caught.value.message
        assert caught.value.response.headers["x-should-retry"] == "false"


async def test_a_model_that_cannot_do_it_is_refused():
    from geniehive.resources import Operation

    only = service(1, "http://127.0.0.1:1", operations=(Operation.EMBEDDINGS,))
    async with gateway(only) as gw, httpx.AsyncClient() as http:
        found = await http.post(gw.url + "/v1/chat/completions", json=ASK)
        assert found.status_code == 400
        assert "embeddings" in found.json()["error"]["message"]


async def test_models_are_listed():
    async with gateway("http://127.0.0.1:1") as gw, client(gw) as ai:
        found = await ai.models.list()
        assert [each.id for each in found.data] == ["m"]
        assert (await ai.models.retrieve("m")).id == "m"
        with pytest.raises(openai.NotFoundError):
            await ai.models.retrieve("no/such")


async def test_large_answers_pass_in_pieces_and_whole():
    body = b'{"data":"' + b"x" * (9 * 2**20) + b'"}'
    async with upstream((answer(body=body), KEEP)) as up, gateway(up.url) as gw, httpx.AsyncClient() as http:
        found = await http.post(gw.url + "/v1/embeddings", json={"model": "m", "input": "x"})
        assert found.content == body


async def test_gzip_from_an_engine_is_decoded():
    import gzip

    reply = answer(body=gzip.compress(json.dumps({"choices": []}).encode()), content_encoding="gzip")
    async with upstream((reply, KEEP)) as up, gateway(up.url) as gw, httpx.AsyncClient() as http:
        found = await http.post(gw.url + "/v1/chat/completions", json=ASK)
        assert found.json() == {"choices": []}
        assert "content-encoding" not in found.headers


async def test_a_whole_answer_tells_its_latency_and_no_time_to_first_token():
    async with upstream((completion("good"), KEEP)) as engine, gateway(engine.url) as gw, httpx.AsyncClient() as http:
        body = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
        assert (await http.post(f"{gw.url}/v1/chat/completions", json=body)).status_code == 200
        (traffic,) = gw.in_flight.report(gw.view.table.shape.services)
    assert traffic.latency_seconds is not None
    assert traffic.ttft_seconds is None
    assert traffic.tokens_per_second is None
