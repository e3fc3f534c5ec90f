"""Servers that tell little or nothing: generic OpenAI, and manifests."""

import pytest

from geniehive.errors import UpstreamError
from geniehive.resources import HealthStatus, Operation
from nodeagent.engines import Http, by_protocol, engine_session
from nodeagent.engines.manifest import Manifest, parse_manifest
from nodeagent.engines.naming import CHAT, SPEECH_TO_TEXT
from nodeagent.engines.openai import OpenAI
from tests.nodeagent.engines.looking import looking, ordering
from tests.nodeagent.engines.replay import Answer, fixture, replaying


async def test_a_generic_server_tells_names_and_nothing_of_memory():
    async with looking("openai") as (look, _):
        state = await look()
    (asset,) = state.assets
    assert (asset.asset_id, asset.loaded, asset.family, asset.operations) == (
        "Qwen2.5-7B-Instruct-4bit",
        None,
        "qwen2.5",
        CHAT,
    )
    assert state.guessed
    assert state.observed.loaded_model_count is None


@pytest.mark.parametrize(
    ("answer", "status", "word"),
    [
        (Answer("", 404), HealthStatus.HEALTHY, ""),
        (Answer('{"error": "no key"}', 401), HealthStatus.UNHEALTHY, "api_key"),
        (Answer('{"error": "starting"}', 503), HealthStatus.UNHEALTHY, "starting"),
        (Answer("<html>", 200), HealthStatus.UNHEALTHY, "discover_protocol"),
    ],
)
async def test_a_generic_server_is_as_healthy_as_its_list(answer, status, word):
    async with looking("openai", {"GET /v1/models": answer}) as (look, _):
        state = await look()
    assert state.health.status is status
    assert word in state.health.reason
    assert not state.complete


async def test_a_generic_server_takes_no_orders_and_says_so():
    async with ordering("openai", {}) as (http, _):
        with pytest.raises(UpstreamError, match="start or stop the engine's own process"):
            await OpenAI().load(http, "m", 4096)
        with pytest.raises(UpstreamError, match="no way to unload m"):
            await OpenAI().unload(http, "m")


async def look_with(manifest: Manifest, routes):
    async with replaying(routes) as server, engine_session() as session:
        return await manifest.look(Http(session, server.url))


async def test_a_server_that_answers_404_lives():
    state = await look_with(Manifest(), {})
    assert (state.health.status, state.assets, state.protocol) == (HealthStatus.HEALTHY, (), "manifest")
    assert not state.complete


async def test_a_manifest_file_names_the_models(tmp_path):
    path = tmp_path / "models.json"
    path.write_text(
        '{"models": [{"id": "whisperx-large-v3", "operations": ["transcription"], "loaded": true}, "plain"]}'
    )
    state = await look_with(Manifest(str(path)), {})
    assets = {asset.asset_id: asset for asset in state.assets}
    assert assets["whisperx-large-v3"].operations == (Operation.TRANSCRIPTION,)
    assert assets["whisperx-large-v3"].loaded is True
    assert assets["plain"].operations == ()
    assert state.operations == SPEECH_TO_TEXT


async def test_a_manifest_may_lie_on_the_server():
    state = await look_with(Manifest("/manifest.json"), {"GET /manifest.json": Answer('["whisperx"]')})
    assert [asset.asset_id for asset in state.assets] == ["whisperx"]


@pytest.mark.parametrize(
    ("source", "word"),
    [("/nothing.json", "neither a file here nor a path there"), ("nothing.json", "there is no manifest file")],
)
async def test_a_manifest_that_is_not_there_is_named(source, word):
    with pytest.raises(UpstreamError, match=word):
        await look_with(Manifest(source), {})


@pytest.mark.parametrize(
    ("data", "word"),
    [(None, "no list of models"), ({"models": {}}, "no list of models"), ([{"family": "x"}], "has no id"),
     ([{"id": "a", "operations": ["transcribe"]}], "must be one of chat")],
)  # fmt: skip
def test_a_manifest_that_is_wrong_says_where(data, word):
    with pytest.raises(UpstreamError, match=word):
        parse_manifest(data)


async def test_without_discovery_only_life_is_seen_and_the_protocol_is_the_runtimes():
    engine = by_protocol(None, runtime="whisper.cpp")
    async with replaying({}) as server, engine_session() as session:
        state = await engine.look(Http(session, server.url))
        loading = {"GET /v1/models": fixture("llamacpp/health_loading.json", 503)}
        server.routes.update(loading)
        later = await engine.look(Http(session, server.url))
    assert (state.protocol, state.health.status) == ("whispercpp", HealthStatus.HEALTHY)
    assert later.health.status is HealthStatus.LOADING
    assert by_protocol(None)._speaks == "openai"
