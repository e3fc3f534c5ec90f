"""JSON requests that are neither chat, completions nor embeddings: speech, images, rerank, moderations, and the rest.

The body goes on as `gateway.openai.generate` sends it: byte for byte, but for the model's name and what a
policy changes. The answers differ: audio is passed on as it comes, images are large, and what is sent as
events only the request tells.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from gateway import web
from gateway.attempts import Attempts
from gateway.exchange import Exchange
from gateway.http import Handler
from gateway.intake import read_json
from gateway.openai.body import JsonBody, parse
from gateway.openai.bulk import AT_ONCE
from gateway.openai.generate import engine_headers
from gateway.openai.shaping import Shaper
from gateway.plan import HELD_BYTES, Plan
from gateway.router import Router
from gateway.upstream import UpstreamRequest
from geniehive.config import GatewayConfig
from geniehive.resources import Operation
from geniehive.routing.candidate import Candidate

_GRACE_S = 2.0


def asks_for_stream(body: JsonBody) -> bool:
    """Whether a body says `stream: true`."""
    return body.stream


def comes_whole(_body: JsonBody) -> bool:
    """No body asks for events: engines have none of this, whatever `stream` says."""
    return False


def speaks_in_events(body: JsonBody) -> bool:
    """Whether a speech request wants its audio as events; `stream` is Kokoro's word for chunks of audio."""
    return body.fields.get("stream_format") == "sse"


class Errand(NamedTuple):
    """What one route is for."""

    operation: Operation | None
    """None: whatever the model can do; then no policy changes the body."""
    path: str
    """Where engines take it."""
    accept: str = "application/json"
    json: bool = True
    """Whether an answer without a stream is a JSON object."""
    stream: Callable[[JsonBody], bool] = asks_for_stream
    """Whether a body asks for events."""
    as_it_comes: bool = False
    """Whether an answer without a stream is passed on from its first byte, as audio is that one listens to."""


class Forward:
    """Makes the handlers of these routes."""

    def __init__(self, router: Router, attempts: Attempts, limits: GatewayConfig) -> None:
        self._router = router
        self._attempts = attempts
        self._limits = limits
        self._parser = ThreadPoolExecutor(1, "parser")

    def handler(self, errand: Errand) -> Handler:
        """The handler for one errand."""
        content_of = self._shaped(errand.operation) if errand.operation is not None else self._unshaped

        async def handle(exchange: Exchange) -> web.StreamResponse:
            body = await self.read(exchange)
            candidates = self._router.candidates(body.model, errand.operation, exchange)
            return await self._attempts.run(exchange, self._plan(exchange, errand, body, candidates, content_of(body)))

        return handle

    async def read(self, exchange: Exchange) -> JsonBody:
        """The client's checked body; a large one is parsed aside of the event loop."""
        limits = self._limits
        raw = await read_json(exchange, cap=limits.max_body_bytes, timeout_s=limits.body_timeout_s)
        if len(raw) <= AT_ONCE:
            return parse(raw)
        return await exchange.loop.run_in_executor(self._parser, parse, raw)

    def _plan(
        self,
        exchange: Exchange,
        errand: Errand,
        body: JsonBody,
        candidates: tuple[Candidate, ...],
        content: Callable[[Candidate], bytes],
    ) -> Plan:
        stream = errand.stream(body)
        headers = engine_headers(exchange, "application/json", "text/event-stream" if stream else errand.accept)

        def build(candidate: Candidate) -> UpstreamRequest:
            return UpstreamRequest("POST", candidate.service.endpoint + errand.path, headers, content(candidate))

        return Plan(
            candidates,
            build,
            stream=stream,
            json=errand.json,
            streams_vary=True,
            held_bytes=1 if errand.as_it_comes else HELD_BYTES,
            grace_s=self._grace(body),
        )

    def _grace(self, body: JsonBody) -> float:
        """How long more may follow behind a last event: of several images each has one."""
        count = body.fields.get("n")
        several = isinstance(count, int) and count > 1
        return self._limits.idle_timeout_s if several else _GRACE_S

    def _shaped(self, operation: Operation) -> Callable[[JsonBody], Callable[[Candidate], bytes]]:
        shaper = Shaper(operation, self._limits.dropped_parameters)
        return lambda body: shaper.of(body).content

    def _unshaped(self, body: JsonBody) -> Callable[[Candidate], bytes]:
        drop = frozenset(self._limits.dropped_parameters) & body.fields.keys()
        return lambda candidate: body.with_changes(candidate.asset.asset_id, {}, frozenset(drop))
