"""speaches and whisper.cpp, field by field."""

import pytest

from geniehive.errors import UpstreamError
from geniehive.resources import HealthStatus, Operation
from nodeagent.engines.naming import SPEECH_TO_TEXT
from nodeagent.engines.speaches import Speaches
from nodeagent.engines.whispercpp import WhisperCpp
from tests.nodeagent.engines.looking import looking, ordering
from tests.nodeagent.engines.replay import Answer, fixture


async def test_speaches_lists_models_with_tasks_and_ids_of_loaded_ones():
    async with looking("speaches") as (look, _):
        state = await look()
    whisper, kokoro = state.assets
    assert (whisper.asset_id, whisper.loaded, whisper.operations) == (
        "Systran/faster-whisper-small",
        True,
        SPEECH_TO_TEXT,
    )
    assert (kokoro.loaded, kokoro.operations) == (False, (Operation.SPEECH,))
    assert (state.observed.loaded_model_count, state.observed.running) == (1, None)


async def test_speaches_models_without_a_route_for_them_are_left_out():
    models = Answer('{"data": [{"id": "pyannote/vad", "task": "voice-activity-detection"}]}')
    async with looking("speaches", {"GET /v1/models": models}) as (look, _):
        assert (await look()).assets == ()


async def test_speaches_loads_and_unloads_and_what_is_done_already_is_done():
    path = "/api/ps/Systran/faster-whisper-small"
    routes = {f"POST {path}": Answer("", 409), f"DELETE {path}": Answer("", 404)}
    async with ordering("speaches", routes) as (http, server):
        await Speaches().load(http, "Systran/faster-whisper-small")
        await Speaches().unload(http, "Systran/faster-whisper-small")
        server.routes[f"DELETE {path}"] = Answer("", 409)
        with pytest.raises(UpstreamError, match="in use"):
            await Speaches().unload(http, "Systran/faster-whisper-small")
        server.routes[f"POST {path}"] = Answer('{"detail": "Model not found"}', 404)
        with pytest.raises(UpstreamError, match="Model not found"):
            await Speaches().load(http, "Systran/faster-whisper-small")


async def test_whisper_cpp_has_one_model_under_any_name():
    async with looking("whispercpp") as (look, _):
        state = await look()
    (asset,) = state.assets
    assert (asset.asset_id, asset.aliases, asset.loaded) == ("whisper.cpp", ("whisper-1",), True)
    assert (state.operations, state.any_name, state.observed.slots) == (SPEECH_TO_TEXT, True, 1)


@pytest.mark.parametrize(
    ("health", "page", "status"),
    [
        (fixture("whispercpp/health_loading.json", 503), None, HealthStatus.LOADING),
        (fixture("whispercpp/not_found.txt", 404), fixture("whispercpp/index.html"), HealthStatus.HEALTHY),
        (fixture("whispercpp/not_found.txt", 404), Answer("gone", 500), HealthStatus.UNHEALTHY),
        (Answer("", 500), None, HealthStatus.UNHEALTHY),
    ],
)
async def test_whisper_cpp_is_as_healthy_as_its_status_says(health, page, status):
    routes = {"GET /health": health, **({"GET /": page} if page else {})}
    async with looking("whispercpp", routes) as (look, _):
        assert (await look()).health.status is status


async def test_whisper_cpp_is_never_told_to_load_because_a_wrong_file_ends_it():
    async with ordering("whispercpp", {}) as (http, server):
        for order in (WhisperCpp().load(http, "ggml-small.bin"), WhisperCpp().unload(http, "ggml-small.bin")):
            with pytest.raises(UpstreamError, match="-m"):
                await order
    assert server.asked == []
