"""llama.cpp: the real one, its recorded answers, and router mode field by field."""

import asyncio
from dataclasses import replace

import httpx
import msgspec
import pytest

from geniehive.errors import UpstreamError
from geniehive.resources import HealthStatus, Operation
from nodeagent.engines import Http, engine_session, fingerprint
from nodeagent.engines.llamacpp import LlamaCpp, operations_from
from nodeagent.engines.naming import CHAT
from tests.nodeagent.engines.looking import looking, ordering
from tests.nodeagent.engines.replay import FIXTURES, Answer, fixture

EVERYTHING = (*CHAT, Operation.EMBEDDINGS)


async def test_the_real_one_is_recognised_looked_at_and_measured(llama_server):
    async with engine_session() as session:
        engine = await fingerprint(llama_server.base_url, session)
        assert isinstance(engine, LlamaCpp)
        http = Http(session, llama_server.base_url)
        first = await engine.look(http)
        body = {"prompt": "Once", "max_tokens": 8}
        await asyncio.to_thread(httpx.post, f"{llama_server.base_url}/v1/completions", json=body)
        second = await engine.look(http, first)
    (asset,) = first.assets
    assert (asset.asset_id, asset.loaded, asset.context_size) == (llama_server.model, True, 4096)
    assert (asset.operations, asset.quantization, asset.parameter_size) == (EVERYTHING, "F32", "138K")
    assert first.health.status is HealthStatus.HEALTHY
    assert (first.observed.slots, first.observed.loaded_model_count, first.observed.waiting) == (4, 1, 0)
    assert second.observed.tokens_per_second is not None
    assert second.observed.tokens_per_second > 0
    assert second.observed.vram_used_bytes is None


async def test_the_real_one_cannot_unload_its_only_model_and_says_what_to_do(llama_server):
    async with engine_session() as session:
        http = Http(session, llama_server.base_url)
        await LlamaCpp().load(http, llama_server.model)  # it is loaded already: done
        with pytest.raises(UpstreamError, match="router mode"):
            await LlamaCpp().unload(http, llama_server.model)
        with pytest.raises(UpstreamError, match="start a process of its own"):
            await LlamaCpp().load(http, "another-model")


async def test_the_recorded_answers_are_read():
    async with looking("llamacpp") as (look, server):
        state = await look()
        await look(state)
    assert state.operations == EVERYTHING
    assert state.any_name
    assert state.routes == ("/v1/responses", "/v1/messages")
    assert len(server.bodies) == 6, "what it can be asked for is asked once"
    assert "GET /slots" not in server.asked


async def test_a_server_that_loads_is_loading():
    async with looking("llamacpp", {"GET /health": fixture("llamacpp/health_loading.json", 503)}) as (look, server):
        state = await look()
    assert (state.health.status, state.health.reason) == (HealthStatus.LOADING, "Loading model")
    assert not state.complete
    assert server.asked == ["GET /health"]


async def test_without_metrics_load_is_unknown_and_not_idle():
    off = Answer('{"error": {"code": 501, "message": "Start it with `--metrics`", "type": "not_supported_error"}}', 501)
    async with looking("llamacpp", {"GET /metrics": off}) as (look, _):
        state = await look()
    assert (state.observed.running, state.observed.waiting) == (None, None)
    assert "--metrics" in state.notes[0]


async def test_a_sleeping_server_is_not_woken_by_a_look():
    props = (FIXTURES / "llamacpp/props.json").read_bytes().replace(b'"is_sleeping": false', b'"is_sleeping": true')
    async with looking("llamacpp", {"GET /props": Answer(props)}) as (look, server):
        state = await look()
    assert state.assets[0].loaded is False
    assert state.observed.loaded_model_count == 0
    assert server.bodies == []


async def test_nonsense_in_the_metrics_is_refused_value_by_value():
    page = "llamacpp:requests_processing NaN\nllamacpp:requests_deferred -3\nllamacpp:tokens_predicted_total 1e300\n"
    async with looking("llamacpp", {"GET /metrics": Answer(page)}) as (look, _):
        state = await look()
    observed = state.observed
    assert (observed.running, observed.waiting, observed.tokens_per_second, observed.slots) == (None, None, None, 4)


async def test_meta_may_be_null():
    models = b'{"data": [{"id": "/models/Qwen3-8B-Q4_K_M.gguf", "owned_by": "llamacpp", "meta": null}]}'
    async with looking("llamacpp", {"GET /v1/models": Answer(models)}) as (look, _):
        (asset,) = (await look()).assets
    assert asset.aliases == ("Qwen3-8B-Q4_K_M",)
    assert asset.family == "qwen3"


async def test_a_key_that_is_missing_is_asked_for():
    locked = Answer('{"error": {"message": "Invalid API Key", "code": 401}}', 401)
    async with looking("llamacpp", {"GET /props": locked}) as (look, _):
        health = (await look()).health
    assert health.status is HealthStatus.UNHEALTHY
    assert "api_key" in health.reason


@pytest.mark.parametrize(
    ("there", "name", "audio", "expected"),
    [
        ((True, False, False), "tiny", False, CHAT),
        ((True, True, False), "tiny", False, EVERYTHING),
        ((True, True, False), "bge-m3.gguf", False, (Operation.EMBEDDINGS,)),
        ((True, True, True), "bge-reranker.gguf", False, (Operation.RERANK,)),
        ((True, False, False), "voxtral", True, (*CHAT, Operation.TRANSCRIPTION)),
    ],
)
def test_what_a_server_can_be_asked_for(there, name, audio, expected):
    assert operations_from(*there, name=name, audio=audio) == expected


# --- router mode: field by field from llama.cpp's server-models.cpp -----------------------------


def router_models(**states: str) -> Answer:
    models = [
        {
            "id": name,
            "aliases": [],
            "object": "model",
            "owned_by": "llamacpp",
            "status": {"value": state.removesuffix("!"), "args": [], **({"failed": True} if "!" in state else {})},
            "architecture": {"input_modalities": ["text"], "output_modalities": ["text"]},
        }
        for name, state in states.items()
    ]
    return Answer(msgspec.json.encode({"object": "list", "data": models}))


ROUTER_PROPS = Answer(
    '{"role": "router", "build_info": "b1", "default_generation_settings": {"params": null, "n_ctx": 0}}'
)


def router(models: Answer, *awake: str):
    routes = {"GET /v1/models": models, "GET /props": ROUTER_PROPS}
    for name in awake:
        routes[f"GET /props?model={name}&autoload=false"] = fixture("llamacpp/props.json")
        routes[f"GET /metrics?model={name}&autoload=false"] = fixture("llamacpp/metrics.txt")
    return routes


async def test_a_router_is_looked_at_without_loading_anything():
    models = router_models(**{"qwen3-8b": "loaded", "gemma-3-4b": "unloaded", "bge-m3": "sleeping"})
    async with looking("llamacpp", router(models, "qwen3-8b")) as (look, server):
        state = await look()
    assert {asset.asset_id: asset.loaded for asset in state.assets} == {
        "qwen3-8b": True,
        "gemma-3-4b": False,
        "bge-m3": False,
    }
    assert (state.observed.loaded_model_count, state.observed.slots) == (1, 4)
    assert state.observed.waiting == 0
    asked = [path for path in server.asked if "?" in path]
    assert sorted(asked) == ["GET /metrics?model=qwen3-8b&autoload=false", "GET /props?model=qwen3-8b&autoload=false"]


async def test_a_router_with_nothing_in_memory_is_idle_and_one_that_loads_is_not_known():
    async with looking("llamacpp", router(router_models(a="unloaded"))) as (look, server):
        idle = (await look()).observed
        server.routes["GET /v1/models"] = router_models(a="loading")
        busy = (await look()).observed
    assert (idle.running, idle.waiting) == (0, 0)
    assert (busy.running, busy.waiting) == (None, None)


async def test_a_router_loads_and_the_order_ends_when_the_model_is_there():
    states = iter(["unloaded", "loading", "loaded"])

    async with ordering("llamacpp", {"POST /models/load": Answer('{"success": true}')}) as (http, server):
        server.routes["GET /v1/models"] = lambda _body: router_models(a=next(states))
        await LlamaCpp().load(http, "a")
    assert server.bodies == [("POST /models/load", {"model": "a"})]
    assert next(states, None) is None


async def test_a_router_that_fails_to_load_says_so():
    async with ordering("llamacpp", {"POST /models/load": Answer('{"success": true}')}) as (http, server):
        server.routes["GET /v1/models"] = router_models(a="unloaded!")
        with pytest.raises(UpstreamError, match="could not load a"):
            await LlamaCpp().load(http, "a")
        with pytest.raises(UpstreamError, match="knows no model b; it knows a"):
            await LlamaCpp().load(http, "b")


async def test_a_router_unloads_what_is_loaded_and_leaves_alone_what_is_not():
    states = iter(["loaded", "unloaded", "unloaded", "unloaded"])
    async with ordering("llamacpp", {"POST /models/unload": Answer('{"success": true}')}) as (http, server):
        server.routes["GET /v1/models"] = lambda _body: router_models(a=next(states))
        await LlamaCpp().unload(http, "a")
        await LlamaCpp().unload(http, "a")
    assert server.bodies == [("POST /models/unload", {"model": "a"})]


def test_a_state_can_be_compared_and_replaced():
    state = LlamaCpp().state(version="1")
    assert replace(state, version="1") == state
