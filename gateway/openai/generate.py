"""Chat, completions and embeddings: a JSON body goes to an engine with the model's name put right.

What a policy of the role or the asset changes is changed (`gateway.openai.shaping`); everything else
reaches the engine byte for byte.
"""

from __future__ import annotations

from functools import partial

from aiohttp import web

from gateway.attempts import Attempts, Plan
from gateway.exchange import Exchange
from gateway.http import Handler
from gateway.intake import read_json
from gateway.openai.body import parse
from gateway.openai.conversation import ask_of
from gateway.openai.shaping import Shaper, Shaping
from gateway.router import Router
from gateway.upstream import UpstreamRequest
from geniehive.config import GatewayConfig
from geniehive.resources import Operation
from geniehive.routing.candidate import Candidate

# All that an engine sees of a client's headers: what tells how to answer, and the trace.
_PASSED_ON = ("traceparent", "tracestate")
_STREAMED = frozenset({Operation.CHAT, Operation.COMPLETION})


def engine_headers(exchange: Exchange, content_type: str, accept: str) -> dict[str, str]:
    """The headers of a request to an engine: a short list, so nothing of the client's can slip through."""
    headers = {
        "content-type": content_type,
        "accept": accept,
        "accept-encoding": "identity",
        "user-agent": "geniehive-gateway",
        "x-request-id": exchange.request_id,
    }
    given = exchange.request.headers
    for name in _PASSED_ON:
        if name in given:
            headers[name] = given[name]
    return headers


class Generate:
    """Makes the handlers of the JSON operations."""

    def __init__(self, router: Router, attempts: Attempts, limits: GatewayConfig) -> None:
        self._router = router
        self._attempts = attempts
        self._limits = limits

    def handler(self, operation: Operation, path: str) -> Handler:
        """The handler for one operation; `path` is where engines take it."""
        shaper = Shaper(operation, self._limits.dropped_parameters)

        async def handle(exchange: Exchange) -> web.StreamResponse:
            raw = await read_json(exchange, cap=self._limits.max_body_bytes, timeout_s=self._limits.body_timeout_s)
            body = parse(raw)
            shaping = shaper.of(body)
            stream = body.stream and operation in _STREAMED
            candidates = self._router.candidates(body.model, operation, exchange, partial(ask_of, body))
            return await self._attempts.run(exchange, _plan(exchange, shaping, candidates, path, stream=stream))

        return handle


def _plan(exchange: Exchange, shaping: Shaping, candidates: tuple[Candidate, ...], path: str, *, stream: bool) -> Plan:
    headers = engine_headers(exchange, "application/json", "text/event-stream" if stream else "application/json")

    def build(candidate: Candidate) -> UpstreamRequest:
        return UpstreamRequest("POST", candidate.service.endpoint + path, headers, shaping.content(candidate))

    return Plan(candidates, build, stream=stream, done_marker=stream, adapt=shaping.adapt, rewrite=shaping.rewrite)
