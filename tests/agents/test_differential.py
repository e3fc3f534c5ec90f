"""An engine asked directly and through the gateway gives the same answers, field by field, but for ids and times."""

from __future__ import annotations

import json

import httpx
import msgspec
import pytest

from tests.agents.scripted import ROUTES
from tests.gateway.harness import gateway, service
from tests.gateway.misbehaving import KEEP, LAST_CHUNK, STREAM_HEAD, answer, chunk, event, upstream

TURN = [{"role": "user", "content": "Sag etwas über 🦆."}]
FIXED = {"temperature": 0, "seed": 1}
ASKED = {
    "/v1/chat/completions": {**FIXED, "messages": TURN, "max_tokens": 6, "logprobs": True, "top_logprobs": 2},
    "/v1/completions": {**FIXED, "prompt": "Once", "max_tokens": 6},
    "/v1/embeddings": {"input": ["one", "zwei"]},
    "/v1/responses": {**FIXED, "input": TURN, "max_output_tokens": 6},
    "/v1/messages": {**FIXED, "messages": TURN, "max_tokens": 6},
    "/v1/messages/count_tokens": {"messages": TURN},
}
STREAMED = ("/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages")
UNSURE = {"id", "item_id", "created", "created_at", "completed_at", "timings"}
CACHE = {"cached_tokens", "cache_read_input_tokens"}  # the second of two equal requests finds the first one's prompt


def sure(value):
    """Without ids and times; of what was in the cache only that it was told, and of floats what a cache cannot move."""
    if isinstance(value, float):
        return round(value, 3)
    if isinstance(value, dict):
        kept = {key: sure(each) for key, each in value.items() if key not in UNSURE}
        if CACHE & kept.keys() and "input_tokens" in kept and "cache_read_input_tokens" in kept:
            kept["input_tokens"] += kept["cache_read_input_tokens"]
        return {key: None if key in CACHE else each for key, each in kept.items()}
    return [sure(each) for each in value] if isinstance(value, list) else value


def told(got, *, stream):
    """Status, type of the content and what was said: one JSON, or the events of a stream with their names."""
    kind = got.headers["content-type"].split(";")[0]
    if not stream:
        return got.status_code, kind, sure(got.json())
    events = []
    for block in filter(None, got.text.split("\n\n")):
        name, _, data = block.rpartition("data: ")
        events.append((name, data if data == "[DONE]" else sure(json.loads(data))))
    return got.status_code, kind, events


@pytest.mark.parametrize(("path", "stream"), [*((path, False) for path in ASKED), *((path, True) for path in STREAMED)])
async def test_the_gateway_says_what_llama_cpp_says(llama_server, path, stream):
    body = {**ASKED[path], "model": llama_server.model, **({"stream": True} if stream else {})}
    made = msgspec.structs.replace(service(1, llama_server.base_url, asset=llama_server.model), routes=ROUTES)
    async with gateway(made) as gw, httpx.AsyncClient(timeout=30, trust_env=False) as http:
        await http.post(llama_server.base_url + path, json=body)  # fills the cache that both find
        direct = await http.post(llama_server.base_url + path, json=body)
        through = await http.post(gw.url + path, json=body)
    assert direct.status_code == 200, direct.text
    assert told(through, stream=stream) == told(direct, stream=stream)


CALL = {"id": "c", "type": "function", "function": {"name": "a", "arguments": '{"x": "\\u00e4"}'}}
ODD = {
    "id": "c1", "object": "chat.completion", "created": 1, "model": "m", "system_fingerprint": None, "novelty": [],
    "choices": [
        {"index": 0, "finish_reason": "tool_calls", "logprobs": None,
         "message": {"role": "assistant", "content": None, "refusal": None, "new": [], "tool_calls": [CALL, CALL]}},
        {"index": 1, "finish_reason": "stop", "logprobs": {"content": []},
         "message": {"role": "assistant", "content": "", "refusal": "Nein 🦆", "audio": {}}},
    ],
    "usage": {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3, "novel_details": {"x": 0.10}},
}  # fmt: skip


async def test_odd_values_of_answers_survive_byte_for_byte():
    raw = json.dumps(ODD, ensure_ascii=False).encode()
    async with upstream((answer(200, raw), KEEP)) as engine, gateway(engine.url) as gw, httpx.AsyncClient() as http:
        got = await http.post(gw.url + "/v1/chat/completions", json={"model": "m", "messages": TURN, "n": 2})
    assert got.content == raw


async def test_odd_values_of_requests_survive_byte_for_byte():
    raw = '{"model":"m","messages":[],"x":null,"y":[],"z":{},"n":1.50,"u":"\\u00e4🦆","tools":[]}'.encode()
    async with upstream((answer(200, ODD), KEEP)) as engine, gateway(engine.url) as gw, httpx.AsyncClient() as http:
        await http.post(gw.url + "/v1/chat/completions", content=raw, headers={"content-type": "application/json"})
    assert engine.seen[0].body == raw


async def test_odd_chunks_survive_byte_for_byte():
    chunks = [
        {"choices": [{"index": 1, "delta": {"refusal": "Nein"}, "logprobs": {"content": []}, "finish_reason": None}]},
        {"choices": [{"index": 0, "delta": {"tool_calls": [{"index": 0, **CALL}, {"index": 1, **CALL}]}}], "new": None},
        {"choices": [{"index": 0, "delta": {}, "finish_reason": "tool_calls"}]},
        {"choices": [{"index": 1, "delta": {}, "finish_reason": "stop"}]},
        {"choices": [], "usage": {"completion_tokens": 1, "novel": []}},
    ]
    raw = b"".join(map(event, chunks)) + b"data: [DONE]\n\n"
    script = (STREAM_HEAD, chunk(raw), LAST_CHUNK, KEEP)
    async with upstream(script) as engine, gateway(engine.url) as gw, httpx.AsyncClient() as http:
        body = {"model": "m", "messages": TURN, "stream": True, "n": 2}
        got = await http.post(gw.url + "/v1/chat/completions", json=body)
    assert got.content == raw
