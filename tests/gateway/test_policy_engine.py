"""Policies on a real llama.cpp: it takes what we make of a body, and counts the prompt we put there."""

from __future__ import annotations

import json

import httpx
import msgspec
import pytest

from geniehive.resources import Asset, Operation, Role
from nodeagent.embedded import tiny_model
from nodeagent.embedded.options import EngineOptions
from tests.engine_fixture import running_engine
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
        async with httpx.AsyncClient() as http:
            listed = (await http.get(gw.url + "/v1/models/m")).json()["geniehive"]
    assert listed["effective_request_policy"]["body_defaults"] == {"chat_template_kwargs": {"enable_thinking": False}}


# As Qwen3's own template goes about it: it opens a thought for the model, or closes it at once where that is asked for.
THINKING_TEMPLATE = r"""
{%- for message in messages %}
{{- '<|im_start|>' + message['role'] + '\n' }}
{%- if message['reasoning_content'] %}{{ '<think>\n' + message['reasoning_content'] + '\n</think>\n\n' }}{% endif %}
{{- message['content'] + '<|im_end|>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<|im_start|>assistant\n<think>\n' }}
{%- if enable_thinking is defined and enable_thinking is false %}{{ '\n</think>\n\n' }}{% endif %}
{%- endif %}"""


@pytest.fixture(scope="module")
def thinker(tmp_path_factory):
    """A real llama.cpp whose model thinks as Qwen3 does: for ever, since its words are noise."""
    folder = tmp_path_factory.mktemp("thinker")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiny_model, "_CHAT_TEMPLATE", THINKING_TEMPLATE)
        tiny_model.write_tiny_model(folder / "qwen3-tiny.gguf")
    options = EngineOptions(model=folder / "qwen3-tiny.gguf", alias="qwen3:tiny", predict=8, cache_dir=folder)
    with running_engine(options) as server:
        yield server


def events_of(answer):
    """What the events of a stream hold."""
    return [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: {")]


async def test_a_thinking_qwen3_answers_at_once_behind_the_gateway_and_thinks_where_it_is_asked_to(thinker):
    on = {"chat_template_kwargs": {"enable_thinking": True}}
    async with gateway(engine(thinker)) as gw:
        message = (await chat(gw)).json()["choices"][0]["message"]
        assert message["content"]
        assert "reasoning_content" not in message
        thought = (await chat(gw, **on, include_reasoning=True)).json()["choices"][0]["message"]
        assert thought["reasoning_content"]
        assert not thought["content"]
        hidden = (await chat(gw, **on)).json()
        assert "reasoning_content" not in hidden["choices"][0]["message"]
        assert hidden["usage"]["completion_tokens"] == 4


async def test_the_thoughts_of_a_real_stream_are_taken_out_and_its_end_is_whole(thinker):
    on = {"chat_template_kwargs": {"enable_thinking": True}, "stream": True, "stream_options": {"include_usage": True}}
    async with gateway(engine(thinker)) as gw:
        passed = await chat(gw, **on, include_reasoning=True)
        stripped = await chat(gw, **on)
    thoughts = [
        each for each in events_of(passed) for choice in each["choices"] if "reasoning_content" in choice["delta"]
    ]
    assert len(thoughts) >= 3
    assert b"reasoning_content" not in stripped.content
    seen = events_of(stripped)
    assert len(seen) == len(events_of(passed))
    assert [choice["finish_reason"] for each in seen for choice in each["choices"]][-1] == "length"
    assert seen[-1]["usage"]["completion_tokens"] == 4
    assert stripped.content.endswith(b"data: [DONE]\n\n")
