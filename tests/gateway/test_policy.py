"""Request policies end to end: what the engine gets, what the client gets back."""

from __future__ import annotations

import json
import re
from pathlib import Path

import httpx
import msgspec
import pytest

from geniehive.resources import Asset, Operation, Role
from geniehive.roles_file import parse_roles
from tests.gateway.harness import gateway, role, service
from tests.gateway.misbehaving import (
    DONE,
    KEEP,
    LAST_CHUNK,
    RESET,
    STREAM_HEAD,
    answer,
    chunk,
    completion,
    event,
    upstream,
)

ASK = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
STREAM = {**ASK, "stream": True}


def of_asset(url, number=1, asset_id="m", protocol="openai", **policy):
    """A service whose asset has this request policy."""
    asset = msgspec.convert({"asset_id": asset_id, "loaded": True, "request_policy": policy}, Asset)
    return msgspec.structs.replace(service(number, url, protocol=protocol), assets=(asset,))


def of_role(role_id="r", routing=None, **policy):
    """A role with this prompt policy."""
    return msgspec.convert({"role_id": role_id, "prompt_policy": policy, "routing_policy": routing or {}}, Role)


def thought(**fields):
    """An answer with these fields in its message."""
    message = {"role": "assistant", "content": "yes", **fields}
    return {
        "id": "c",
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": {"completion_tokens": 9},
    }


def piece(finish=None, **delta):
    return event({"id": "c", "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]})


USAGE = event(
    {"id": "c", "choices": [], "usage": {"completion_tokens": 9, "completion_tokens_details": {"reasoning_tokens": 7}}}
)
THINKING = (
    piece(role="assistant", content=None),
    piece(reasoning_content="hm"),
    piece(reasoning_content="m", content="y"),
    piece(content="es"),
    piece("stop", reasoning="ok"),
    USAGE,
    DONE,
)
SPOKEN = (
    THINKING[0],
    piece(),
    piece(content="y"),
    THINKING[3],
    piece("stop"),
    USAGE,
    DONE,
)


def streamed(pieces, size=None):
    """A stream, one HTTP chunk for each event, or cut anywhere into chunks of so many bytes."""
    whole = b"".join(pieces)
    cut = pieces if size is None else [whole[at : at + size] for at in range(0, len(whole), size)]
    return (STREAM_HEAD, *map(chunk, cut), LAST_CHUNK, KEEP)


async def ask(gw, body, path="/v1/chat/completions"):
    async with httpx.AsyncClient() as http:
        found = await http.post(gw.url + path, json=body)
    assert found.status_code == 200, found.text
    return found


async def test_a_role_shapes_the_body_that_the_engine_gets():
    shaping = of_role(
        system_prompt="Be brief.",
        user_template="Q: {input}",
        request_policy={
            "body_defaults": {"temperature": 0.2, "options": {"a": 1, "b": 2}},
            "body_overrides": {"max_tokens": 50},
        },
    )
    async with upstream((completion(), KEEP)) as up, gateway(up.url, roles=(shaping,)) as gw:
        await ask(gw, {**ASK, "model": "r", "max_tokens": 9999, "options": {"b": 3}})
        assert up.seen[0].json == {
            "model": "m",
            "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Q: hi"}],
            "max_tokens": 50,
            "options": {"a": 1, "b": 3},
            "temperature": 0.2,
        }
        await ask(gw, ASK)
        assert up.seen[1].json == ASK


async def test_each_attempt_is_shaped_for_its_own_asset_and_role():
    first = of_role("first", {"assets": ["m"], "fallback_roles": ["second"]}, system_prompt="one")
    second = of_role("second", {"assets": ["n"]}, system_prompt="two")
    async with (
        upstream((answer(503, {"error": {"message": "busy"}}), KEEP)) as bad,
        upstream((completion(), KEEP)) as good,
    ):
        one = of_asset(bad.url, 1, "m", body_defaults={"seed": 1})
        two = of_asset(good.url, 2, "n", body_defaults={"seed": 2})
        async with gateway(one, two, roles=(first, second)) as gw:
            await ask(gw, {**ASK, "model": "first"})
        assert [(up.seen[0].json["seed"], up.seen[0].json["messages"][0]["content"]) for up in (bad, good)] == [
            (1, "one"),
            (2, "two"),
        ]


async def test_qwen3_is_asked_not_to_think_and_the_other_bytes_stay():
    body = b'{ "model":"qwen3:8b", "seed": 1.50e+1, "messages":[{"role":"user","content":"hi"}] }'
    async with upstream((completion(), KEEP)) as up, gateway(of_asset(up.url, asset_id="qwen3:8b")) as gw:
        async with httpx.AsyncClient() as http:
            headers = {"content-type": "application/json"}
            await http.post(gw.url + "/v1/chat/completions", content=body, headers=headers)
        added = b',"chat_template_kwargs":{"enable_thinking":false}}'
        assert up.seen[0].body == body[:-1] + added
        await ask(gw, {**ASK, "model": "qwen3:8b", "chat_template_kwargs": {"enable_thinking": True}})
        assert up.seen[1].json["chat_template_kwargs"] == {"enable_thinking": True}


async def test_parameters_that_engines_must_not_see_are_dropped():
    hidden = {"n_discard": 3, "api_base": "http://169.254.169.254", "base_url": "x", "include_reasoning": False}
    async with upstream((completion(), KEEP)) as up, gateway(up.url) as gw:
        await ask(gw, {**ASK, **hidden, "seed": 1})
        assert up.seen[0].json == {**ASK, "seed": 1}
    async with upstream((completion(), KEEP)) as up, gateway(up.url, dropped_parameters=("seed",)) as gw:
        await ask(gw, {**ASK, "seed": 1, "n_discard": 3})
        assert up.seen[0].json == {**ASK, "n_discard": 3}


@pytest.mark.parametrize("fields", [{"reasoning_content": "hm"}, {"reasoning": "hm", "reasoning_content": None}])
async def test_reasoning_is_stripped_from_a_plain_answer_unless_it_is_wanted(fields):
    sent = thought(**fields)
    async with upstream((answer(body=sent), KEEP)) as up:
        passing = of_role(request_policy={"reasoning": "pass"})
        async with gateway(up.url, roles=(passing,)) as gw:
            assert (await ask(gw, ASK)).json() == thought()
            assert (await ask(gw, {**ASK, "include_reasoning": True})).json() == sent
            assert (await ask(gw, {**ASK, "model": "r"})).json() == sent
            assert (await ask(gw, {**ASK, "model": "r", "include_reasoning": False})).json() == thought()
            assert all("include_reasoning" not in seen.json for seen in up.seen)
        async with gateway(of_asset(up.url, reasoning="pass")) as gw:
            assert (await ask(gw, ASK)).json() == sent


@pytest.mark.parametrize("size", [None, 1, 7, 64, 10_000])
async def test_reasoning_is_stripped_from_a_stream_however_it_is_cut(size):
    async with upstream(streamed(THINKING, size)) as up, gateway(up.url) as gw:
        found = await ask(gw, STREAM)
        assert found.content == b"".join(SPOKEN)
        found = await ask(gw, {**STREAM, "include_reasoning": True})
        assert found.content == b"".join(THINKING)


async def test_a_stream_that_breaks_while_it_thinks_ends_in_an_error():
    async with upstream((STREAM_HEAD, chunk(THINKING[1]), 0.05, RESET)) as up, gateway(up.url) as gw:
        found = await ask(gw, STREAM)
        first, second = found.content.split(b"\n\n")[:2]
        assert first + b"\n\n" == SPOKEN[1]
        assert "error" in json.loads(second.removeprefix(b"data: "))
        assert b"[DONE]" not in found.content


@pytest.mark.parametrize("asked", ["yes", 1, []])
async def test_include_reasoning_is_true_or_false(asked):
    async with gateway("http://127.0.0.1:1") as gw, httpx.AsyncClient() as http:
        found = await http.post(gw.url + "/v1/chat/completions", json={**ASK, "include_reasoning": asked})
        assert found.status_code == 400
        assert found.json()["error"]["param"] == "include_reasoning"


async def test_completions_and_embeddings_are_shaped_too():
    shaping = of_role(user_template="query: {input}")
    searching = msgspec.structs.replace(of_role("e", user_template="query: {input}"), operation=Operation.EMBEDDINGS)
    async with upstream((answer(body={"data": []}), KEEP)) as up, gateway(up.url, roles=(shaping, searching)) as gw:
        await ask(gw, {"model": "r", "prompt": "a"}, "/v1/completions")
        await ask(gw, {"model": "e", "input": ["a", "b"]}, "/v1/embeddings")
        assert up.seen[0].json == {"model": "m", "prompt": "query: a"}
        assert up.seen[1].json == {"model": "m", "input": ["query: a", "query: b"]}


async def test_the_catalogue_tells_what_is_done_to_requests():
    shaping = of_role(system_prompt="P", request_policy={"reasoning": "pass"})
    async with (
        gateway(
            of_asset("http://127.0.0.1:1", 1, "qwen3:8b", body_defaults={"seed": 1}),
            of_asset("http://127.0.0.1:2", 2, "qwen3:8b", "ollama"),
            roles=(shaping, role("bare", fallback_roles=("r",), assets=("none",))),
        ) as gw,
        httpx.AsyncClient() as http,
    ):
        found = {each["id"]: each["geniehive"] for each in (await http.get(gw.url + "/v1/models")).json()["data"]}
    off = {"chat_template_kwargs": {"enable_thinking": False}}
    own = {"body_defaults": {**off, "seed": 1}, "reasoning": "strip"}
    assert found["qwen3:8b"]["effective_request_policy"] == own
    assert found["qwen3:8b"]["request_policy_by_service"]["h2/s"]["body_defaults"] == {
        **off,
        "reasoning_effort": "none",
    }
    wanted = {
        "body_defaults": {**off, "seed": 1},
        "system_prompt": "P",
        "system_prompt_position": "prepend",
        "reasoning": "pass",
    }
    assert found["r"]["effective_request_policy"] == wanted
    assert found["bare"]["effective_request_policy"] == wanted  # through its fallback


async def test_the_worked_example_of_the_docs_is_true():
    page = (Path(__file__).parents[2] / "docs" / "roles.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```(yaml|json)\n(.*?)```", page.partition("## A worked example")[2], re.DOTALL)
    assert [kind for kind, _ in blocks] == ["yaml", "json", "json", "json"]
    roles = parse_roles(blocks[0][1], "docs/roles.md")
    sent, arrives, shown = (json.loads(text) for _, text in blocks[1:])
    async with upstream((completion(), KEEP)) as up:
        asset = of_asset(up.url, asset_id="qwen3:8b")
        async with gateway(asset, roles=roles) as gw, httpx.AsyncClient() as http:
            await ask(gw, sent)
            assert up.seen[0].json == arrives
            found = (await http.get(gw.url + "/v1/models/commit-message")).json()
            assert found["geniehive"]["effective_request_policy"] == shown
