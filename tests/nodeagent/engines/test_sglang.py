"""SGLang, field by field: looked at without generating a token."""

import pytest

from geniehive.errors import UpstreamError
from geniehive.resources import HealthStatus, Operation
from nodeagent.engines.naming import CHAT
from nodeagent.engines.sglang import SGLang
from tests.nodeagent.engines.looking import looking, ordering
from tests.nodeagent.engines.replay import Answer, fixture
from tests.nodeagent.engines.worlds import HEALTH_GENERATES


async def test_a_busy_engine_is_looked_at_without_generating_a_token():
    async with looking("sglang", forbidden=HEALTH_GENERATES) as (look, _):
        state = await look()
    observed = state.observed
    assert (observed.running, observed.waiting, observed.slots) == (4, 7, 2048)
    assert (observed.kv_cache_usage, observed.prefix_cache_hit_rate) == (0.0938, 0.3125)
    assert observed.tokens_per_second == pytest.approx(412.6 / 4)
    (asset,) = state.assets
    assert (asset.asset_id, asset.family, asset.context_size, asset.loaded) == ("Qwen/Qwen3-8B", "qwen3", 40960, True)
    assert asset.operations == CHAT
    assert state.version == "0.5.19"


async def test_data_parallel_ranks_are_added_up():
    async with looking("sglang", {"GET /v1/loads": fixture("sglang/v1_loads_dp.json")}) as (look, _):
        observed = (await look()).observed
    assert (observed.running, observed.waiting, observed.slots) == (5, 7, 4096)
    assert observed.kv_cache_usage == pytest.approx((0.0938 + 0.0156) / 2)


async def test_an_idle_engine_is_idle_and_has_no_speed():
    async with looking("sglang", {"GET /v1/loads": fixture("sglang/v1_loads_idle.json")}) as (look, _):
        observed = (await look()).observed
    assert (observed.running, observed.waiting, observed.tokens_per_second) == (0, 0, None)


async def test_an_engine_without_a_cache_is_loading_and_not_idle():
    async with looking("sglang", {"GET /v1/loads": fixture("sglang/v1_loads_not_ready.json")}) as (look, _):
        state = await look()
    assert state.health.status is HealthStatus.LOADING
    assert (state.observed.running, state.observed.loaded_model_count) == (None, 0)
    assert state.assets[0].loaded is False


async def test_gauges_that_repeat_for_each_rank_and_priority_are_not_added_up():
    async with looking("sglang", {"GET /metrics": fixture("sglang/metrics_priority_tp2.txt")}) as (look, _):
        assert (await look()).observed.running == 4


async def test_without_loads_load_is_unknown():
    async with looking("sglang", without=("GET /v1/loads", "GET /metrics")) as (look, _):
        state = await look()
    assert (state.observed.running, state.observed.waiting) == (None, None)
    assert state.health.status is HealthStatus.HEALTHY


async def test_a_model_that_does_not_generate_embeds():
    info = Answer('{"model_path": "intfloat/m", "is_generation": false}')
    async with looking("sglang", {"GET /model_info": info}) as (look, _):
        assert (await look()).assets[0].operations == (Operation.EMBEDDINGS,)


async def test_load_and_unload_are_memory_resumed_and_released():
    routes = {"POST /release_memory_occupation": Answer(""), "POST /resume_memory_occupation": Answer("")}
    async with ordering("sglang", routes) as (http, server):
        await SGLang().unload(http, "Qwen/Qwen3-8B")
        await SGLang().load(http, "Qwen/Qwen3-8B")
    assert [path for path, _ in server.bodies] == [
        "POST /release_memory_occupation",
        "POST /resume_memory_occupation",
    ]


async def test_a_refusal_names_the_fix():
    async with ordering("sglang", {"POST /release_memory_occupation": Answer("", 404)}) as (http, _):
        with pytest.raises(UpstreamError, match="--enable-memory-saver"):
            await SGLang().unload(http, "m")
