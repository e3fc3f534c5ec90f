"""Simulated media engines are taken for what they simulate, and their work comes through a gateway whole."""

from __future__ import annotations

import base64
import io
import struct
import wave
import zlib
from contextlib import asynccontextmanager

import httpx
import openai
import pytest
from aiohttp.test_utils import TestServer

from geniehive.resources import Service
from nodeagent import discovery
from nodeagent.engines import Http, engine_session, fingerprint
from simulator import media
from simulator.media_server import MediaEngine
from tests.gateway.harness import gateway


@asynccontextmanager
async def cluster(*flavours, pause_s=0.0):
    """A gateway in front of simulated engines, each found and looked at as a node agent does."""
    engines = [MediaEngine(flavour, pause_s) for flavour in flavours]
    servers = [TestServer(engine.app(), host="127.0.0.1") for engine in engines]
    services = []
    try:
        async with engine_session() as session:
            for number, (engine, server) in enumerate(zip(engines, servers, strict=True), 1):
                await server.start_server()
                url = f"http://127.0.0.1:{server.port}"
                found = await fingerprint(url, session)
                assert found is not None
                assert found.name == engine.flavour
                state = await found.look(Http(session, url))
                services.append(
                    discovery.merge(Service(service_id=f"h{number}/s", host_id=f"h{number}", endpoint=url), state)
                )
        async with gateway(*services) as gw:
            yield gw, engines
    finally:
        for server in servers:
            await server.close()


def client(gw):
    return openai.AsyncOpenAI(base_url=gw.url + "/v1", api_key="k", max_retries=0)


async def test_a_simulated_kokoro_is_found_and_speaks_by_openais_name_for_it():
    async with cluster("kokoro") as (gw, _), client(gw) as ai:
        spoken = await ai.audio.speech.create(
            model="tts-1", input="one two three", voice="af_heart", response_format="pcm"
        )
        assert spoken.content == b"".join(media.spoken("one two three", "af_heart"))
        with pytest.raises(openai.BadRequestError, match="not found"):
            await ai.audio.speech.create(model="kokoro", input="x", voice="nobody", response_format="pcm")
        async with httpx.AsyncClient(base_url=gw.url) as http:
            voices = (await http.get("/v1/audio/voices")).json()["voices"]
        assert [voice["id"] for voice in voices] == ["af_heart", "am_adam", "ff_siwis"]


async def test_a_simulated_speaches_hears_what_it_said():
    async with cluster("speaches") as (gw, _), client(gw) as ai:
        tts, asr = "speaches-ai/Kokoro-82M-v1.0-ONNX", "Systran/faster-whisper-small"
        spoken = await ai.audio.speech.create(model=tts, input="a " * 10, voice="af_heart", response_format="wav")
        assert (await ai.audio.transcriptions.create(model=asr, file=("a.wav", spoken.content))).text.startswith(
            "0.60 s"
        )
        stream = await ai.audio.transcriptions.create(model=asr, file=("a.wav", spoken.content), stream=True)
        events = [event async for event in stream]
        assert events[-1].type == "transcript.text.done"
        assert "".join(event.delta for event in events[:-1]).strip() == events[-1].text
        async with httpx.AsyncClient(base_url=gw.url) as http:
            asked = {"model": tts, "input": "a b", "voice": "am_adam", "stream_format": "sse"}
            lines = (await http.post("/v1/audio/speech", json=asked)).text.split("\n\n")
        assert "speech.audio.done" in lines[-2]


async def test_a_simulated_sd_server_draws_and_edits():
    async with cluster("sdcpp") as (gw, engines), client(gw) as ai:
        drawn = await ai.images.generate(model="sd-cpp-local", prompt="a bear 🐻", n=2, size="256x256")
        pictures = [base64.b64decode(each.b64_json) for each in drawn.data]
        assert pictures == [media.picture("a bear 🐻", 256, 256, turn) for turn in range(2)]
        edited = await ai.images.edit(model="flux1-schnell-q4_k", prompt="p", image=[("a.png", pictures[0])])
        assert edited.data[0].b64_json
        assert engines[0].seen[-2:] == ["/v1/images/generations", "/v1/images/edits"]


async def test_a_simulated_reranker_orders_and_a_moderator_judges():
    async with cluster("openai") as (gw, _), client(gw) as ai, httpx.AsyncClient(base_url=gw.url) as http:
        asked = {
            "model": "bge-reranker-v2-m3",
            "query": "red fox",
            "documents": ["blue", "a red fox", "red"],
            "top_n": 2,
        }
        ranked = (await http.post("/v1/rerank", json=asked)).json()["results"]
        assert [each["index"] for each in ranked] == [1, 2]
        judged = await ai.moderations.create(model="text-moderation-local", input=["peace", "harm"])
        assert [each.flagged for each in judged.results] == [False, True]


async def test_all_of_them_are_one_catalogue():
    async with cluster("kokoro", "speaches", "sdcpp", "openai") as (gw, _), httpx.AsyncClient(base_url=gw.url) as http:
        found = {each["id"]: each for each in (await http.get("/v1/models")).json()["data"]}
        assert found["kokoro"]["geniehive"]["operation"] == "speech"
        assert found["kokoro"]["architecture"]["output_modalities"] == ["audio"]
        assert found["flux1-schnell-q4_k"]["geniehive"]["operation"] == "image"
        assert found["text-moderation-local"]["geniehive"]["operation"] == "moderation"
        assert found["bge-reranker-v2-m3"]["geniehive"]["operation"] == "rerank"
        voices = (await http.get("/v1/audio/voices")).json()["voices"]
        assert voices[0]["models"] == ["kokoro", "speaches-ai/Kokoro-82M-v1.0-ONNX"]
        assert voices[0]["language"] == "en-us"
        assert (await http.get("/api/tags")).json() == {"models": []}


def test_sounds_and_pictures_are_what_they_seem():
    pcm = b"".join(media.spoken("one two", "x", speed=2))
    with wave.open(io.BytesIO(media.wav_head(len(pcm)) + pcm)) as sound:
        assert (sound.getframerate(), sound.getnchannels(), sound.getnframes()) == (media.RATE, 1, len(pcm) // 2)
    png = media.picture("p", 3, 2)
    assert struct.unpack(">II", png[16:24]) == (3, 2)
    data = png[png.index(b"IDAT") + 4 : png.index(b"IEND") - 8]
    assert len(zlib.decompress(data)) == 2 * (1 + 3 * 3)
    assert media.relevance("a b", "B c") == 0.5
    assert media.heard(b"x" * 7) == "7 bytes of sound"
