"""An engine that answers everything well, and keeps account of what should never have reached it."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from aiohttp import web

from tests.fuzz.bodies import MODEL

_CHUNK = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": MODEL}
_NEVER = ("cookie", "authorization", "x-api-key", "x-forwarded-for", "upgrade", "content_length", "te", "trailer")
_LISTED = (
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/embeddings",
    "/v1/audio/transcriptions",
    "/v1/audio/translations",
    "/v1/audio/speech",
    "/v1/images/generations",
    "/v1/images/edits",
    "/v1/rerank",
    "/rerank",
    "/v1/moderations",
    "/v1/responses",
    "/v1/messages",
    "/v1/messages/count_tokens",
    "/tokenize",
    "/inference",
)


_QUIET = logging.getLogger(f"{__name__}.server")  # a gateway that hangs up is no news
_QUIET.disabled = True


@dataclass
class FuzzedEngine:
    """Where it listens, and what it holds against the gateway."""

    url: str = ""
    requests: int = 0
    faults: list[str] = field(default_factory=list)

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Look, then answer."""
        if request.method == "GET":
            return web.json_response({"object": "list", "data": [{"id": MODEL, "object": "model"}]})
        self.requests += 1
        raw = await request.read()
        self.faults += [f"{request.path} has the header {name}" for name in _NEVER if name in request.headers]
        if request.path not in _LISTED:
            self.faults.append(f"{request.method} {request.path} reached the engine")
        if request.content_type != "application/json":
            return web.json_response({"text": "heard", "data": []})
        try:
            body = json.loads(raw)
        except ValueError:
            self.faults.append(f"the body is not JSON: {raw[:200]!r}")
            return web.json_response({"error": {"message": "no JSON"}}, status=400)
        if body.get("stream") is True:
            return await self._stream(request)
        message = {"role": "assistant", "content": "hello"}
        choice = {"index": 0, "message": message, "text": "hello", "finish_reason": "stop"}
        return web.json_response(
            {
                "id": "c",
                "object": "chat.completion",
                "created": 1,
                "model": MODEL,
                "choices": [choice],
                "data": [],
                "results": [],
            }
        )

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        for delta, finish in (({"role": "assistant", "content": "he"}, None), ({"content": "llo"}, None), ({}, "stop")):
            event = {**_CHUNK, "choices": [{"index": 0, "delta": delta, "text": "x", "finish_reason": finish}]}
            await response.write(b"data: " + json.dumps(event).encode() + b"\n\n")
        await response.write(b"data: [DONE]\n\n")
        return response


@contextmanager
def running_engine() -> Iterator[FuzzedEngine]:
    """The engine in a thread of its own."""
    engine, started, loop = FuzzedEngine(), threading.Event(), asyncio.new_event_loop()
    stop = asyncio.Event()

    async def serve() -> None:
        runner = web.AppRunner(_app(engine), access_log=None, logger=_QUIET)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        engine.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        started.set()
        await stop.wait()
        await runner.cleanup()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()), daemon=True)
    thread.start()
    assert started.wait(30)
    try:
        yield engine
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(10)


def _app(engine: FuzzedEngine) -> web.Application:
    app = web.Application(client_max_size=64 * 1024 * 1024)
    app.router.add_route("*", "/{tail:.*}", engine.answer)
    return app
