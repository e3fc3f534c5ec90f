"""Ollama's API through the gateway: its own client, other engines behind it, and what breaks on the way."""

import asyncio
import json
from hashlib import sha256
from pathlib import Path

import httpx
import msgspec
import ollama
import pytest
from aiohttp import ClientSession

from geniehive.resources import AccessKey, Asset, Operation, Role
from nodeagent.engines import fingerprint
from tests.gateway.harness import gateway, raw, role, service, until
from tests.gateway.misbehaving import (
    CLOSE,
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

FIXTURES = Path(__file__).parents[2] / "fixtures" / "ollama"
USER = [{"role": "user", "content": "hi 👋"}]


def client(gw):
    unkept = httpx.Limits(max_keepalive_connections=0)  # nobody closes this client, so it keeps no connection open
    return ollama.AsyncClient(gw.url, timeout=20, trust_env=False, limits=unkept)


async def post(gw, path, body, **kwargs):
    async with httpx.AsyncClient(timeout=20) as http:
        return await http.post(gw.url + path, json=body, **kwargs)


def recorded(name):
    return json.loads((FIXTURES / name).read_text())


async def test_ollamas_own_client_chats_with_and_without_a_stream():
    async with upstream((completion("hello"), KEEP), stream("hel", "lo 👋")) as up, gateway(up.url) as gw:
        told = await client(gw).chat("nick", USER, options={"num_predict": 5})
        assert (told.message.content, told.done, told.done_reason, told.eval_count) == ("hello", True, "stop", 2)
        assert up.seen[0].path == "/v1/chat/completions"
        assert up.seen[0].json == {"model": "m", "messages": USER, "max_tokens": 5}
        parts = [part async for part in await client(gw).chat("nick", USER, stream=True)]
        assert "".join(part.message.content for part in parts) == "hello 👋"
        assert [part.done for part in parts] == [False, False, True]
        assert parts[-1].model == "nick"
        assert gw.in_flight.counts == {}


@pytest.mark.parametrize("streamed", [True, False])
async def test_receipts_tell_what_the_engine_told(streamed):
    usage = event({"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2}})
    events = (STREAM_HEAD, chunk(delta("a", finish="stop")), chunk(usage), chunk(b"data: [DONE]\n\n"), LAST_CHUNK, KEEP)
    script = events if streamed else (completion("hello"), KEEP)
    async with upstream(script) as up, gateway(up.url) as gw:
        found = await post(gw, "/api/chat", {"model": "m", "messages": USER, "stream": streamed})
        async with httpx.AsyncClient(base_url=gw.url) as http:
            told = (await http.get(f"/v1/cluster/requests/{found.headers['x-request-id']}")).json()
        assert (told["prompt_tokens"], told["completion_tokens"], told["finish_reason"]) == (3, 2, "stop")


async def test_ollamas_own_client_generates_and_embeds():
    text = answer(body={"choices": [{"text": "raw", "finish_reason": "stop"}]})
    data = {
        "data": [{"index": 0, "embedding": [0.5, 1]}, {"index": 1, "embedding": [1, 0]}],
        "usage": {"prompt_tokens": 3},
    }
    scripts = [(completion("hello"), KEEP), (text, KEEP), (answer(body=data), KEEP)]
    async with upstream(*scripts, (answer(body=data), KEEP)) as up, gateway(up.url) as gw:
        assert (await client(gw).generate("m", "hi", system="s")).response == "hello"
        assert (await client(gw).generate("m", "hi", raw=True)).response == "raw"
        assert [seen.path for seen in up.seen] == ["/v1/chat/completions", "/v1/completions"]
        found = await client(gw).embed("m", ["a", "b"])
        assert (found.embeddings, found.prompt_eval_count) == ([[0.5, 1], [1, 0]], 3)
        assert (await client(gw).embeddings("m", "a")).embedding == [0.5, 1]


async def test_ollamas_own_client_uses_tools_in_a_loop():
    call = {"index": 0, "id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1, "b": 2}'}}
    head = event({"choices": [{"index": 0, "delta": {"tool_calls": [call]}, "finish_reason": None}]})
    ended = event({"choices": [{"index": 0, "delta": {}, "finish_reason": "tool_calls"}]})
    wants = (STREAM_HEAD, chunk(head), chunk(ended), chunk(b"data: [DONE]\n\n"), LAST_CHUNK, KEEP)

    def add(a: int, b: int) -> int:
        """Add.

        Args:
            a: one
            b: other
        """
        return a + b

    async with upstream(wants, stream("3")) as up, gateway(up.url) as gw:
        parts = [part async for part in await client(gw).chat("m", USER, tools=[add], stream=True)]
        (found,) = parts[0].message.tool_calls
        assert (found.function.name, add(**found.function.arguments)) == ("add", 3)
        history = [*USER, parts[0].message, {"role": "tool", "tool_name": "add", "content": "3"}]
        parts = [part async for part in await client(gw).chat("m", history, stream=True)]
        assert parts[0].message.content == "3"
        assert up.seen[0].json["tools"][0]["function"]["name"] == "add"
        sent = up.seen[1].json["messages"]
        assert sent[1]["tool_calls"][0]["function"] == {"name": "add", "arguments": '{"a":1,"b":2}'}
        assert sent[2] == {"role": "tool", "content": "3", "tool_call_id": sent[1]["tool_calls"][0]["id"]}


CUT = {
    "reset": (STREAM_HEAD, chunk(delta("he")), RESET),
    "closed": (STREAM_HEAD, chunk(delta("he")), CLOSE),
    "clean end without a finish": (STREAM_HEAD, chunk(delta("he")), LAST_CHUNK),
    "an error event": (
        STREAM_HEAD,
        chunk(delta("he")),
        chunk(event({"error": {"message": "out of VRAM"}})),
        LAST_CHUNK,
    ),
    "hang": (STREAM_HEAD, chunk(delta("he")), HANG),
}


@pytest.mark.parametrize("script", CUT.values(), ids=CUT)
async def test_a_cut_stream_ends_with_an_error_and_is_never_done(script):
    async with upstream(script) as up, gateway(up.url, idle_timeout_s=0.3) as gw:
        found = await post(gw, "/api/chat", {"model": "m", "messages": USER})
        lines = [json.loads(line) for line in found.content.splitlines()]
        assert lines[0]["message"]["content"] == "he"
        assert lines[-1].keys() == {"error"}
        assert isinstance(lines[-1]["error"], str)
        assert not any(line.get("done") for line in lines)
        with pytest.raises(ollama.ResponseError):
            [part async for part in await client(gw).chat("m", USER, stream=True)]
        assert gw.in_flight.counts == {}


@pytest.mark.parametrize("done", [True, False])
async def test_a_stream_that_came_to_its_end_is_done_once(done):
    async with upstream(stream("a", done=done)) as up, gateway(up.url) as gw:
        found = await post(gw, "/api/generate", {"model": "m", "prompt": "x"})
        assert found.headers["content-type"] == "application/x-ndjson"
        assert [json.loads(line)["done"] for line in found.content.splitlines()] == [False, True]


async def test_a_failure_before_the_first_byte_goes_to_the_next_candidate_or_is_told_in_ollamas_shape():
    async with upstream((RESET,)) as bad, upstream(stream("ok")) as good:
        async with gateway(bad.url, good.url) as gw:
            parts = [part async for part in await client(gw).chat("m", USER, stream=True)]
            assert parts[0].message.content == "ok"
        async with gateway(bad.url) as gw:
            found = await post(gw, "/api/chat", {"model": "m", "messages": USER})
            assert found.status_code == 502
            assert isinstance(found.json()["error"], str)


async def test_an_engine_that_keeps_silent_gets_no_comment_lines():
    async with upstream((0.5, *stream("a"))) as up, gateway(up.url, keepalive_comment_s=0.1) as gw:
        found = await post(gw, "/api/chat", {"model": "m", "messages": USER})
        assert [json.loads(line)["done"] for line in found.content.splitlines()] == [False, True]


async def test_a_client_that_goes_away_cancels_the_engine():
    async with upstream((STREAM_HEAD, chunk(delta("he")), HANG)) as up, gateway(up.url) as gw:
        body = json.dumps({"model": "m", "messages": USER}).encode()
        reader, writer = await asyncio.open_connection("127.0.0.1", gw.port)
        writer.write(b"POST /api/chat HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
        await reader.readuntil(b'"he"')
        writer.close()
        await asyncio.wait_for(up.gone.wait(), 20)
        await until(lambda: gw.in_flight.counts == {})


REFUSED = answer(400, {"error": {"message": "context too long", "type": "x", "param": None, "code": None}})
ERRORS = [
    ({"model": "nope", "messages": USER}, 404, "'nope' does not exist"),
    ({"messages": USER}, 400, "model"),
    ({"model": "m", "messages": "x"}, 400, "messages"),
    ({"model": "m", "messages": USER, "stream": "yes"}, 400, "stream"),
    ({"model": "m", "messages": USER}, 400, "context too long"),
]


@pytest.mark.parametrize(("body", "status", "said"), ERRORS)
async def test_errors_are_a_bare_text_as_ollamas_are(body, status, said):
    async with upstream((REFUSED, KEEP)) as up, gateway(up.url) as gw:
        found = await post(gw, "/api/chat", body)
        assert found.status_code == status
        assert said in found.json()["error"]
        assert found.json().keys() == recorded("error_404.json").keys()
        with pytest.raises(ollama.ResponseError) as caught:
            await client(gw).chat("nope", USER)
        assert caught.value.status_code == 404


@pytest.mark.parametrize("name", ["pull", "push", "create", "delete", "copy", "blobs/sha256:00"])
async def test_nothing_changes_an_engine(name):
    async with upstream((answer(), KEEP)) as up, gateway(up.url, keys=("k",)) as gw:
        async with httpx.AsyncClient(base_url=gw.url) as http:
            for method in ("POST", "DELETE", "PUT", "GET"):
                found = await http.request(method, f"/api/{name}", json={"model": "m"})
                assert found.status_code == 404
                assert "engine's own tools" in found.json()["error"]["message"]
            assert (await http.get("/api/tags")).status_code == 401
        assert up.seen == []


LLM = Asset(
    asset_id="qwen3:8b", aliases=("nick",), loaded=True, context_size=8192, family="qwen3", parameter_size="8.2B",
    quantization="Q4_K_M", capabilities=("tools", "thinking", "odd"), size_bytes=5_200_000_000,
    vram_bytes=6_000_000_000,
)  # fmt: skip


def cluster():
    llm = service(1, "http://127.0.0.1:1", operations=(Operation.CHAT,))
    cold = service(2, "http://127.0.0.1:1", asset="bge", operations=(Operation.EMBEDDINGS,))
    ears = service(3, "http://127.0.0.1:1", asset="whisper", operations=(Operation.TRANSCRIPTION,))
    put = msgspec.structs.replace
    cold = put(cold, assets=(put(cold.assets[0], loaded=False, aliases=()),))
    return gateway(put(llm, assets=(LLM,)), cold, ears, roles=[role("code", preferred_families=("qwen3",))])


async def test_tags_and_ps_are_as_ollama_writes_them():
    async with cluster() as gw:
        tags, ps = await client(gw).list(), await client(gw).ps()
        assert [model.model for model in tags.models] == ["bge", "qwen3:8b", "code"]
        llm = tags.models[1]
        assert (llm.size, llm.details.parameter_size, llm.details.quantization_level) == (
            5_200_000_000,
            "8.2B",
            "Q4_K_M",
        )
        assert len(llm.digest) == 64
        assert [(model.model, model.size_vram, model.context_length) for model in ps.models] == [
            ("qwen3:8b", 6_000_000_000, 8192)
        ]
        async with httpx.AsyncClient(base_url=gw.url) as http:
            raw_tags, raw_ps = (await http.get("/api/tags")), (await http.get("/api/ps")).json()
            again = await http.get("/api/tags")
        assert raw_tags.content == again.content
        own, theirs = raw_tags.json()["models"][1], recorded("tags.json")["models"][0]
        assert own.keys() == theirs.keys()
        assert theirs["details"].keys() - own["details"].keys() <= {"embedding_length"}
        assert own["capabilities"] == ["completion", "tools", "thinking"]
        assert raw_ps["models"][0].keys() == recorded("ps_loaded.json")["models"][0].keys()


async def test_a_key_sees_what_it_may_ask_for():
    key = AccessKey(name="k", secret_sha256=sha256(b"k").digest(), models=("nick",), operations=(Operation.CHAT,))
    async with cluster() as gw, httpx.AsyncClient(base_url=gw.url, headers={"x-api-key": "k"}) as http:
        gw.view.replace(msgspec.structs.replace(gw.view.table.shape, access_keys={"k": key}))
        for path in ("/api/tags", "/api/ps"):
            assert [model["name"] for model in (await http.get(path)).json()["models"]] == ["qwen3:8b"]
        assert (await http.post("/api/show", json={"model": "qwen3:8b"})).status_code == 200
        for name in ("bge", "code"):
            assert (await http.post("/api/show", json={"model": name})).status_code == 403
            assert (await http.post("/api/chat", json={"model": name, "messages": USER})).status_code == 403
            assert (await http.post("/api/generate", json={"model": name})).status_code == 403
        told = (await http.get("/v1/model/info")).json()["data"]
        assert [entry["model_name"] for entry in told] == ["qwen3:8b"]


async def test_a_model_that_chats_is_not_told_as_one_that_only_embeds():
    both = service(1, "http://127.0.0.1:1", operations=(Operation.CHAT, Operation.EMBEDDINGS))
    only = service(2, "http://127.0.0.1:1", asset="bge", operations=(Operation.EMBEDDINGS,))
    async with gateway(both, only) as gw, httpx.AsyncClient(base_url=gw.url) as http:
        told = {model["name"]: model["capabilities"] for model in (await http.get("/api/tags")).json()["models"]}
        assert told == {"m": ["completion"], "bge": ["embedding"]}  # `ollama run` embeds with what embeds


@pytest.mark.parametrize("name", ["qwen3:8b", "nick", "nick:latest", "code"])
async def test_show_tells_what_clients_choose_by(name):
    async with cluster() as gw:
        found = await client(gw).show(name)
        assert found.capabilities == ["completion", "tools", "thinking"]
        assert found.modelinfo["general.architecture"] == "qwen3"
        assert found.modelinfo["qwen3.context_length"] == 8192
        assert found.modelinfo["general.parameter_count"] == 8_200_000_000
        raw_show = (await post(gw, "/api/show", {"name": name})).json()
        assert recorded("show.json").keys() - raw_show.keys() <= {"tensors"}
        assert (await post(gw, "/api/show", {"model": "nope"})).status_code == 404
        assert (await post(gw, "/api/show", {})).status_code == 400


async def test_a_request_without_a_prompt_is_answered_as_a_load_and_moves_nothing():
    async with upstream((answer(), KEEP)) as up, gateway(up.url) as gw:
        load = (await post(gw, "/api/generate", {"model": "m"})).json()
        assert load.keys() == recorded("load.json").keys()
        assert load["done_reason"] == "load"
        unload = (await post(gw, "/api/chat", {"model": "m", "messages": [], "keep_alive": 0})).json()
        assert (unload["done_reason"], unload["message"]["content"]) == ("unload", "")
        assert (await post(gw, "/api/generate", {"model": "nope"})).status_code == 404
        assert up.seen == []


async def test_curls_own_content_type_is_taken_but_not_from_a_page():
    body = json.dumps({"model": "m", "messages": USER, "stream": False}).encode()
    head = b"POST /api/chat HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: %d\r\n" % len(body)
    kind = b"content-type: application/x-www-form-urlencoded\r\n"
    async with upstream((completion("hello"), KEEP)) as up, gateway(up.url) as gw:
        assert b"hello" in await raw(gw.port, head + kind + b"\r\n" + body)
        assert b"hello" in await raw(gw.port, head + b"\r\n" + body)
        assert (await raw(gw.port, head + kind + b"origin: http://evil\r\n\r\n" + body)).startswith(b"HTTP/1.1 415")
        assert len(up.seen) == 2


async def test_a_gateway_is_no_engine_to_a_node_agent_that_looks_for_one():
    async with cluster() as gw, ClientSession() as session:
        async with session.get(gw.url + "/api/version") as found:
            assert (await found.json()).keys() == {*recorded("version.json"), "geniehive"}
        assert await fingerprint(gw.url, session) is None


async def test_roles_and_policies_hold_for_ollamas_clients_too():
    shaped = {"role_id": "code", "prompt_policy": {"system_prompt": "Be brief."}}
    roles = [msgspec.convert(shaped, Role)]
    async with upstream((completion("hello"), KEEP)) as up, gateway(up.url, roles=roles) as gw:
        told = await client(gw).chat("code", USER)
        assert told.model == "code"
        assert up.seen[0].json["messages"] == [{"role": "system", "content": "Be brief."}, *USER]


@pytest.mark.parametrize("think", [True, None])
async def test_thoughts_reach_only_clients_that_ask_for_them(think):
    thought = event({"choices": [{"index": 0, "delta": {"reasoning_content": "hm"}, "finish_reason": None}]})
    script = (STREAM_HEAD, chunk(thought), *stream("a")[1:])
    async with upstream(script) as up, gateway(up.url) as gw:
        parts = [part async for part in await client(gw).chat("m", USER, think=think, stream=True)]
        assert "".join(part.message.thinking or "" for part in parts) == ("hm" if think else "")
