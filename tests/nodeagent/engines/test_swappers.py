"""Lemonade and llama-swap, field by field: servers that start other servers."""

from geniehive.resources import Operation
from nodeagent.engines.lemonade import Lemonade
from nodeagent.engines.llamaswap import LlamaSwap
from nodeagent.engines.naming import CHAT
from tests.nodeagent.engines.looking import looking, ordering
from tests.nodeagent.engines.replay import Answer, fixture


async def test_lemonade_tells_what_is_loaded_and_what_each_is_for():
    async with looking("lemonade") as (look, _):
        state = await look()
    qwen, nomic = state.assets
    assert (qwen.asset_id, qwen.loaded, qwen.context_size) == ("Qwen3-8B-GGUF", True, 16384)
    assert (qwen.family, qwen.quantization, qwen.size_bytes) == ("qwen3", "Q4_K_M", 5_250_000_000)
    assert (qwen.capabilities, qwen.operations) == (("tools", "thinking"), CHAT)
    assert nomic.operations == (Operation.EMBEDDINGS,)
    assert (state.version, state.observed.loaded_model_count, state.observed.running) == ("11.8.0", 2, None)


async def test_an_empty_lemonade_has_nothing_loaded():
    async with looking("lemonade", {"GET /v1/health": fixture("lemonade/v1_health_empty.json")}) as (look, _):
        state = await look()
    assert [asset.loaded for asset in state.assets] == [False, False]
    assert state.observed.loaded_model_count == 0


async def test_lemonade_is_told_the_model_by_its_own_word():
    async with ordering("lemonade", {"POST /v1/load": Answer(), "POST /v1/unload": Answer()}) as (http, server):
        await Lemonade().load(http, "Qwen3-8B-GGUF", 8192)
        await Lemonade().unload(http, "Qwen3-8B-GGUF")
    assert server.bodies == [
        ("POST /v1/load", {"model_name": "Qwen3-8B-GGUF", "ctx_size": 8192}),
        ("POST /v1/unload", {"model_name": "Qwen3-8B-GGUF"}),
    ]


async def test_llama_swap_is_looked_at_without_loading_anything():
    async with looking("llamaswap") as (look, _):
        state = await look()
    assert {asset.asset_id: asset.loaded for asset in state.assets} == {
        "nomic-embed": True,
        "qwen3-8b": True,
        "qwen3-32b": False,
    }
    assert (state.observed.loaded_model_count, state.observed.running) == (2, None)
    assert state.assets[0].operations == (Operation.EMBEDDINGS,)


async def test_a_model_that_llama_swap_is_starting_is_not_loaded_yet():
    async with looking("llamaswap", {"GET /running": fixture("llamaswap/running_starting.json")}) as (look, _):
        state = await look()
    assert not any(asset.loaded for asset in state.assets)


async def test_llama_swap_loads_through_upstream_and_unloads_by_name():
    routes = {
        "GET /upstream/qwen3-8b/v1/models": Answer(),
        "POST /api/models/unload/qwen3-8b": Answer("OK", content_type="text/plain"),
    }
    async with ordering("llamaswap", routes) as (http, server):
        await LlamaSwap().load(http, "qwen3-8b")
        await LlamaSwap().unload(http, "qwen3-8b")
    assert server.asked == ["GET /upstream/qwen3-8b/v1/models", "POST /api/models/unload/qwen3-8b"]
