"""Policies on a real llama.cpp: it takes what we make of a body, and counts the prompt we put there."""

from __future__ import annotations

import httpx
import msgspec

from geniehive.resources import Asset, Operation, Role
from tests.gateway.harness import gateway, service

ASK = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 4, "temperature": 0}


def policy_role(**policy):
    return msgspec.convert({"role_id": "r", "prompt_policy": policy}, Role)


def engine(llama_server, **asset):
    """The real engine; its model goes by any name that it has, so it can pass for a Qwen3."""
    found = service(1, llama_server.base_url, protocol="llamacpp", operations=(Operation.CHAT,))
    return msgspec.structs.replace(found, assets=(Asset(asset_id=llama_server.model, aliases=("m",), **asset),))


async def chat(gw, **body):
    async with httpx.AsyncClient(timeout=60) as http:
        found = await http.post(gw.url + "/v1/chat/completions", json={**ASK, **body})
    assert found.status_code == 200, found.text
    return found


async def test_the_engine_reads_the_prompt_of_the_role_and_keeps_to_its_limit(llama_server):
    long = policy_role(
        system_prompt="Be brief and to the point. " * 4,
        user_template="Question: {input}",
        request_policy={"body_overrides": {"max_tokens": 2}},
    )
    async with gateway(engine(llama_server), roles=(long,)) as gw:
        bare = (await chat(gw)).json()["usage"]
        shaped = (await chat(gw, model="r")).json()["usage"]
    assert shaped["prompt_tokens"] > bare["prompt_tokens"] + 20
    assert shaped["completion_tokens"] <= 2


async def test_the_engine_gets_a_shaped_prompt_exactly_as_if_the_client_had_written_it(llama_server):
    async with gateway(engine(llama_server), roles=(policy_role(system_prompt="P", user_template="<{input}>"),)) as gw:
        through = (await chat(gw, model="r", seed=1)).json()
        written = [{"role": "system", "content": "P"}, {"role": "user", "content": "<hi>"}]
        direct = (await chat(gw, messages=written, seed=1)).json()
    assert through["usage"]["prompt_tokens"] == direct["usage"]["prompt_tokens"]
    assert through["choices"][0]["message"]["content"] == direct["choices"][0]["message"]["content"]


async def test_the_engine_takes_the_rule_for_qwen3_in_answers_and_streams(llama_server):
    async with gateway(engine(llama_server, family="qwen3")) as gw:
        plain = await chat(gw, n_discard=1)
        assert "reasoning_content" not in plain.json()["choices"][0]["message"]
        stream = await chat(gw, stream=True)
        assert stream.content.endswith(b"data: [DONE]\n\n")
        assert b'"finish_reason":"' in stream.content
        listed = (await httpx.AsyncClient().get(gw.url + "/v1/models/m")).json()["geniehive"]
    assert listed["effective_request_policy"]["body_defaults"] == {"chat_template_kwargs": {"enable_thinking": False}}
