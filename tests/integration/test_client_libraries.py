"""Clients of others against a gateway with real llama.cpp behind it: openai for JavaScript, LangChain, llm, ollama.

`.ci/run` installs those that are not for Python's openai; without them a test is skipped, and fails in CI.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import msgspec
import ollama
import pytest

from geniehive.connect.choose import Choice, Choices
from geniehive.connect.clients import Setup, llm
from geniehive.connect.merge import merged
from geniehive.resources import Asset, Operation
from nodeagent.embedded.options import EngineOptions
from tests import tools
from tests.engine_fixture import LlamaServer, running_engine
from tests.gateway.harness import gateway, service

CLIENTS = Path(__file__).with_name("clients")
PATIENCE_S = 60
SERVED = (Operation.CHAT, Operation.COMPLETION, Operation.EMBEDDINGS)
CHANGING = {"id", "created", "timings"}


@asynccontextmanager
async def in_front_of(server: LlamaServer, *operations: Operation) -> AsyncIterator[str]:
    """The URL of a gateway whose one service is this llama.cpp."""
    behind = service(1, server.base_url, protocol="llamacpp", operations=operations or SERVED)
    asset = Asset(asset_id=server.model, loaded=True, context_size=4096)
    async with gateway(msgspec.structs.replace(behind, assets=(asset,))) as gw:
        yield gw.url


async def told_by(*command: str, **environ: str) -> str:
    """What a program prints; fails with its errors if it does."""
    ran = await asyncio.to_thread(
        subprocess.run,
        command,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
        env={**os.environ, "NO_PROXY": "*", "no_proxy": "*", **environ},
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


async def test_openai_for_javascript_uses_every_route(llama_server: LlamaServer) -> None:
    node, modules = tools.require_tool("node"), tools.require_folder("npm-clients/node_modules/openai").parent
    async with in_front_of(llama_server) as url:
        told = await told_by(node, str(CLIENTS / "openai_js.cjs"), str(modules), f"{url}/v1", llama_server.model)
    found = json.loads(told)
    assert (found["models"], found["model"]) == ([llama_server.model], llama_server.model)
    assert found["chat"] == found["stream"]
    assert found["chat"][1:] == ["length", 8]
    assert found["completion"] is True
    assert found["pieces"] >= 8
    assert found["embeddings"] == [64, 64]
    assert found["two"] == [2, 2]
    assert found["error"] == [True, "model_not_found", True]


async def test_langchain_chats_streams_completes_and_embeds(llama_server: LlamaServer) -> None:
    python = tools.require_folder("clients/bin") / "python"
    async with in_front_of(llama_server) as url:
        told = await told_by(str(python), str(CLIENTS / "langchain_client.py"), f"{url}/v1", llama_server.model)
    found = json.loads(told)
    assert found["chat"] == found["stream"]
    assert found["chat"][1:] == ["length", 8]
    assert found["completion"] is True
    assert found["embeddings"] == [64, 64]


async def test_llm_answers_with_what_geniehive_connect_writes_for_it(llama_server: LlamaServer, tmp_path: Path) -> None:
    program = str(tools.require_folder("clients/bin") / "llm")
    choice = Choice(llama_server.model)
    async with in_front_of(llama_server) as url:
        written = merged(llm(Setup(url, "", Choices(choice, choice))), None)
        (tmp_path / "extra-openai-models.yaml").write_text(written)
        where = {"LLM_USER_PATH": str(tmp_path)}
        asked = (
            program,
            "-m",
            f"geniehive/{llama_server.model}",
            "-o",
            "max_tokens",
            "8",
            "-o",
            "seed",
            "1",
            "Hello 👋",
        )
        streamed = await told_by(*asked, **where)
        assert streamed.strip()
        assert (await told_by(*asked, "--no-stream", **where)).strip()


async def test_ollamas_client_talks_to_llama_cpp(llama_server: LlamaServer) -> None:
    options = {"num_predict": 8, "temperature": 0, "seed": 1}
    question = [{"role": "user", "content": "Hello 👋"}]
    async with in_front_of(llama_server) as url:
        client = ollama.AsyncClient(url, timeout=PATIENCE_S, trust_env=False)
        assert [model.model for model in (await client.list()).models] == [llama_server.model]
        whole = await client.chat(llama_server.model, question, options=options)
        parts = [part async for part in await client.chat(llama_server.model, question, options=options, stream=True)]
        assert "".join(part.message.content or "" for part in parts) == whole.message.content
        last = parts[-1]
        assert (last.done, last.done_reason, last.eval_count) == (True, "length", 8)
        assert last.prompt_eval_count == whole.prompt_eval_count
        for told in (whole, last):
            assert 0 < (told.eval_duration or 0) < (told.total_duration or 0)
        raw = await client.generate(llama_server.model, "Once", raw=True, options=options)
        assert (raw.response, raw.done) != ("", False)
        vectors = (await client.embed(llama_server.model, ["one", "two"])).embeddings
        assert [len(vector) for vector in vectors] == [64, 64]
        schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
        shaped = await client.chat(llama_server.model, question, format=schema, options={**options, "num_predict": 64})
        assert shaped.message.content.lstrip().startswith("{")


SAME: list[tuple[str, dict[str, Any]]] = [
    ("/v1/completions", {"prompt": "Grüße 👋", "logprobs": 2, "n": 2}),
    ("/v1/completions", {"prompt": [1, 2, 3], "stop": ["\n"], "unknown": [None, {}, []]}),
    ("/v1/embeddings", {"input": ["ä", "b"], "encoding_format": "base64"}),
    ("/v1/embeddings", {"input": []}),
    ("/v1/chat/completions/input_tokens", {"messages": [{"role": "user", "content": "hi"}]}),
    ("/v1/images/generations", {"prompt": "x"}),
]


@pytest.mark.parametrize(("path", "body"), SAME)
async def test_the_answers_are_those_of_the_engine_itself(
    path: str, body: dict[str, Any], llama_server: LlamaServer
) -> None:
    body = {"model": llama_server.model, "temperature": 0, "seed": 1, "max_tokens": 6, "cache_prompt": False, **body}
    async with (
        in_front_of(llama_server, *SERVED, Operation.IMAGE) as url,
        httpx.AsyncClient(timeout=PATIENCE_S, trust_env=False) as http,
    ):
        direct = await http.post(llama_server.base_url + path, json=body)
        through = await http.post(url + path, json=body)
    assert through.status_code == direct.status_code
    if direct.status_code == 200:
        assert without(through.json()) == without(direct.json())
    else:
        assert through.json()["error"]["message"] == direct.json()["error"]["message"]


async def test_rerank_of_a_real_llama_cpp_comes_through_under_every_name(tmp_path: Path) -> None:
    with running_engine(EngineOptions(cache_dir=tmp_path, embedding=True, pooling="rank")) as server:
        body = {"model": server.model, "query": "a", "documents": ["b", "größer 👋"], "top_n": 2}
        async with (
            in_front_of(server, Operation.RERANK) as url,
            httpx.AsyncClient(timeout=PATIENCE_S, trust_env=False) as http,
        ):
            direct = (await http.post(f"{server.base_url}/v1/rerank", json=body)).json()
            for path in ("/v1/rerank", "/rerank", "/v2/rerank"):
                assert without((await http.post(url + path, json=body)).json()) == without(direct)
    assert len(direct["results"]) == 2


def without(answer: dict[str, Any]) -> dict[str, Any]:
    """An answer without what is different each time."""
    return {key: value for key, value in answer.items() if key not in CHANGING}
