"""Speech, voices, images, rerank, moderations, and the routes that are only allowed through."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import tempfile
from hashlib import sha256

import httpx
import msgspec
import openai
import pytest

from gateway.openai.audio import FormReader
from gateway.openai.forms import Freight
from geniehive.resources import AccessKey, Asset, Operation, Voice
from tests.gateway.harness import gateway, raw, service, until
from tests.gateway.misbehaving import CLOSE, HANG, KEEP, LAST_CHUNK, RESET, STREAM_HEAD, answer, chunk, event, upstream
from tests.gateway.openai.test_audio import form, written

AUDIO_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: audio/mpeg\r\ntransfer-encoding: chunked\r\n\r\n"
MP3 = bytes(range(256)) * 40
PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 20
SAY = {"model": "nick", "input": "Grüße 👋", "voice": "af_heart", "lang_code": "d", "x": [None, [], {}]}
ENVELOPE = {"message", "type", "param", "code"}


async def post(gw, path, body, **kwargs):
    async with httpx.AsyncClient(timeout=20) as http:
        return await http.post(gw.url + path, json=body, **kwargs)


async def test_speech_comes_as_it_is_spoken_and_the_body_goes_as_it_came():
    script = (AUDIO_HEAD, chunk(MP3[:100]), HANG)
    async with upstream(script) as up, gateway(up.url) as gw:
        body = json.dumps(SAY, ensure_ascii=False).encode()
        reader, writer = await asyncio.open_connection("127.0.0.1", gw.port)
        head = "POST /v1/audio/speech HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
        writer.write(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
        got = await asyncio.wait_for(reader.readuntil(MP3[:100]), 20)  # though the engine has not said more
        assert b"content-type: audio/mpeg" in got
        assert up.seen[0].path == "/v1/audio/speech"
        assert up.seen[0].body == body.replace(b'"nick"', b'"m"')
        assert gw.in_flight.counts == {"h1/s": 1}
        writer.close()
        await asyncio.wait_for(up.gone.wait(), 20)
        await until(lambda: gw.in_flight.counts == {})


async def test_speech_through_the_openai_sdk_is_the_engines_bytes():
    script = (AUDIO_HEAD, chunk(MP3[:1000]), chunk(MP3[1000:]), LAST_CHUNK, KEEP)
    async with upstream(script) as up, gateway(up.url) as gw:
        async with openai.AsyncOpenAI(base_url=gw.url + "/v1", api_key="k", max_retries=0) as ai:
            found = await ai.audio.speech.create(model="m", input="hi", voice="alloy", response_format="mp3")
            assert found.content == MP3
        assert gw.in_flight.total == 0


async def test_speech_that_breaks_off_is_no_clean_end():
    async with upstream((AUDIO_HEAD, chunk(MP3), CLOSE)) as up, gateway(up.url) as gw:
        with pytest.raises(httpx.RemoteProtocolError):
            await post(gw, "/v1/audio/speech", SAY)


async def test_speech_that_fails_before_its_first_byte_goes_to_the_next_candidate():
    async with upstream((RESET,)) as bad, upstream((AUDIO_HEAD, chunk(MP3), LAST_CHUNK)) as good:
        async with gateway(bad.url, good.url) as gw:
            found = await post(gw, "/v1/audio/speech", SAY)
        assert (found.content, found.headers["x-geniehive-attempts"]) == (MP3, "2")


async def test_speech_in_events_ends_with_its_last_event_or_with_an_error():
    audio = event({"type": "speech.audio.delta", "audio": base64.b64encode(MP3[:9]).decode()})
    done = event({"type": "speech.audio.done", "usage": {"input_tokens": 1, "output_tokens": 2, "total_tokens": 3}})
    whole, cut = (STREAM_HEAD, chunk(audio), chunk(done), LAST_CHUNK, KEEP), (STREAM_HEAD, chunk(audio), LAST_CHUNK)
    async with upstream(whole, cut) as up, gateway(up.url) as gw:
        asked = {**SAY, "stream_format": "sse"}
        found = await post(gw, "/v1/audio/speech", asked)
        assert found.headers["content-type"] == "text/event-stream"
        assert found.content == audio + done
        assert up.seen[0].json["stream_format"] == "sse"
        found = await post(gw, "/v1/audio/speech", asked)
        assert found.content.startswith(audio)
        assert b'data: {"error":' in found.content


async def test_refusals_of_speech_engines_come_in_openais_shape():
    said = {"detail": {"error": "validation_error", "message": "Voice 'x' not found.", "type": "invalid_request_error"}}
    async with upstream((answer(400, said), KEEP)) as up, gateway(up.url) as gw:
        found = await post(gw, "/v1/audio/speech", SAY)
        assert (found.status_code, found.json()["error"]["message"]) == (400, "Voice 'x' not found.")
        assert set(found.json()["error"]) == ENVELOPE


def speaker(number, *voices, asset="kokoro", **fields):
    base = service(number, "http://127.0.0.1:1", operations=(Operation.SPEECH,))
    made = Asset(asset_id=asset, aliases=("tts-1",), voices=voices, **fields)
    return msgspec.structs.replace(base, assets=(made,))


async def test_voices_are_merged_over_what_can_speak_now():
    heart = Voice(voice_id="heart", name="Heart", language="en-us", gender="female")
    services = speaker(1, heart, Voice(voice_id="adam")), speaker(2, heart, asset="piper")
    async with gateway(*services, service(3, "http://127.0.0.1:1")) as gw, httpx.AsyncClient(base_url=gw.url) as http:
        found = (await http.get("/v1/audio/voices")).json()
        assert found["voices"] == [
            {"id": "adam", "name": "adam", "language": "", "gender": "", "models": ["kokoro"]},
            {"id": "heart", "name": "Heart", "language": "en-us", "gender": "female", "models": ["kokoro", "piper"]},
        ]
        by_model = (await http.get("/v1/audio/voices", params={"model": "piper"})).json()
        assert [voice["id"] for voice in by_model["voices"]] == ["heart"]
        assert (await http.get("/v1/audio/voices?legacy=true")).json() == {"voices": ["adam", "heart"]}
        models = (await http.get("/v1/audio/models")).json()["models"]
        assert [model["id"] for model in models] == ["kokoro", "m", "piper"]


async def test_images_come_whole_and_large_ones_are_passed_on_piece_by_piece():
    picture = {"created": 1, "data": [{"b64_json": "A" * 20_000_000}], "output_format": "png"}
    async with upstream((answer(body=picture), KEEP)) as up, gateway(up.url) as gw:
        body = {"model": "m", "prompt": "ein Bär 🐻", "n": 1, "size": "512x512", "unknown": None}
        found = await post(gw, "/v1/images/generations", body)
        assert found.json() == picture
        assert up.seen[0].json == body
    async with upstream((answer(body=picture), KEEP)) as up, gateway(up.url, max_answer_bytes=9_000_000) as gw:
        with pytest.raises(httpx.RemoteProtocolError):
            await post(gw, "/v1/images/generations", body)


async def test_streamed_images_may_have_several_last_events():
    partial = event({"type": "image_generation.partial_image", "b64_json": "AA", "partial_image_index": 0})
    last = event({"type": "image_generation.completed", "b64_json": "BB"})
    script = (STREAM_HEAD, chunk(partial), chunk(last), 0.1, chunk(partial), chunk(last), LAST_CHUNK, KEEP)
    async with upstream(script) as up, gateway(up.url) as gw:
        found = await post(gw, "/v1/images/generations", {"model": "m", "prompt": "x", "stream": True, "n": 2})
        assert found.content == (partial + last) * 2


MODEL = (b"model", b"nick")
IMAGES = [(b"image[]", (b"a.png", PNG)), (b"image[]", (b"b.png", PNG[::-1])), (b"mask", (b"m.png", PNG))]
EDITS = "/v1/images/edits"
TOLD = {"created": 1, "data": [{"b64_json": "AA"}]}


async def send(gw, body, path=EDITS):
    async with httpx.AsyncClient(timeout=20) as http:
        return await http.post(gw.url + path, content=body, headers={"content-type": "multipart/form-data; boundary=B"})


async def test_edits_through_the_openai_sdk_reach_the_engine_whole():
    async with upstream((answer(body=TOLD), KEEP)) as up, gateway(up.url) as gw:
        async with openai.AsyncOpenAI(base_url=gw.url + "/v1", api_key="k", max_retries=0) as ai:
            found = await ai.images.edit(model="nick", prompt="größer", image=[("a.png", PNG), ("b.png", PNG[::-1])])
        assert found.data[0].b64_json == "AA"
        sent = up.seen[0]
        assert sent.path == EDITS
        assert sent.body.count(b'name="image[]"') == 2
        assert PNG in sent.body
        assert PNG[::-1] in sent.body
        assert form(sent)["model"][0] == b"m"
        assert form(sent)["prompt"][0].decode() == "größer"


@pytest.mark.parametrize("order", ["model first", "model last", "model between"])
async def test_edits_with_the_model_anywhere_keep_files_and_fields_in_order(order, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    rest = [*IMAGES[:2], (b"n", b"2"), IMAGES[2], (b"base_url", b"http://evil"), (b"size", b"64x64")]
    at = {"model first": 0, "model last": len(rest), "model between": 2}[order]
    async with upstream((answer(body=TOLD), KEEP)) as up, gateway(up.url) as gw:
        found = await send(gw, written(*rest[:at], MODEL, *rest[at:]))
        assert (found.status_code, found.json()) == (200, TOLD)
        body = up.seen[0].body
        names = [part.split(b'"')[1] for part in body.split(b"form-data; name=")[1:]]
        kept = [name for name, _ in rest if name != b"base_url"]
        assert [name for name in names if name != b"model"] == kept
        assert names.count(b"model") == 1
        assert form(up.seen[0])["mask"] == (PNG, "m.png", "audio/wav")
    assert list(tmp_path.iterdir()) == []


async def test_an_edit_on_disk_goes_to_the_next_candidate_and_one_in_flight_cannot():
    async with upstream((RESET,)) as bad, upstream((answer(body=TOLD), KEEP)) as good, gateway(bad.url, good.url) as gw:
        assert (await send(gw, written(*IMAGES, MODEL))).status_code == 200
        assert PNG in good.seen[0].body
        gw.view.replace(gw.view.table.shape)
        await send(gw, written(*IMAGES, MODEL))
        assert (await send(gw, written(MODEL, *IMAGES))).status_code == 502


async def test_a_form_on_disk_can_be_sent_to_two_engines_at_once():
    class Pieces:
        def __init__(self, *pieces):
            self.pieces = list(pieces)

        async def read(self):
            return self.pieces.pop(0) if self.pieces else b""

    class Moving:
        def rearm(self, _seconds):
            pass

    big = os.urandom(3_000_000)
    body = written((b"image", (b"a.png", big)), (b"n", b"1"), MODEL)
    reader = FormReader(Pieces(body), b"B")
    front, first = await reader.until_file()
    freight = Freight(reader, first, b"X")
    with tempfile.TemporaryFile() as spool:
        await freight.keep_on(spool)
        one, other = (freight.sent(Moving(), front, 1) for _ in range(2))
        sent = [b"", b""]
        for _ in range(9):
            for place, form_of in enumerate((one, other)):
                sent[place] += await anext(form_of, b"")
    assert sent[0] == sent[1]
    assert big in sent[0]


BAD = {
    "no file": (written(MODEL, (b"prompt", b"x")), 400),
    "no model": (written(*IMAGES), 400),
    "model twice": (written(MODEL, *IMAGES, MODEL), 400),
    "model twice, both behind": (written(*IMAGES, MODEL, MODEL), 400),
    "cut short": (written(MODEL, *IMAGES, end=False), 400),
    "cut short, on disk": (written(*IMAGES, MODEL, end=False), 400),
    "an unknown model": (written((b"model", b"nope"), *IMAGES), 404),
    "over the cap": (written(MODEL, (b"image", (b"a", b"x" * 600_000))), 413),
    "too many parts": (written(MODEL, *IMAGES * 30), 413),
}


@pytest.mark.parametrize(("body", "status"), BAD.values(), ids=BAD)
async def test_a_bad_edit_is_refused_and_the_next_one_succeeds(body, status):
    async with upstream((answer(body=TOLD), KEEP)) as up, gateway(up.url, max_upload_bytes=550_000) as gw:
        found = await send(gw, body)
        assert found.status_code == status, found.text
        assert set(found.json()["error"]) == ENVELOPE
        assert gw.in_flight.counts == {}
        assert (await send(gw, written(MODEL, *IMAGES))).status_code == 200


RANKED = {
    "model": "m",
    "object": "list",
    "results": [{"index": 1, "relevance_score": 0.9}],
    "usage": {"total_tokens": 9},
}


@pytest.mark.parametrize("path", ["/v1/rerank", "/rerank", "/v1/reranking", "/reranking", "/v2/rerank"])
async def test_rerank_is_taken_under_every_name_that_engines_have_for_it(path):
    async with upstream((answer(body=RANKED), KEEP)) as up, gateway(up.url) as gw:
        body = {"model": "nick", "query": "q", "documents": ["a", {"text": "ä"}], "top_n": 1, "return_documents": False}
        found = await post(gw, path, body)
        assert found.json() == RANKED
        assert (up.seen[0].path, up.seen[0].json) == ("/v1/rerank", {**body, "model": "m"})


async def test_moderations_go_where_an_engine_has_them_and_are_a_400_elsewhere():
    told = {"id": "m", "model": "m", "results": [{"flagged": False, "categories": {}, "category_scores": {}}]}
    chat = service(2, "http://127.0.0.1:1", asset="chatty", operations=(Operation.CHAT,))
    async with upstream((answer(body=told), KEEP)) as up, gateway(service(1, up.url), chat) as gw:
        async with openai.AsyncOpenAI(base_url=gw.url + "/v1", api_key="k", max_retries=0) as ai:
            assert (await ai.moderations.create(model="m", input="hm")).results[0].flagged is False
        found = await post(gw, "/v1/moderations", {"model": "chatty", "input": "hm"})
        assert found.status_code == 400
        assert "chat" in found.json()["error"]["message"]


async def test_a_route_that_is_allowed_through_goes_by_its_model_as_json_or_as_a_form():
    async with upstream((answer(body={"data": [1]}), KEEP)) as up, gateway(up.url, extra_routes=("/v1/score",)) as gw:
        body = {"model": "nick", "text_1": "ä", "text_2": ["b"], "api_base": "http://evil"}
        assert (await post(gw, "/v1/score", body)).json() == {"data": [1]}
        assert up.seen[0].path == "/v1/score"
        assert up.seen[0].json == {"model": "m", "text_1": "ä", "text_2": ["b"]}
        assert (await send(gw, written(MODEL, (b"image", (b"a", PNG))), "/v1/score")).json() == {"data": [1]}
        assert form(up.seen[1])["image"][0] == PNG
        assert (await send(gw, written((b"x", b"y"), MODEL), "/v1/score")).json() == {"data": [1]}
        assert (await post(gw, "/v1/score", {"text_1": "a"})).status_code == 400


async def test_a_key_with_limits_is_held_to_them_on_every_route():
    key = AccessKey(name="k", secret_sha256=sha256(b"k").digest(), models=("m",), operations=(Operation.SPEECH,))
    talks = speaker(1, Voice(voice_id="heart"))
    draws = service(2, "http://127.0.0.1:1", operations=(Operation.IMAGE,))
    async with gateway(talks, draws) as gw, httpx.AsyncClient(base_url=gw.url, headers={"x-api-key": "k"}) as http:
        gw.view.replace(msgspec.structs.replace(gw.view.table.shape, access_keys={"k": key}))
        assert (await http.get("/v1/audio/voices")).json()["voices"] == []
        for path, model in (("/v1/audio/speech", "kokoro"), ("/v1/images/generations", "m"), ("/v1/score", "m")):
            assert (await http.post(path, json={"model": model})).status_code == 403
        head = {"content-type": "multipart/form-data; boundary=B"}
        assert (await http.post(EDITS, content=written(MODEL, *IMAGES), headers=head)).status_code == 403


@pytest.mark.parametrize(
    "path", ["/v1/score", "/v1/score/", "/v1/load_lora_adapter", "/api/create", "/api/pull", "/api/delete"]
)
async def test_what_is_not_on_the_list_reaches_no_engine(path):
    async with upstream((answer(), KEEP)) as up, gateway(up.url, extra_routes=()) as gw:
        async with httpx.AsyncClient(base_url=gw.url) as http:
            for method in ("POST", "GET", "DELETE", "PUT"):
                found = await http.request(method, path, json={"model": "m"})
                assert found.status_code == 404
        assert up.seen == []


async def test_an_allowed_route_does_not_go_before_one_of_ours():
    async with upstream((answer(body=RANKED), KEEP)) as up, gateway(up.url, extra_routes=("/v1/rerank",)) as gw:
        found = await post(gw, "/v1/rerank", {"model": "m", "query": "q", "documents": []})
        assert found.json() == RANKED
        assert gw.front.exchanges == set()


@pytest.mark.parametrize("path", ["/v1/audio/speech", "/v1/images/generations", "/v1/rerank", "/v1/moderations"])
@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"[]", 400),
        (b'{"model": "m", "model": "n"}', 400),
        (b'{"model": "m", "x": ' + b"[" * 100 + b"]" * 100 + b"}", 400),
        (b'{"model": "m", "x": "' + b"x" * 70_000 + b'"}', 413),
        (b'{"model": "nope"}', 404),
        (b"{}", 400),
    ],
)
async def test_bad_bodies_are_refused_on_every_route(path, body, status):
    async with upstream((answer(), KEEP)) as up, gateway(up.url, max_body_bytes=65_536) as gw:
        head = f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\nconnection: close\r\n"
        found = await raw(gw.port, f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
        assert found.startswith(b"HTTP/1.1 %d" % status)
        assert up.seen == []


@pytest.mark.parametrize(
    ("path", "status"),
    [("/v1/rerank", 200), ("/v1/moderations", 200), ("/v1/images/generations", 400)],
)
async def test_a_stream_that_engines_do_not_have_is_not_held_against_them(path, status):
    async with upstream((answer(200, {"results": [], "data": []}), KEEP)) as up, gateway(up.url) as gw:
        for _ in range(6):  # one more than eject a service
            found = await post(gw, path, {"model": "m", "input": "i", "prompt": "p", "stream": True})
            assert found.status_code == status
        assert not gw.circuits.known
        assert len(up.seen) == 6
    assert status == 200 or found.json()["error"]["param"] == "stream"
