"""Simulated engines of speech, images, rerank and moderations over HTTP, each with the routes and answers of its model.

    python -m simulator.media_server kokoro --port 8880

`speaches`, `kokoro` and `sdcpp` answer as these servers do (tests/fixtures/*/SOURCE.md says where that is from);
`openai` is a server that lists a reranker and a moderation model. What they say is made by `simulator.media`; `pause_s`
passes between two pieces of a sound.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
from collections.abc import AsyncIterator, Iterable
from typing import Any, Final

from aiohttp import web

from simulator import media

_WAV, _PCM = "wav", "pcm"
_MIME: Final = {_WAV: "audio/wav", _PCM: "audio/pcm"}
_VOICES: Final = (("af_heart", "en-us", "female"), ("am_adam", "en-us", "male"), ("ff_siwis", "fr-fr", "female"))
_WHISPER, _KOKORO = "Systran/faster-whisper-small", "speaches-ai/Kokoro-82M-v1.0-ONNX"
_MOST_PIXELS: Final = 512
Json = dict[str, Any]


class MediaEngine:
    """One simulated engine; `flavour` is the protocol's word for what it simulates. `seen` are the paths asked for."""

    def __init__(self, flavour: str, pause_s: float = 0.0) -> None:
        self.flavour = flavour
        self.seen: list[str] = []
        self._pause_s = pause_s

    def app(self) -> web.Application:
        """The server's application."""
        app = web.Application(middlewares=[self._note], client_max_size=64 * 1024 * 1024)
        app.add_routes(getattr(self, f"_{self.flavour}")())
        return app

    @web.middleware
    async def _note(self, request: web.Request, handler: Any) -> web.StreamResponse:
        self.seen.append(request.path)
        response: web.StreamResponse = await handler(request)
        return response

    # --- flavours ------------------------------------------------------------------------------

    def _kokoro(self) -> Iterable[web.RouteDef]:
        names = ("tts-1", "tts-1-hd", "kokoro", "gpt-4o-mini-tts")
        models = [{"id": name, "object": "model", "created": 1686935002, "owned_by": "kokoro"} for name in names]
        voices = [{"id": name, "name": name} for name, _, _ in _VOICES]
        return (
            web.get("/v1/models", _constant({"object": "list", "data": models})),
            web.get("/v1/audio/voices", _constant({"voices": voices})),
            web.get("/health", _constant({"status": "healthy"})),
            web.post("/v1/audio/speech", self._speak),
        )

    def _speaches(self) -> Iterable[web.RouteDef]:
        voices = [{"name": n, "id": n, "language": language, "gender": gender} for n, language, gender in _VOICES]
        head = {"created": 1762300800, "object": "model"}
        asr = {
            "id": _WHISPER,
            **head,
            "owned_by": "Systran",
            "task": "automatic-speech-recognition",
            "language": ["en"],
        }
        tts = {"id": _KOKORO, **head, "owned_by": "speaches-ai", "task": "text-to-speech", "sample_rate": media.RATE}
        return (
            web.get("/v1/models", _constant({"object": "list", "data": [asr, {**tts, "voices": voices}]})),
            web.get("/api/ps", _constant({"models": [_WHISPER]})),
            web.get("/v1/audio/voices", _constant({"object": "list", "voices": voices})),
            web.post("/v1/audio/speech", self._speak),
            web.post("/v1/audio/transcriptions", self._hear),
            web.post("/v1/audio/translations", self._hear),
        )

    def _sdcpp(self) -> Iterable[web.RouteDef]:
        model = {"name": "flux1-schnell-q4_k.gguf", "stem": "flux1-schnell-q4_k", "path": "flux1-schnell-q4_k.gguf"}
        capabilities = {"model": model, "current_mode": "img_gen", "supported_modes": ["img_gen"]}
        local = {"id": "sd-cpp-local", "object": "model", "owned_by": "local"}
        return (
            web.get("/v1/models", _constant({"data": [local]})),
            web.get("/sdcpp/v1/capabilities", _constant(capabilities)),
            web.post("/v1/images/generations", self._draw),
            web.post("/v1/images/edits", self._edit),
        )

    def _openai(self) -> Iterable[web.RouteDef]:
        models = [{"id": name, "object": "model"} for name in ("bge-reranker-v2-m3", "text-moderation-local")]
        return (
            web.get("/v1/models", _constant({"object": "list", "data": models})),
            web.post("/v1/rerank", self._rank),
            web.post("/v1/moderations", self._judge),
        )

    # --- work ----------------------------------------------------------------------------------

    async def _speak(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        wanted, voice = body.get("response_format", _WAV), body.get("voice", "")
        if wanted not in _MIME:
            return _refused(400, f"Unsupported format: {wanted}; a simulated voice speaks wav and pcm")
        if voice not in {name for name, _, _ in _VOICES}:
            return _refused(400, f"Voice '{voice}' not found.")
        events = body.get("stream_format") == "sse" and self.flavour == "speaches"
        response = web.StreamResponse(headers={"content-type": "text/event-stream" if events else _MIME[wanted]})
        await response.prepare(request)
        if wanted == _WAV and not events:
            await response.write(media.wav_head())
        async for piece in self._pieces(body):
            audio = {"type": "speech.audio.delta", "audio": base64.b64encode(piece).decode()}
            await response.write(_event(audio) if events else piece)
        if events:
            await response.write(_event({"type": "speech.audio.done", "token_usage": {"total_tokens": 0}}))
        return response

    async def _pieces(self, body: Json) -> AsyncIterator[bytes]:
        for piece in media.spoken(body.get("input", ""), body.get("voice", ""), float(body.get("speed") or 1)):
            yield piece
            await asyncio.sleep(self._pause_s)

    async def _hear(self, request: web.Request) -> web.StreamResponse:
        form = await request.post()
        file = form.get("file")
        if not isinstance(file, web.FileField):
            return _refused(422, "Field required: file")
        text = media.heard(file.file.read())
        if form.get("stream") == "true":
            response = web.StreamResponse(headers={"content-type": "text/event-stream"})
            await response.prepare(request)
            for word in text.split():
                await response.write(_event({"type": "transcript.text.delta", "delta": word + " "}))
            await response.write(_event({"type": "transcript.text.done", "text": text}))
            return response
        if form.get("response_format") == "text":
            return web.Response(text=text)
        return web.json_response({"text": text})

    async def _draw(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        return _pictures(body.get("prompt"), body.get("n", 1), body.get("size", ""))

    async def _edit(self, request: web.Request) -> web.StreamResponse:
        form = await request.post()
        files = [*form.getall("image[]", ()), *form.getall("image", ())]
        if not files:
            return web.json_response({"error": "at least one image[] required"}, status=400)
        return _pictures(str(form.get("prompt", "")), int(str(form.get("n", "1"))), str(form.get("size", "")))

    async def _rank(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        texts = [each if isinstance(each, str) else str(each.get("text", "")) for each in body.get("documents", ())]
        scores = [(media.relevance(body.get("query", ""), text), place) for place, text in enumerate(texts)]
        ranked = sorted(scores, key=lambda pair: (-pair[0], pair[1]))[: body.get("top_n") or len(scores)]
        results = [{"index": place, "relevance_score": score} for score, place in ranked]
        return web.json_response({"model": body.get("model"), "object": "list", "results": results})

    async def _judge(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        given = body.get("input", "")
        texts = given if isinstance(given, list) else [given]
        bad = ["harm" in str(text).casefold() for text in texts]
        results = [
            {"flagged": each, "categories": {"violence": each}, "category_scores": {"violence": float(each)}}
            for each in bad
        ]
        return web.json_response({"id": "modr-sim", "model": body.get("model"), "results": results})


def _pictures(prompt: str | None, count: int, size: str) -> web.Response:
    if not prompt:
        return web.json_response({"error": "prompt required"}, status=400)
    width, _, height = size.partition("x")
    wide, high = (min(int(each), _MOST_PIXELS) if each.isdigit() else 64 for each in (width, height))
    made = [media.picture(prompt, wide, high, turn) for turn in range(max(1, min(count, 8)))]
    data = [{"b64_json": base64.b64encode(each).decode()} for each in made]
    return web.json_response({"created": 0, "data": data, "output_format": "png"})


def _refused(status: int, message: str) -> web.Response:
    detail = {"error": "validation_error", "message": message, "type": "invalid_request_error"}
    return web.json_response({"detail": detail}, status=status)


def _event(value: Json) -> bytes:
    return b"data: " + json.dumps(value).encode() + b"\n\n"


def _constant(value: Json) -> Any:
    async def answer(_request: web.Request) -> web.Response:
        return web.json_response(value)

    return answer


def main() -> None:
    """Run one until a signal ends it."""
    parser = argparse.ArgumentParser(description="A simulated engine of speech, images, rerank or moderations.")
    parser.add_argument("flavour", choices=("speaches", "kokoro", "sdcpp", "openai"))
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--pause", type=float, default=0.05, help="seconds between two pieces of a sound")
    given = parser.parse_args()
    web.run_app(MediaEngine(given.flavour, given.pause).app(), host=given.host, port=given.port)


if __name__ == "__main__":
    main()
