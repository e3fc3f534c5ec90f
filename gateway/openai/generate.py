"""Chat, completions and embeddings: a JSON body goes to an engine with the model's name put right.

What a policy of the role or the asset changes is changed (`gateway.openai.shaping`); everything else
reaches the engine byte for byte.
"""

from __future__ import annotations

from collections.abc import Awaitable, Mapping
from concurrent.futures import ThreadPoolExecutor

import msgspec
from msgspec.structs import replace

from gateway import web
from gateway.attempts import Attempts, Plan
from gateway.exchange import Exchange
from gateway.http import Handler
from gateway.intake import at_hand, read_json
from gateway.openai.body import JsonBody, parse
from gateway.openai.bulk import AT_ONCE
from gateway.openai.conversation import ask_of
from gateway.openai.shaping import Shaper, Shaping
from gateway.resumable import Keeper
from gateway.resume_sent import Transcript
from gateway.router import Router
from gateway.server.request import text
from gateway.upstream import UpstreamRequest
from geniehive.config import GatewayConfig
from geniehive.resources import Operation
from geniehive.routing.candidate import Candidate

# All that an engine sees of a client's headers: what tells how to answer, and the trace.
_PARENT, _STATE = b"traceparent", b"tracestate"
_PASSED_ON = (text(_PARENT), text(_STATE))
_NOTHING: Mapping[str, str] = {}
_GRACE_S = 0.25
_MORE_GRACE_S = 2.0
_MOST_CHOICES = 1024
_STREAMED = frozenset({Operation.CHAT, Operation.COMPLETION})


def engine_headers(exchange: Exchange, content_type: str, accept: str) -> dict[str, str]:
    """The headers of a request to an engine: a short list, so nothing of the client's can slip through."""
    return {
        "content-type": content_type,
        "accept": accept,
        "accept-encoding": "identity",
        "user-agent": "geniehive-gateway",
        "x-request-id": exchange.request_id,
        **_traced(exchange),
    }


def _traced(exchange: Exchange) -> Mapping[str, str]:
    """What of the client's headers is passed on."""
    fields = exchange.request.fields
    if _PARENT not in fields and _STATE not in fields:
        return _NOTHING
    given = exchange.request.headers
    return {name: given[name] for name in _PASSED_ON if name in given}


def _lines(accept: str) -> str:
    """The headers of a JSON body's request to an engine, as they are sent, but for the id at their end."""
    return (
        f"content-type: application/json\r\naccept: {accept}\r\naccept-encoding: identity\r\n"
        "user-agent: geniehive-gateway\r\nx-request-id: "
    )


_WHOLE, _STREAM = _lines("application/json"), _lines("text/event-stream")


class Generate:
    """Makes the handlers of the JSON operations."""

    def __init__(self, router: Router, attempts: Attempts, limits: GatewayConfig) -> None:
        self._router = router
        self._attempts = attempts
        self._limits = limits
        self._keeper = Keeper(limits)
        self._parser = ThreadPoolExecutor(1, "parser")  # two would only wait for the interpreter, and the loop for both

    def handler(self, operation: Operation, path: str) -> Handler:
        """The handler for one operation; `path` is where engines take it."""
        shaper = Shaper(operation, self._limits.dropped_parameters)
        cap, timeout_s = self._limits.max_body_bytes, self._limits.body_timeout_s
        streams = operation in _STREAMED

        def handle(exchange: Exchange) -> Awaitable[web.StreamResponse]:
            """Without a coroutine of its own where there is nothing to wait for."""
            raw = at_hand(exchange, cap)
            return later(exchange, raw) if raw is None or len(raw) > AT_ONCE else answer(exchange, parse(raw))

        async def later(exchange: Exchange, raw: bytes | None) -> web.StreamResponse:
            if raw is None:
                raw = await read_json(exchange, cap=cap, timeout_s=timeout_s)
            return await answer(exchange, await self.parsed(exchange, raw))

        def answer(exchange: Exchange, body: JsonBody) -> Awaitable[web.StreamResponse]:
            shaping = shaper.of(body)
            stream = streams and body.fields.get("stream") is True
            candidates = self._router.candidates(
                body.model, operation, exchange, lambda now, put_before: ask_of(body, now, put_before)
            )
            lines = f"{_STREAM if stream else _WHOLE}{exchange.request_id}\r\n"
            build = _Asking(exchange, shaping, path, _traced(exchange), lines).build
            plan = Plan(candidates, build, adapt=shaping.adapt)
            if stream:
                plan = self._streamed(plan, body, shaping, operation)
            return self._attempts.run(exchange, plan)

        return handle

    def _streamed(self, plan: Plan, body: JsonBody, shaping: Shaping, operation: Operation) -> Plan:
        """What a stream needs beyond that."""
        plan = replace(plan, stream=True, done_marker=True, grace_s=_grace(body), rewrite=shaping.rewrite)
        if "n" in body.fields:
            plan = replace(plan, choices=_choices(body))
        if len(plan.candidates) < 2:
            return plan

        def transcript(candidate: Candidate, most: int) -> Transcript:
            return Transcript(most, hides=shaping.rewrite(candidate) is not None)

        return self._keeper.kept(plan, operation, transcript)

    async def parsed(self, exchange: Exchange, raw: bytes) -> JsonBody:
        """The checked body. A large one is parsed in a thread, one at a time, while other requests go on."""
        if len(raw) <= AT_ONCE:
            return parse(raw)
        return await exchange.loop.run_in_executor(self._parser, parse, raw)


def _grace(body: JsonBody) -> float:
    """How long to wait behind a finish for `[DONE]`: longer where usage is still to come, or other choices."""
    options = body.fields.get("stream_options")
    more = isinstance(options, dict) and options.get("include_usage") is True
    return _MORE_GRACE_S if more or _choices(body) != 1 else _GRACE_S


def _choices(body: JsonBody) -> int:
    """How many answers are asked for; nonsense is for the engine to refuse."""
    asked = body.fields.get("n")
    return asked if type(asked) is int and 1 <= asked <= _MOST_CHOICES else 1


class _Asking(msgspec.Struct, eq=False):  # a function made for each request would take twice as long
    """What engines are asked for one request."""

    exchange: Exchange
    shaping: Shaping
    path: str
    headers: Mapping[str, str]
    lines: str

    def build(self, candidate: Candidate) -> UpstreamRequest:
        """The request to one of them."""
        shaping = self.shaping
        content = shaping.content(candidate)
        if shaping.steadied is not None:
            self.exchange.steadied = shaping.steadied
        return UpstreamRequest("POST", candidate.service.endpoint + self.path, self.headers, content, self.lines)
