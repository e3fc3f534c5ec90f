"""Kokoro-FastAPI, stable-diffusion.cpp, and what voices speech servers tell, field by field."""

import pytest

from geniehive.resources import HealthStatus, Operation, Voice
from nodeagent.engines.voices import MOST, voices_of
from tests.nodeagent.engines.looking import looking
from tests.nodeagent.engines.replay import NOT_FOUND, Answer, fixture

HEART, ADAM = Voice(voice_id="af_heart"), Voice(voice_id="am_adam")


@pytest.mark.parametrize("file", ["voices", "voices_legacy"])
async def test_kokoro_is_one_model_under_all_its_names_with_its_voices(file):
    async with looking("kokoro", {"GET /v1/audio/voices": fixture(f"kokoro/{file}.json")}) as (look, _):
        state = await look()
    (asset,) = state.assets
    assert (asset.asset_id, asset.aliases) == ("kokoro", ("tts-1", "tts-1-hd", "gpt-4o-mini-tts"))
    assert (asset.operations, asset.loaded, asset.voices) == ((Operation.SPEECH,), True, (HEART, ADAM))
    assert state.health.status is HealthStatus.HEALTHY


async def test_kokoro_is_asked_for_its_voices_once_for_each_list_of_models():
    async with looking("kokoro") as (look, server):
        state = await look()
        again = await look(state)
        assert server.asked.count("GET /v1/audio/voices") == 1
        assert again.assets == state.assets
        server.routes["GET /v1/models"] = Answer('{"data": [{"id": "kokoro", "owned_by": "kokoro"}]}')
        await look(again)
        assert server.asked.count("GET /v1/audio/voices") == 2


async def test_kokoro_without_voices_is_asked_again_and_speaks_meanwhile():
    async with looking("kokoro", {"GET /v1/audio/voices": Answer("{}", 500)}) as (look, server):
        state = await look()
        assert state.assets[0].voices == ()
        await look(state)
        assert server.asked.count("GET /v1/audio/voices") == 2


async def test_kokoro_is_unhealthy_once_its_phonemizer_failed():
    async with looking("kokoro", {"GET /health": fixture("kokoro/health_503.json", 503)}) as (look, _):
        health = (await look()).health
    assert (health.status, health.reason) == (HealthStatus.UNHEALTHY, "espeak error detected during operation")


async def test_sd_server_is_its_model_file_under_its_fixed_name_too():
    async with looking("sdcpp") as (look, server):
        state = await look()
        await look(state)
        assert server.asked.count("GET /sdcpp/v1/capabilities") == 1
    (asset,) = state.assets
    assert (asset.asset_id, asset.aliases, asset.operations) == (
        "flux1-schnell-q4_k",
        ("sd-cpp-local",),
        (Operation.IMAGE,),
    )
    assert (asset.family, asset.quantization, state.any_name, state.observed.slots) == ("flux1", "Q4_K", True, 1)


async def test_an_older_sd_server_has_its_fixed_name_alone():
    async with looking("sdcpp", {"GET /sdcpp/v1/capabilities": NOT_FOUND}) as (look, _):
        (asset,) = (await look()).assets
    assert (asset.asset_id, asset.aliases) == ("sd-cpp-local", ())


async def test_an_sd_server_that_makes_videos_alone_offers_nothing_and_says_so():
    changes = {"GET /sdcpp/v1/capabilities": fixture("sdcpp/capabilities_video.json")}
    async with looking("sdcpp", changes) as (look, _):
        state = await look()
    assert (state.assets, state.operations) == ((), ())
    assert "vid_gen" in state.notes[0]


@pytest.mark.parametrize("name", ["kokoro", "sdcpp"])
async def test_a_server_that_refuses_is_unhealthy(name):
    async with looking(name, {"GET /v1/models": Answer("{}", 401)}) as (look, _):
        state = await look()
    assert state.health.status is HealthStatus.UNHEALTHY
    assert "api_key" in state.health.reason


async def test_speaches_tells_the_voices_of_each_speech_model():
    async with looking("speaches") as (look, _):
        whisper, kokoro = (await look()).assets
    assert whisper.voices == ()
    assert kokoro.voices[0].voice_id
    assert kokoro.voices[0].language


async def test_a_generic_server_is_asked_for_voices_only_if_a_model_seems_to_speak():
    speaker = Answer('{"object": "list", "data": [{"id": "piper-en"}, {"id": "llama-3"}]}')
    async with looking(
        "openai", {"GET /v1/models": speaker, "GET /v1/audio/voices": fixture("kokoro/voices.json")}
    ) as (
        look,
        server,
    ):
        piper, llama = (await look()).assets
        assert (piper.voices, llama.voices) == ((HEART, ADAM), ())
    async with looking("openai") as (look, server):
        await look()
        assert "GET /v1/audio/voices" not in server.asked


def test_voices_are_read_in_every_shape_and_bounded():
    full = {"id": "a", "name": "Anna", "language": "de", "gender": "female"}
    assert voices_of([full, full, {"name": "b"}, {}, 7, None, "c"]) == (
        Voice(voice_id="c"),
        Voice(voice_id="a", name="Anna", language="de", gender="female"),
        Voice(voice_id="b"),
    )
    assert voices_of("no list") == ()
    assert len(voices_of([str(n) for n in range(9999)])) == MOST
