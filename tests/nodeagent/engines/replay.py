"""A real HTTP server that replays fixtures, and fails the test if it is asked anything that has a side effect.

A GET that no route was given for gets the engine's way to say "unknown path". A POST or DELETE must have been given a
route. Never allowed are the GETs that make engines work: SGLang's /health and /health_generate, llama.cpp's /slots,
`?model=` without `autoload=false`, and llama-swap's /upstream/ (unless a test gives it a route).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import web
from aiohttp.test_utils import TestServer

FIXTURES = Path(__file__).parents[2] / "fixtures"


@dataclass(frozen=True)
class Answer:
    body: str | bytes = "{}"
    status: int = 200
    content_type: str = "application/json"


Route = Answer | Callable[[Any], Answer]
NOT_FOUND = Answer("404 page not found", 404, "text/plain")


def fixture(name: str, status: int = 200) -> Answer:
    kind = {".json": "application/json", ".html": "text/html"}.get(Path(name).suffix, "text/plain")
    return Answer((FIXTURES / name).read_bytes(), status, kind)


@dataclass
class Replay:
    """`routes` by "METHOD /path" (with or without the query); tests may change them between two looks."""

    routes: dict[str, Route]
    unknown: Answer = NOT_FOUND
    forbidden: frozenset[str] = frozenset()
    url: str = ""
    asked: list[str] = field(default_factory=list)
    bodies: list[tuple[str, Any]] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)

    async def handle(self, request: web.Request) -> web.Response:
        keys = (f"{request.method} {request.path_qs}", f"{request.method} {request.path}")
        self.asked.append(keys[0])
        body = await request.json() if request.can_read_body else None
        if request.method != "GET":
            self.bodies.append((keys[0], body))
        route = next((self.routes[key] for key in keys if key in self.routes), None)
        if self._has_side_effect(request, known=route is not None):
            self.violations.append(keys[0])
        answer = route(body) if callable(route) else route or self.unknown
        raw = answer.body if isinstance(answer.body, bytes) else answer.body.encode()
        return web.Response(body=raw, status=answer.status, content_type=answer.content_type)

    def _has_side_effect(self, request: web.Request, *, known: bool) -> bool:
        if request.method != "GET":
            return not known
        if request.path in {"/slots", "/health_generate"} or request.path in self.forbidden:
            return True
        if "model" in request.query and request.query.get("autoload") != "false":
            return True
        return request.path.startswith("/upstream/") and not known


@asynccontextmanager
async def replaying(
    routes: dict[str, Route], *, unknown: Answer = NOT_FOUND, forbidden: frozenset[str] = frozenset(), port: int = 0
) -> AsyncIterator[Replay]:
    replay = Replay(routes, unknown, forbidden)
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", replay.handle)
    server = TestServer(app, host="127.0.0.1", port=port or None)
    await server.start_server()
    replay.url = f"http://127.0.0.1:{server.port}"
    try:
        yield replay
    finally:
        await server.close()
    assert replay.violations == [], "these requests have side effects on an engine"
