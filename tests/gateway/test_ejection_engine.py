"""A real llama.cpp says that a prompt is too long for it, and has slots that requests wait for."""

from __future__ import annotations

import asyncio

import httpx
import msgspec

from geniehive.resources import Asset, Observed, Operation
from tests.gateway.harness import gateway, role, service
from tests.gateway.misbehaving import KEEP, completion, upstream

ASK = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 4, "temperature": 0}


def engine(llama_server, **asset):
    found = service(1, llama_server.base_url, protocol="llamacpp", operations=(Operation.CHAT,))
    return msgspec.structs.replace(found, assets=(Asset(asset_id=llama_server.model, loaded=True, **asset),))


async def properties(llama_server):
    async with httpx.AsyncClient(base_url=llama_server.base_url) as http:
        return (await http.get("/props")).json()


async def chat(gw, **body):
    async with httpx.AsyncClient(timeout=60) as http:
        return await http.post(gw.url + "/v1/chat/completions", json={**ASK, **body})


async def test_a_prompt_that_is_too_long_for_the_engine_goes_to_a_larger_context(llama_server):
    size = (await properties(llama_server))["default_generation_settings"]["n_ctx"]
    long = [{"role": "user", "content": "q7 " * size}]
    roles = (role("r", assets=[llama_server.model, "big"]),)
    async with upstream((completion("from the larger one"), KEEP)) as up:
        large = msgspec.structs.replace(
            service(2, up.url), assets=(Asset(asset_id="big", loaded=True, context_size=64 * size),)
        )
        async with gateway(engine(llama_server, context_size=size), large, roles=roles) as gw:
            found = await chat(gw, model="r", messages=long)
            assert found.json()["choices"][0]["message"]["content"] == "from the larger one"
            assert found.headers["x-geniehive-attempts"] == "2"
            assert not gw.circuits.known
        async with gateway(engine(llama_server, context_size=size)) as gw:
            refused = await chat(gw, model=llama_server.model, messages=long)
            assert refused.status_code == 400
            assert "context" in refused.json()["error"]["message"]


async def test_more_requests_than_the_engine_has_slots_are_all_answered_and_some_have_waited(llama_server):
    slots = (await properties(llama_server))["total_slots"]
    async with gateway(engine(llama_server)) as gw:
        gw.view.measure({"h1/s": Observed(slots=slots)}, {})
        asked = [chat(gw, model=llama_server.model, max_tokens=48) for _ in range(4 * slots)]
        most, running = 0, asyncio.gather(*asked)
        while not running.done():
            most = max(most, gw.in_flight.total)
            await asyncio.sleep(0.001)
        found = running.result()
        assert {each.status_code for each in found} == {200}
        assert most == slots
        assert any(int(each.headers["x-geniehive-queue-ms"]) > 0 for each in found)
        assert gw.in_flight.counts == {}
