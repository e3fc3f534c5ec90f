"""Audio forms through the gateway: the same fields, the same bytes, and none of them held in memory."""

from __future__ import annotations

import hashlib
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from tests.integration.cluster import Cluster, Json, running_cluster, service
from tests.integration.daemons import memory_peak_bytes
from tests.integration.upstreams import FIXTURES, HEARD, Recorder, openai_audio, whispercpp

CLIP = os.urandom(70_000) + b"\r\n--not-a-boundary\r\n\r\n" + os.urandom(1_000)
LARGE_BYTES = 200 * 1024 * 1024
ROOM_BYTES = 30 * 1024 * 1024
PIECE = os.urandom(1024 * 1024)


@pytest.fixture(scope="module")
def ears(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Recorder]:
    with openai_audio(tmp_path_factory.mktemp("ears")) as recorder:
        yield recorder


@pytest.fixture(scope="module")
def whisper(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Recorder]:
    with whispercpp(tmp_path_factory.mktemp("whisper")) as recorder:
        yield recorder


@pytest.fixture(scope="module")
def cluster(ears: Recorder, whisper: Recorder, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    kinds = ["transcription", "translation"]
    static: Json = {
        "service_id": "alpha/ears",
        "kinds": kinds,
        "endpoint": ears.url,
        "assets": [{"asset_id": "listener", "aliases": ["ear-1"]}],
    }
    with running_cluster(tmp_path_factory.mktemp("audio")) as cluster:
        cluster.start("alpha", [static, service("alpha/whisper", whisper.url, kinds=kinds)])
        cluster.wait_for_model("listener")
        cluster.wait_for_model("alpha/whisper")
        yield cluster


def test_openai_sdk_transcribes_and_nothing_is_lost(cluster: Cluster, ears: Recorder) -> None:
    with cluster.openai() as client:
        answer = client.audio.transcriptions.create(
            model="listener", file=("clip of mine.wav", CLIP, "audio/wav"), language="en", prompt="a clip",
            temperature=0.2, timestamp_granularities=["word", "segment"],
        )  # fmt: skip
    assert answer.text == HEARD
    form = ears.forms[-1]
    assert (form.filename, form.content_type, form.field_of_file) == ("clip of mine.wav", "audio/wav", "file")
    assert (form.size, form.sha256) == (len(CLIP), hashlib.sha256(CLIP).hexdigest())
    assert sorted(form.fields) == [
        ("language", "en"),
        ("model", "listener"),
        ("prompt", "a clip"),
        ("temperature", "0.2"),
        ("timestamp_granularities[]", "segment"),
        ("timestamp_granularities[]", "word"),
    ]
    assert ears.paths[-1] == "/v1/audio/transcriptions"


@pytest.mark.filterwarnings("ignore:deprecated:DeprecationWarning")  # the SDK's word for its own models
def test_openai_sdk_translates_by_an_alias(cluster: Cluster, ears: Recorder) -> None:
    with cluster.openai() as client:
        answer = client.audio.translations.create(model="ear-1", file=("a.mp3", CLIP), response_format="text")
    assert answer.strip() == HEARD
    assert ears.paths[-1] == "/v1/audio/translations"
    assert ("model", "listener") in ears.forms[-1].fields
    assert ears.forms[-1].sha256 == hashlib.sha256(CLIP).hexdigest()


def test_credentials_of_a_client_stay_at_the_gateway(cluster: Cluster, ears: Recorder) -> None:
    headers = {"authorization": "Bearer secret-of-a-client", "x-api-key": "another", "cookie": "a=b"}
    answer = cluster.http.post(
        "/v1/audio/transcriptions", data={"model": "listener"}, files={"file": ("a.wav", CLIP)}, headers=headers
    )
    assert answer.status_code == 200, answer.text
    assert answer.headers["x-geniehive-service"] == "alpha/ears"
    assert not {"authorization", "x-api-key", "cookie"} & ears.headers[-1].keys()


@pytest.mark.parametrize("order", ["model first", "file first"])
def test_large_file_goes_through_without_being_held_in_memory(cluster: Cluster, ears: Recorder, order: str) -> None:
    send_file(cluster, pieces=2, model_first=order == "model first")
    pid = cluster.daemons["gateway"].pid
    before = memory_peak_bytes(pid)
    answer = send_file(cluster, pieces=LARGE_BYTES // len(PIECE), model_first=order == "model first")
    grown = memory_peak_bytes(pid) - before
    assert answer.startswith(b"HTTP/1.1 200"), answer
    assert HEARD.encode() in answer
    assert (ears.forms[-1].size, ears.forms[-1].sha256) == (LARGE_BYTES, digest(LARGE_BYTES // len(PIECE)))
    assert ears.forms[-1].fields == [("model", "listener")]
    assert grown < ROOM_BYTES, f"the gateway grew by {grown / 2**20:.1f} MiB"


def send_file(cluster: Cluster, *, pieces: int, model_first: bool) -> bytes:
    """Post a form with a file of so many pieces, as a stream; the whole answer."""
    boundary = b"frontier"
    model = b'--%b\r\nContent-Disposition: form-data; name="model"\r\n\r\nlistener\r\n' % boundary
    head = (
        b'--%b\r\nContent-Disposition: form-data; name="file"; filename="long.wav"\r\n'
        b"Content-Type: audio/wav\r\n\r\n" % boundary
    )
    before, after = (model + head, b"\r\n") if model_first else (head, b"\r\n" + model)
    after += b"--%b--\r\n" % boundary
    length = len(before) + pieces * len(PIECE) + len(after)
    with socket.create_connection(("127.0.0.1", cluster.gateway_port), timeout=60) as sock:
        sock.sendall(
            b"POST /v1/audio/transcriptions HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: %d\r\n"
            b"Content-Type: multipart/form-data; boundary=%b\r\n\r\n" % (length, boundary)
        )
        sock.sendall(before)
        for _ in range(pieces):
            sock.sendall(PIECE)
        sock.sendall(after)
        answer = bytearray()
        while piece := sock.recv(65536):
            answer += piece
        return bytes(answer)


def digest(pieces: int) -> str:
    """The hash of a file of so many pieces."""
    found = hashlib.sha256()
    for _ in range(pieces):
        found.update(PIECE)
    return found.hexdigest()


def test_whispercpp_is_found_by_its_page(cluster: Cluster) -> None:
    (found,) = [
        one for one in cluster.http.get("/v1/cluster/services").json()["data"] if one["service_id"] == "alpha/whisper"
    ]
    assert found["protocol"] == "whispercpp"
    assert found["health"]["status"] == "healthy"
    assert found["assets"]


def whisper_model(cluster: Cluster) -> str:
    (name,) = [
        entry["id"]
        for entry in cluster.http.get("/v1/models").json()["data"]
        if entry["geniehive"]["services"] == ["alpha/whisper"]
    ]
    return name


def test_whispercpp_gets_the_form_that_it_takes(cluster: Cluster, whisper: Recorder) -> None:
    with cluster.openai() as client:
        answer = client.audio.transcriptions.create(
            model=whisper_model(cluster), file=("clip.wav", CLIP, "audio/wav"), temperature=0.3
        )
    assert answer.text.strip() == HEARD
    form = whisper.forms[-1]
    assert whisper.paths[-1] == "/inference"
    assert form.sha256 == hashlib.sha256(CLIP).hexdigest()
    fields = dict(form.fields)
    assert fields == {"temperature": "0.3", "language": "auto", "response_format": "json"}


@pytest.mark.filterwarnings("ignore:deprecated:DeprecationWarning")
def test_whispercpp_translates_where_openai_has_a_route_for_it(cluster: Cluster, whisper: Recorder) -> None:
    with cluster.openai() as client:
        answer = client.audio.translations.create(model="alpha/whisper", file=("clip.wav", CLIP))
    assert answer.text.strip() == HEARD
    assert dict(whisper.forms[-1].fields)["translate"] == "true"


@pytest.mark.parametrize(
    ("wanted", "file", "kind"),
    [
        ("text", "inference.txt", "text/plain"),
        ("srt", "inference.srt", ""),
        ("vtt", "inference.vtt", "text/vtt"),
        ("verbose_json", "inference_verbose.json", "application/json"),
    ],
)
def test_formats_of_whispercpp_arrive_as_it_wrote_them(cluster: Cluster, wanted: str, file: str, kind: str) -> None:
    answer = cluster.http.post(
        "/v1/audio/transcriptions",
        data={"model": "alpha/whisper", "response_format": wanted},
        files={"file": ("a.wav", CLIP)},
    )
    assert answer.status_code == 200, answer.text
    assert answer.content == (FIXTURES / "whispercpp" / file).read_bytes()
    assert answer.headers["content-type"].startswith(kind)


@pytest.mark.parametrize(
    ("post", "says"),
    [
        (lambda http, url: http.post(url, data={"model": "listener"}, files={"other": (None, "x")}), "file"),
        (lambda http, url: http.post(url, files={"file": ("a.wav", CLIP)}), "model"),
        (lambda http, url: http.post(url, data={"model": "nobody"}, files={"file": ("a.wav", CLIP)}), "nobody"),
        (lambda http, url: http.post(url, json={"model": "listener"}), "multipart"),
    ],
    ids=["no file", "no model", "unknown model", "no form"],
)
def test_form_that_makes_no_sense_is_refused_in_openai_shape(
    cluster: Cluster, post: Callable[[httpx.Client, str], httpx.Response], says: str
) -> None:
    answer = post(cluster.http, "/v1/audio/transcriptions")
    assert answer.status_code in {400, 404, 415}, answer.text
    assert answer.json()["error"].keys() == {"message", "type", "param", "code"}
    assert says in answer.json()["error"]["message"]


def test_no_file_of_a_request_is_left_behind(cluster: Cluster) -> None:
    links = [fd.readlink() for fd in Path(f"/proc/{cluster.daemons['gateway'].pid}/fd").iterdir()]
    assert not [link for link in links if "geniehive-" in str(link)]
