"""Transcription end to end: forms in both orders, both dialects, and what breaks on the way."""

from __future__ import annotations

import asyncio
import email.parser
import email.policy
import hashlib
import os
from pathlib import Path

import httpx
import openai
import pytest

from tests.gateway.harness import gateway, raw, service, until
from tests.gateway.misbehaving import (
    CLOSE,
    KEEP,
    LAST_CHUNK,
    RESET,
    STREAM_HEAD,
    UNREAD,
    answer,
    chunk,
    event,
    upstream,
)

TRANSCRIBE = "/v1/audio/transcriptions"
WAV = b"RIFF" + bytes(range(256)) * 1000 + b"\r\n--\r\n"
FIXTURES = Path(__file__).parents[2] / "fixtures" / "whispercpp"
TEXT = answer(body={"text": "hello"})


def form(seen):
    """A form as a strict reader sees it: name to (value, filename, type), in order."""
    head = f"content-type: {seen.headers['content-type']}\r\n\r\n".encode()
    message = email.parser.BytesParser(policy=email.policy.HTTP).parsebytes(head + seen.body)
    return {
        part.get_param("name", header="content-disposition"): (
            part.get_payload(decode=True),
            part.get_filename(),
            part.get_content_type(),
        )
        for part in message.iter_parts()
    }


def written(*parts, end=True):
    """A form in exactly this order; a value may be (filename, bytes)."""
    out = b""
    for name, value in parts:
        if isinstance(value, tuple):
            out += b'--B\r\nContent-Disposition: form-data; name="%b"; filename="%b"\r\n' % (name, value[0])
            out += b"Content-Type: audio/wav\r\n\r\n" + value[1] + b"\r\n"
        else:
            out += b'--B\r\nContent-Disposition: form-data; name="%b"\r\n\r\n%b\r\n' % (name, value)
    return out + (b"--B--\r\n" if end else b"")


async def post(gw, body, path=TRANSCRIBE, kind="multipart/form-data; boundary=B"):
    async with httpx.AsyncClient(timeout=20) as http:
        return await http.post(gw.url + path, content=body, headers={"content-type": kind})


FILE = (b"file", (b"a.wav", WAV))
MODEL = (b"model", b"nick")


async def test_a_transcription_reaches_the_engine_intact_from_the_openai_sdk():
    async with upstream((TEXT, KEEP)) as up, gateway(up.url) as gw:
        async with openai.AsyncOpenAI(base_url=gw.url + "/v1", api_key="k", max_retries=0) as ai:
            found = await ai.audio.transcriptions.create(
                model="nick", file=("speech.wav", WAV), language="de", timestamp_granularities=["word"]
            )
        assert found.text == "hello"
        assert up.seen[0].path == TRANSCRIBE
        sent = form(up.seen[0])
        assert sent["model"][0] == b"m"
        assert sent["language"][0] == b"de"
        assert sent["timestamp_granularities[]"][0] == b"word"
        assert sent["file"][:2] == (WAV, "speech.wav")


@pytest.mark.parametrize("parts", [(MODEL, FILE), (FILE, MODEL)], ids=["model first", "file first"])
async def test_either_order_of_the_form_is_taken(parts):
    async with upstream((TEXT, KEEP)) as up, gateway(up.url) as gw:
        found = await post(gw, written(*parts, (b"temperature", b"0.5")))
        assert found.json() == {"text": "hello"}
        sent = form(up.seen[0])
        assert sent["model"][0] == b"m"
        assert sent["temperature"][0] == b"0.5"
        assert sent["file"] == (WAV, "a.wav", "audio/wav")


async def test_fields_that_engines_must_not_see_are_dropped_before_and_after_the_file():
    async with upstream((TEXT, KEEP)) as up, gateway(up.url) as gw:
        found = await post(gw, written((b"api_base", b"x"), MODEL, FILE, (b"base_url", b"y"), (b"language", b"de")))
        assert found.status_code == 200
        assert sorted(form(up.seen[0])) == ["file", "language", "model"]


async def test_the_file_is_passed_on_while_it_arrives():
    async with upstream((TEXT, KEEP)) as up, gateway(up.url) as gw:
        reader, writer = await asyncio.open_connection("127.0.0.1", gw.port)
        body = written(MODEL, (b"file", (b"a", WAV * 8)))
        head = f"POST {TRANSCRIBE} HTTP/1.1\r\nhost: x\r\ncontent-type: multipart/form-data; boundary=B\r\n"
        writer.write(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body[: len(body) // 2])
        await until(lambda: up.received > len(WAV))
        writer.write(body[len(body) // 2 :])
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
        writer.close()


@pytest.mark.parametrize(
    ("file", "kind"),
    [("inference.json", "application/json"), ("inference.srt", "text/plain"), ("inference.txt", "text/html")],
)
async def test_whisper_cpp_gets_its_own_form(file, kind):
    said = (FIXTURES / file).read_bytes()
    async with (
        upstream((answer(body=said, content_type=kind), KEEP)) as up,
        gateway(service(1, up.url, protocol="whispercpp")) as gw,
    ):
        body = written(MODEL, (b"language", b"de"), FILE, (b"prompt", b"hm"), (b"include[]", b"logprobs"))
        found = await post(gw, body)
        assert found.content == said
        assert not found.headers["content-type"].startswith("text/html")
        assert up.seen[0].path == "/inference"
        sent = form(up.seen[0])
        assert {name: value[0] for name, value in sent.items()} == {
            "language": b"de",
            "file": WAV,
            "prompt": b"hm",
            "response_format": b"json",
        }


async def test_whisper_cpp_translates_and_finds_the_language_out():
    async with upstream((TEXT, KEEP)) as up, gateway(service(1, up.url, protocol="whispercpp")) as gw:
        found = await post(gw, written(FILE, MODEL, (b"response_format", b"json")), "/v1/audio/translations")
        assert found.status_code == 200
        sent = form(up.seen[0])
        assert sent["translate"][0] == b"true"
        assert sent["language"][0] == b"auto"
        assert "model" not in sent


async def test_a_stream_of_whisper_cpp_is_its_whole_answer_however_long_it_takes():
    async with (
        upstream((0.4, TEXT, KEEP)) as up,
        gateway(service(1, up.url, protocol="whispercpp"), keepalive_comment_s=0.1) as gw,
    ):
        found = await post(gw, written(MODEL, (b"stream", b"true"), FILE))
        assert (found.status_code, found.json()) == (200, {"text": "hello"})


async def test_whisper_cpps_errors_and_formats_are_told():
    async with (
        upstream((answer(body=(FIXTURES / "error_no_file.json").read_bytes()), KEEP)) as up,
        gateway(service(1, up.url, protocol="whispercpp")) as gw,
    ):
        found = await post(gw, written(MODEL, FILE))
        assert found.status_code == 400
        assert "no 'file' field" in found.json()["error"]["message"]
        found = await post(gw, written(MODEL, (b"response_format", b"diarized_json"), FILE))
        assert found.status_code == 400
        assert found.json()["error"]["param"] == "response_format"


async def test_a_streamed_transcription_passes_to_its_last_event():
    parts = (
        event({"type": "transcript.text.delta", "delta": "he"}),
        event({"type": "transcript.text.done", "text": "he"}),
    )
    script = (STREAM_HEAD, *map(chunk, parts), LAST_CHUNK, KEEP)
    async with upstream(script) as up, gateway(up.url) as gw:
        found = await post(gw, written(MODEL, (b"stream", b"true"), FILE))
        assert found.content == b"".join(parts)
    async with upstream((STREAM_HEAD, chunk(parts[0]), LAST_CHUNK, KEEP)) as up, gateway(up.url) as gw:
        found = await post(gw, written(MODEL, (b"stream", b"true"), FILE))
        assert b'data: {"error":' in found.content


BAD = {
    "no file": (written(MODEL), 400),
    "a file under another name": (written(MODEL, FILE).replace(b'name="file"', b'name="audio"'), 400),
    "no model": (written(FILE), 400),
    "model twice": (written(MODEL, MODEL, FILE), 400),
    "model twice, after the file": (written(MODEL, FILE, MODEL), 400),
    "two files": (written(MODEL, FILE, FILE), 400),
    "cut short before the file": (written(MODEL, end=False), 400),
    "cut short in the file": (written(MODEL, FILE)[:-40], 400),
    "file first, cut short": (written(FILE, MODEL)[:-20], 400),
    "no boundary in the body": (b"hello", 400),
    "many parts": (written(*[(b"a", b"")] * 65), 413),
    "a large field": (written((b"model", b"x" * 300_000), FILE), 413),
    "a file name with CRLF": (written(MODEL, (b"file", (b"a%0d%0ab", WAV))), 400),
    "a file name with NUL": (written(MODEL, (b"file", (b"a\0b", WAV))), 400),
    "an unknown model": (written((b"model", b"nope"), FILE), 404),
    "over the cap": (written(MODEL, (b"file", (b"a", b"x" * 600_000))), 413),
    "over the cap, file first": (written((b"file", (b"a", b"x" * 600_000)), MODEL), 413),
}


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize(("body", "status"), BAD.values(), ids=BAD)
async def test_a_bad_form_is_refused(body, status, chunked):
    async def pieces():
        for at in range(0, len(body), 50_000):
            yield body[at : at + 50_000]

    async with upstream((TEXT, KEEP)) as up, gateway(up.url, max_upload_bytes=550_000) as gw:
        found = await post(gw, pieces() if chunked else body)
        assert found.status_code == status, found.text
        assert set(found.json()["error"]) == {"message", "type", "param", "code"}
        assert gw.in_flight.counts == {}
        assert (await post(gw, written(MODEL, FILE))).status_code == 200


async def test_a_wrong_content_type_is_refused():
    async with gateway("http://127.0.0.1:1") as gw:
        assert (await post(gw, b"{}", kind="application/json")).status_code == 415
        assert (await post(gw, b"{}", kind="multipart/form-data")).status_code == 400


async def test_only_the_base_name_of_the_file_goes_on():
    async with upstream((TEXT, KEEP)) as up, gateway(up.url) as gw:
        await post(gw, written(MODEL, (b"file", (b"../../etc/pass wd", WAV))))
        assert form(up.seen[0])["file"][1] == "pass wd"


async def test_a_form_on_disk_goes_to_the_next_candidate_and_one_in_flight_cannot():
    async with upstream((RESET,)) as bad, upstream((TEXT, KEEP)) as good, gateway(bad.url, good.url) as gw:
        found = await post(gw, written(FILE, MODEL))
        assert found.status_code == 200
        assert form(good.seen[0])["file"][0] == WAV
        gw.view.replace(gw.view.table.shape)
        await post(gw, written(FILE, MODEL))
        found = await post(gw, written(MODEL, FILE))
        assert found.status_code == 502


async def test_a_refused_connection_goes_to_the_next_candidate_even_while_streaming():
    async with upstream((TEXT, KEEP)) as good, gateway("http://127.0.0.1:1", good.url) as gw:
        found = await post(gw, written(MODEL, FILE))
        assert found.status_code == 200
        assert found.headers["x-geniehive-attempts"] == "2"
        assert form(good.seen[0])["file"][0] == WAV


async def test_an_engine_that_stops_reading_times_out():
    async with upstream((UNREAD, 30)) as up, gateway(up.url, first_byte_timeout_s=0.5) as gw:
        found = await post(gw, written(MODEL, (b"file", (b"a", b"x" * 30_000_000))))
        assert found.status_code == 504
        assert gw.in_flight.counts == {}


async def test_a_client_that_stalls_in_the_file_is_408():
    async with upstream((TEXT, KEEP)) as up, gateway(up.url, body_timeout_s=0.4) as gw:
        head = f"POST {TRANSCRIBE} HTTP/1.1\r\nhost: x\r\ncontent-type: multipart/form-data; boundary=B\r\n"
        body = written(MODEL, FILE)[:200_000]
        found = await raw(gw.port, f"{head}content-length: 999999\r\n\r\n".encode() + body, until_close=False)
        assert found.startswith(b"HTTP/1.1 408")
        await until(lambda: gw.in_flight.counts == {})


async def test_an_early_refusal_of_the_engine_is_passed_on():
    async with upstream((UNREAD, answer(413, {"error": "too long"}), CLOSE)) as up, gateway(up.url) as gw:
        found = await post(gw, written(MODEL, FILE))
        assert found.status_code in {413, 502}


async def test_nothing_stays_on_disk(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    async with upstream((TEXT, KEEP)) as up, gateway(up.url) as gw:
        await post(gw, written(FILE, MODEL))
        assert os.listdir(tmp_path) == []  # noqa: PTH208
        assert hashlib.sha256(form(up.seen[0])["file"][0]).digest() == hashlib.sha256(WAV).digest()
