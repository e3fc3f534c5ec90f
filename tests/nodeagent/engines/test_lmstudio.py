"""LM Studio, field by field: status 200 proves nothing."""

import pytest

from geniehive.errors import UpstreamError
from geniehive.resources import Operation
from nodeagent.engines.lmstudio import LMStudio
from nodeagent.engines.naming import CHAT
from tests.nodeagent.engines.looking import looking, ordering
from tests.nodeagent.engines.replay import Answer, fixture


async def test_loaded_is_what_has_instances():
    async with looking("lmstudio") as (look, _):
        state = await look()
    qwen, gemma, nomic = state.assets
    assert (qwen.asset_id, qwen.loaded, qwen.context_size) == ("qwen/qwen3-4b", True, 8192)
    assert (qwen.family, qwen.quantization, qwen.parameter_size) == ("qwen3", "Q4_K_M", "4B")
    assert (qwen.capabilities, qwen.operations, qwen.size_bytes) == (("tools",), CHAT, 2497280256)
    assert (gemma.loaded, gemma.context_size, gemma.capabilities) == (False, None, ("vision",))
    assert (nomic.operations, nomic.family) == ((Operation.EMBEDDINGS,), "")
    assert state.observed.loaded_model_count == 2
    assert (state.observed.running, state.observed.vram_used_bytes) == (None, None)


async def test_an_older_one_that_answers_200_to_everything_is_not_understood():
    async with looking("lmstudio", without=("GET /api/v1/models",)) as (look, _):
        with pytest.raises(UpstreamError, match=r"0\.4 or later"):
            await look()


ROUTES = {
    "GET /api/v1/models": fixture("lmstudio/api_v1_models.json"),
    "POST /api/v1/models/load": fixture("lmstudio/load.json"),
    "POST /api/v1/models/unload": fixture("lmstudio/unload.json"),
}


async def test_load_and_unload_go_by_instance():
    async with ordering("lmstudio", ROUTES) as (http, server):
        await LMStudio().load(http, "gemma-3-12b-it", 4096)
        await LMStudio().load(http, "qwen/qwen3-4b")  # there already
        await LMStudio().unload(http, "qwen/qwen3-4b")
        await LMStudio().unload(http, "gemma-3-12b-it")  # not there
    assert server.bodies == [
        ("POST /api/v1/models/load", {"model": "gemma-3-12b-it", "context_length": 4096}),
        ("POST /api/v1/models/unload", {"instance_id": "qwen/qwen3-4b"}),
    ]


async def test_a_refusal_with_status_200_is_a_refusal():
    refused = Answer('{"error": {"message": "not enough memory"}}')
    async with ordering("lmstudio", {**ROUTES, "POST /api/v1/models/load": refused}) as (http, _):
        with pytest.raises(UpstreamError, match="not enough memory"):
            await LMStudio().load(http, "gemma-3-12b-it")
        with pytest.raises(UpstreamError, match="no model mistral"):
            await LMStudio().load(http, "mistral")
