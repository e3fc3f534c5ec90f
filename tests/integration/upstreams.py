"""Engines that only write down what they are sent: an OpenAI-like one for audio, and whisper.cpp's server.

They run in a thread of their own. A body goes to disk as it came, so that what the gateway sent can be compared byte
by byte, however large. whisper.cpp's answers are the files of tests/fixtures/whispercpp.
"""

from __future__ import annotations

import asyncio
import hashlib
import mmap
import re
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import web

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures"
HEARD = "The quick brown fox jumps over the lazy dog."
_NAME = re.compile(rb'[; ]name="([^"]*)"')
_FILE = re.compile(rb'filename="([^"]*)"')
Handler = Callable[[web.Request], Coroutine[Any, Any, web.StreamResponse]]


@dataclass
class Form:
    """A multipart body, taken apart: fields in their order, and the file by its name, size and hash."""

    fields: list[tuple[str, str]] = field(default_factory=list)
    filename: str = ""
    field_of_file: str = ""
    size: int = 0
    sha256: str = ""
    content_type: str = ""
    """Of the file's part."""


@dataclass
class Recorder:
    """What an engine was sent."""

    url: str
    folder: Path
    forms: list[Form] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)


def take_apart(path: Path, content_type: str) -> Form:
    """The form in a file. Fails if the body is not a form from its first byte to its last."""
    boundary = b"--" + content_type.partition("boundary=")[2].strip('"').encode()
    form = Form()
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as body:
        assert body[: len(boundary) + 2] == boundary + b"\r\n", "the body does not begin with its boundary"
        at = len(boundary) + 2
        while True:
            head_end = body.find(b"\r\n\r\n", at)
            end = body.find(b"\r\n" + boundary, head_end + 2)
            assert head_end > 0, "a part without an end of its head"
            assert end > 0, "a part without an end"
            _take_part(form, body[at:head_end], memoryview(body)[head_end + 4 : end])
            at = end + 2 + len(boundary)
            if body[at : at + 2] == b"--":
                assert body[at + 2 :] in {b"", b"\r\n"}, "something follows the end of the form"
                return form
            at += 2


def _take_part(form: Form, head: bytes, value: memoryview) -> None:
    with value:
        name = _NAME.search(head)
        assert name, head
        filename = _FILE.search(head)
        if filename is None:
            form.fields.append((name[1].decode(), bytes(value).decode()))
            return
        form.filename, form.field_of_file = filename[1].decode(), name[1].decode()
        form.size, form.sha256 = len(value), hashlib.sha256(value).hexdigest()
        kind = re.search(rb"(?i)content-type: *([^\r\n]+)", head)
        form.content_type = kind[1].decode() if kind else ""


async def write_down(recorder: Recorder, request: web.Request) -> Form:
    """Take a request to disk, and then apart."""
    path = recorder.folder / f"body-{len(recorder.paths)}"
    recorder.paths.append(request.path)
    recorder.headers.append({name.lower(): value for name, value in request.headers.items()})
    with path.open("wb") as file:
        async for piece in request.content.iter_any():
            file.write(piece)
    form = await asyncio.to_thread(take_apart, path, request.headers["content-type"])
    path.unlink()
    recorder.forms.append(form)
    return form


@contextmanager
def openai_audio(folder: Path) -> Iterator[Recorder]:
    """An engine with the model `listener` that takes OpenAI's audio forms."""

    async def models(_request: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [{"id": "listener", "object": "model", "owned_by": "x"}]})

    async def hear(request: web.Request) -> web.Response:
        form = await write_down(recorder, request)
        if dict(form.fields).get("response_format") == "text":
            return web.Response(text=HEARD + "\n")
        return web.json_response({"text": HEARD})

    recorder = Recorder("", folder)
    routes = {
        ("GET", "/v1/models"): models,
        ("POST", "/v1/audio/transcriptions"): hear,
        ("POST", "/v1/audio/translations"): hear,
    }
    with serving(routes) as recorder.url:
        yield recorder


@contextmanager
def whispercpp(folder: Path) -> Iterator[Recorder]:
    """whisper.cpp's server: one model, no /v1, `POST /inference`."""
    fixtures = FIXTURES / "whispercpp"
    bodies = {
        "text": ("inference.txt", "text/html; charset=utf-8"),
        "srt": ("inference.srt", "application/x-subrip"),
        "vtt": ("inference.vtt", "text/vtt"),
        "verbose_json": ("inference_verbose.json", "application/json"),
    }

    async def page(_request: web.Request) -> web.Response:
        return _file(fixtures / "index.html", "text/html", 200)

    async def health(_request: web.Request) -> web.Response:
        return _file(fixtures / "health.json", "application/json", 200)

    async def infer(request: web.Request) -> web.Response:
        form = await write_down(recorder, request)
        if form.field_of_file != "file":
            return _file(fixtures / "error_no_file.json", "application/json", 400)
        name, kind = bodies.get(dict(form.fields).get("response_format", ""), ("inference.json", "application/json"))
        return _file(fixtures / name, kind, 200)

    recorder = Recorder("", folder)
    routes = {("GET", "/"): page, ("GET", "/health"): health, ("POST", "/inference"): infer}
    with serving(routes, not_found=(fixtures / "not_found.txt").read_bytes()) as recorder.url:
        yield recorder


def _file(path: Path, content_type: str, status: int) -> web.Response:
    headers = {"Content-Type": content_type, "Server": "whisper.cpp"}
    return web.Response(body=path.read_bytes(), status=status, headers=headers)


@contextmanager
def serving(routes: dict[tuple[str, str], Handler], *, not_found: bytes = b"404") -> Iterator[str]:
    """Serve on a free port, in a thread; yields the URL."""
    started, url = threading.Event(), ""
    loop = asyncio.new_event_loop()
    stop = asyncio.Event()

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        handler = routes.get((request.method, request.path))
        if handler is None:
            return web.Response(status=404, body=not_found)
        return await handler(request)  # type: ignore[arg-type]

    async def live() -> None:
        nonlocal url
        server = web.Server(answer)  # type: ignore[arg-type]
        listener = await loop.create_server(server, "127.0.0.1", 0)
        url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
        started.set()
        await stop.wait()
        listener.close()
        await server.shutdown(1)

    thread = threading.Thread(target=lambda: loop.run_until_complete(live()), name="upstream")
    thread.start()
    try:
        assert started.wait(30)
        yield url
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
        loop.close()
