"""Speech and images over a whole cluster: simulated engines, found by a node agent, and what they tell on its way."""

from __future__ import annotations

import base64
import os
import subprocess
import sys
import wave
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO

import pytest

from geniehive.connect.choose import Choice, choose
from simulator import media
from tests.integration.cluster import Cluster, running_cluster
from tests.integration.daemons import eventually
from tests.ports import free_port

KEY = {"client_api_keys": ["client-1"], "node_api_keys": ["node-1"], "admin_api_keys": ["admin-1"]}


@contextmanager
def simulated(flavour: str) -> Iterator[str]:
    """A simulated engine in a process of its own; the node agent finds out when it answers, and what it is."""
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "simulator.media_server", flavour, "--port", str(port), "--pause", "0"],
        stdout=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with (
        simulated("kokoro") as kokoro,
        simulated("sdcpp") as sdcpp,
        running_cluster(tmp_path_factory.mktemp("media"), auth=KEY) as cluster,
    ):
        services = [
            {"service_id": f"alpha/{name}", "endpoint": url, "discover_protocol": "auto"}
            for name, url in (("voice", kokoro), ("painter", sdcpp))
        ]
        cluster.start("alpha", services)
        cluster.wait_for_model("kokoro")
        cluster.wait_for_model("flux1-schnell-q4_k")
        yield cluster


def test_voices_travel_from_the_engine_to_the_gateway(cluster: Cluster) -> None:
    found = eventually(lambda: cluster.http.get("/v1/audio/voices").json()["voices"])
    assert [voice["id"] for voice in found] == ["af_heart", "am_adam", "ff_siwis"]
    assert found[0]["models"] == ["kokoro"]
    (entry,) = [each for each in cluster.http.get("/v1/models").json()["data"] if each["id"] == "kokoro"]
    assert entry["geniehive"]["voices"] == ["af_heart", "am_adam", "ff_siwis"]
    assert entry["geniehive"]["engine"] == "kokoro"


def test_the_openai_sdk_speaks_and_draws(cluster: Cluster) -> None:
    with cluster.openai() as client:
        spoken = client.audio.speech.create(model="tts-1", input="one two", voice="am_adam", response_format="wav")
        drawn = client.images.generate(model="sd-cpp-local", prompt="a bear 🐻", size="64x64")
    pcm = b"".join(media.spoken("one two", "am_adam"))
    assert spoken.content == media.wav_head() + pcm
    with wave.open(BytesIO(media.wav_head(len(pcm)) + pcm)) as sound:
        assert sound.getnframes() == len(pcm) // 2
    assert base64.b64decode(drawn.data[0].b64_json) == media.picture("a bear 🐻", 64, 64)


def test_a_stranger_hears_and_sees_nothing(cluster: Cluster) -> None:
    routes = ("POST", "/v1/audio/speech"), ("GET", "/v1/audio/voices"), ("GET", "/api/tags"), ("POST", "/api/chat")
    for method, path in routes:
        answer = cluster.http.request(method, path, headers={"authorization": "Bearer wrong"}, json={"model": "kokoro"})
        assert answer.status_code == 401


def test_a_client_is_configured_by_what_there_is(cluster: Cluster) -> None:
    chosen = choose(cluster.http.get("/v1/models").json()["data"], main="none-chats")
    assert (chosen.speech, chosen.image) == (Choice("kokoro"), Choice("flux1-schnell-q4_k"))
    assert chosen.voice == "af_heart"
