"""vLLM, field by field: what is switched off is unknown, and a sleeping engine is not idle."""

import pytest

from geniehive.errors import UpstreamError
from nodeagent.engines.naming import CHAT
from nodeagent.engines.vllm import VLLM
from tests.nodeagent.engines.looking import looking, ordering
from tests.nodeagent.engines.replay import Answer, fixture


async def test_a_busy_engine():
    async with looking("vllm") as (look, _):
        state = await look()
    observed = state.observed
    assert (observed.running, observed.waiting, observed.kv_cache_usage) == (3, 5, 0.4375)
    assert observed.prefix_cache_hit_rate == pytest.approx(3680 / 5030)
    assert observed.tokens_per_second == pytest.approx(17781 / 81.7)
    assert 0 < observed.ttft_seconds < 0.01
    assert 0.1 < observed.latency_seconds < 1.0
    assert observed.slots is None
    assert state.version == "0.33.0"


async def test_a_lora_adapter_is_a_model_with_the_context_of_the_one_under_it():
    async with looking("vllm") as (look, _):
        base, adapter = (await look()).assets
    assert (base.asset_id, base.family, base.context_size, base.loaded) == ("Qwen/Qwen3-8B", "qwen3", 40960, True)
    assert (adapter.asset_id, adapter.family, adapter.context_size) == ("sql-lora", "qwen3", 40960)
    assert adapter.operations == CHAT


async def test_without_log_stats_everything_is_unknown():
    async with looking("vllm", {"GET /metrics": fixture("vllm/metrics_log_stats_off.txt")}) as (look, _):
        state = await look()
    assert (state.observed.running, state.observed.waiting, state.observed.kv_cache_usage) == (None, None, None)
    assert "--disable-log-stats" in state.notes[0]


async def test_the_load_that_is_zero_for_ever_is_never_asked():
    async with looking("vllm", without=("GET /metrics",)) as (look, server):
        assert (await look()).observed.running is None
    assert "GET /load" not in server.asked


async def test_an_idle_engine_is_idle():
    async with looking("vllm", {"GET /metrics": fixture("vllm/metrics_idle.txt")}) as (look, _):
        observed = (await look()).observed
    assert (observed.running, observed.waiting) == (0, 0)


async def test_a_sleeping_engine_has_nothing_loaded():
    async with looking("vllm", {"GET /metrics": fixture("vllm/metrics_asleep.txt")}) as (look, _):
        state = await look()
    assert [asset.loaded for asset in state.assets] == [False, False]
    assert state.observed.loaded_model_count == 0


async def test_the_older_name_of_the_cache_metric_is_known():
    async with looking("vllm", {"GET /metrics": fixture("vllm/metrics_old.txt")}) as (look, _):
        assert (await look()).observed.kv_cache_usage is not None


async def test_between_two_looks_without_traffic_the_medians_stand():
    async with looking("vllm") as (look, _):
        first = await look()
        second = await look(first)
    assert second.observed == first.observed


async def test_unload_is_sleep_and_is_over_when_the_engine_sleeps():
    answers = iter([False, False, True])
    async with ordering("vllm", {"POST /sleep": Answer("")}) as (http, server):
        server.routes["GET /is_sleeping"] = lambda _body: Answer(f'{{"is_sleeping": {str(next(answers)).lower()}}}')
        await VLLM().unload(http, "Qwen/Qwen3-8B")
    assert server.bodies == [("POST /sleep?level=1", None)]
    assert next(answers, None) is None


async def test_load_wakes_a_sleeping_engine_and_leaves_one_awake_alone():
    answers = iter([True, False, False])
    routes = {"POST /wake_up": Answer(""), "GET /v1/models": fixture("vllm/v1_models.json")}
    async with ordering("vllm", routes) as (http, server):
        server.routes["GET /is_sleeping"] = lambda _body: Answer(f'{{"is_sleeping": {str(next(answers)).lower()}}}')
        await VLLM().load(http, "Qwen/Qwen3-8B")
        await VLLM().load(http, "sql-lora")
        with pytest.raises(UpstreamError, match="start a process of its own"):
            await VLLM().load(http, "another")
    assert [path for path, _ in server.bodies] == ["POST /wake_up"]


async def test_without_development_mode_unload_names_the_fix():
    async with ordering("vllm", {}) as (http, _):
        with pytest.raises(UpstreamError, match="VLLM_SERVER_DEV_MODE=1"):
            await VLLM().unload(http, "Qwen/Qwen3-8B")
