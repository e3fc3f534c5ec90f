"""Handlers of Ollama's API: questions go to any engine as chats, completions or embeddings, and come back translated.

Errors are in Ollama's shape, `{"error": "…"}`. A request without a prompt, by which Ollama loads and unloads, is
answered as Ollama does and moves nothing: what is in memory here is for `geniehive load`, not for clients.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import partial
from typing import Final

import msgspec

from gateway import web
from gateway.attempts import Attempts
from gateway.auth import CALLER, INFERENCE
from gateway.errors import JSON, error_headers, message_in
from gateway.exchange import Exchange
from gateway.http import Handler, Route
from gateway.intake import ClientBody, read_json, welcome
from gateway.ollama import ask, listing, tell
from gateway.openai.body import JsonBody, decode, parse
from gateway.openai.bulk import AT_ONCE, check_bulk
from gateway.openai.conversation import ask_of
from gateway.openai.generate import engine_headers
from gateway.openai.shaping import Shaper, Shaping
from gateway.permits import check_name, may_name
from gateway.plan import Plan
from gateway.resumable import Keeper
from gateway.resume_sent import Transcript
from gateway.router import Router
from gateway.sse import Rewrite
from gateway.upstream import UpstreamRequest
from gateway.view import RoutingView
from geniehive.config import GatewayConfig
from geniehive.errors import GenieHiveError, InvalidRequest, PermissionDenied, wire_of
from geniehive.resources import Asset, Operation
from geniehive.routing.candidate import Candidate
from geniehive.routing.eligibility import operations
from geniehive.routing.table import RoutingTable

API_VERSION: Final = "0.33.3"
"""Of the Ollama whose API this is; clients refuse versions that are too old for them."""

_TRANSLATED: Final = 64 * 1024 * 1024  # of an answer without a stream: it is held whole
_LATEST: Final = ":latest"
_FORM: Final = "application/x-www-form-urlencoded"
_SHAPED: Final = (Operation.CHAT, Operation.COMPLETION, Operation.EMBEDDINGS)


class Facade:
    """The handlers, and their routes."""

    def __init__(
        self, view: RoutingView, router: Router, attempts: Attempts, limits: GatewayConfig, version: str
    ) -> None:
        self._view = view
        self._router = router
        self._attempts = attempts
        self._limits = limits
        self._version = version
        self._keeper = Keeper(limits)
        self._parser = ThreadPoolExecutor(1, "parser")
        self._shapers = {operation: Shaper(operation, limits.dropped_parameters) for operation in _SHAPED}

    def routes(self) -> tuple[Route, ...]:
        """Every route of it."""
        asked = (
            ("chat", ask.chat, Operation.CHAT),
            ("generate", ask.generate, Operation.CHAT),
            ("embed", ask.embed, Operation.EMBEDDINGS),
            ("embeddings", ask.embed, Operation.EMBEDDINGS),
        )
        return (
            Route("/api/version", "GET", self.version, scope=CALLER),
            Route("/api/tags", "GET", _in_ollamas_words(self.tags), scope=CALLER),
            Route("/api/ps", "GET", _in_ollamas_words(self.running), scope=CALLER),
            Route("/api/show", "POST", _in_ollamas_words(self.show), scope=CALLER),
            *(
                Route(
                    f"/api/{name}",
                    "POST",
                    _in_ollamas_words(self._handler(how, one=name == "embeddings")),
                    op,
                    INFERENCE,
                )
                for name, how, op in asked
            ),
        )

    async def version(self, _exchange: Exchange) -> web.StreamResponse:
        """GET /api/version. `geniehive` tells node agents that look for engines that this is none."""
        return _json({"version": API_VERSION, "geniehive": self._version})

    async def tags(self, exchange: Exchange) -> web.StreamResponse:
        """GET /api/tags: what the caller may ask for."""
        return _json(listing.tags(self._view.current(), partial(_sees, self._view.current(), exchange.principal)))

    async def running(self, exchange: Exchange) -> web.StreamResponse:
        """GET /api/ps."""
        return _json(listing.running(self._view.current(), partial(_sees, self._view.current(), exchange.principal)))

    async def show(self, exchange: Exchange) -> web.StreamResponse:
        """POST /api/show; the model's field is `model`, `name` in older clients."""
        given = decode(await self._read(exchange))
        name = given.get("model") or given.get("name")
        if not isinstance(name, str) or not name:
            raise InvalidRequest("model is required", param="model")
        table = self._view.current()
        name = known_name(table, name)
        check_name(exchange.principal, name, table)  # first: whether a name that it may not say exists is not told
        found = listing.find(table, name)
        if not _sees(table, exchange.principal, found):
            raise PermissionDenied(f"this key may not ask for {name[:200]!r}", param="model")
        return _json(listing.shown(found))

    def _handler(self, how: Callable[[ask.Json], ask.Question], *, one: bool) -> Handler:
        async def handle(exchange: Exchange) -> web.StreamResponse:
            raw = await self._read(exchange)
            work = partial(understand, raw, how, partial(known_name, self._view.current()))
            large = len(raw) > AT_ONCE
            question, body = await exchange.loop.run_in_executor(self._parser, work) if large else work()
            exchange.operation = question.operation
            clock = tell.Clock(lambda: exchange.now() - exchange.began, today)
            if body is None:
                self._router.candidates(body_name(question, self._view), question.operation, exchange)
                return _json_bytes(tell.nothing(question.kind, question.model, clock, unload=question.unload))
            return await self._answer(exchange, question, body, clock, one=one)

        return handle

    async def _answer(
        self, exchange: Exchange, question: ask.Question, body: JsonBody, clock: tell.Clock, *, one: bool
    ) -> web.StreamResponse:
        shaping = self._shapers[question.operation].of(body)
        candidates = self._router.candidates(body.model, question.operation, exchange, partial(ask_of, body))
        exchange.stream_type, exchange.ending = tell.LINES, tell.broken
        headers = engine_headers(exchange, JSON, "text/event-stream" if question.stream else JSON)

        def build(candidate: Candidate) -> UpstreamRequest:
            url = candidate.service.endpoint + question.path
            return UpstreamRequest("POST", url, headers, shaping.content(candidate))

        def adapt(candidate: Candidate, content_type: str, content: bytes) -> tuple[str, bytes]:
            _, content = shaping.adapt(candidate, content_type, content)
            if question.kind == "embed":
                return JSON, tell.embeddings(question.model, content, clock, one=one)
            return JSON, tell.whole(question.kind, question.model, content, clock)

        plan = Plan(
            candidates,
            build,
            stream=question.stream,
            done_marker=question.stream,
            adapt=adapt,
            rewrite=partial(_rewrite, shaping, question, clock),
            held_bytes=_TRANSLATED,
        )
        if question.stream:
            plan = self._keeper.kept(plan, question.operation, partial(_transcript, shaping))
        return await self._attempts.run(exchange, plan)

    async def _read(self, exchange: Exchange) -> bytes:
        """The client's JSON. Ollama looks at no content type, and its own examples send what curl sends by itself.

        A page in a browser could send that too, to this machine's gateway; it says who it is by its `Origin`.
        """
        limits, headers = self._limits, exchange.request.headers
        kind = headers.get("content-type", _FORM).partition(";")[0].strip().lower()
        if kind != _FORM or "origin" in headers:
            return await read_json(exchange, cap=limits.max_body_bytes, timeout_s=limits.body_timeout_s)
        body = ClientBody(exchange, cap=limits.max_body_bytes, timeout_s=limits.body_timeout_s)
        await welcome(exchange)
        return await body.all()


def understand(
    raw: bytes, how: Callable[[ask.Json], ask.Question], known: Callable[[str], str]
) -> tuple[ask.Question, JsonBody | None]:
    """The question in a body, and the body that asks it of an engine; None if there is nothing to ask."""
    if len(raw) > AT_ONCE:
        check_bulk(raw)
    question = how(parse(raw).fields)
    if question.fields is None:
        return question, None
    return question, parse(msgspec.json.encode({**question.fields, "model": known(question.model)}))


def known_name(table: RoutingTable, name: str) -> str:
    """A name as the cluster has it: some clients give every model a tag."""
    bare = name.removesuffix(_LATEST)
    if bare != name and not table.entries(name) and name not in table.shape.roles:
        return bare
    return name


def body_name(question: ask.Question, view: RoutingView) -> str:
    """The name of a model that is only to be loaded, as the cluster has it."""
    return known_name(view.current(), question.model)


def _sees(table: RoutingTable, who: object, model: listing.Model) -> bool:
    role = table.shape.roles.get(model.name) if not table.entries(model.name) else None
    places = [(asset, operations(service, asset)) for service, asset in model.places]
    if role is not None:  # it has to be named itself, and is for its own operation
        places = [(Asset(asset_id=role.role_id), (role.operation,))]
    return may_name(model.name, places, who)


def today() -> str:
    """Now, as Ollama writes it."""
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")


def _rewrite(shaping: Shaping, question: ask.Question, clock: tell.Clock, candidate: Candidate) -> Rewrite:
    lines, strip = tell.Lines(question.kind, question.model, clock), shaping.rewrite(candidate)
    return lines if strip is None else lambda block: lines(strip(block))


def _transcript(shaping: Shaping, candidate: Candidate, most: int) -> Transcript:
    return Transcript(most, hides=shaping.rewrite(candidate) is not None)


def _in_ollamas_words(handler: Callable[[Exchange], Awaitable[web.StreamResponse]]) -> Handler:
    """The handler, with its errors as `{"error": "…"}`."""

    async def handle(exchange: Exchange) -> web.StreamResponse:
        try:
            response = await handler(exchange)
        except GenieHiveError as error:
            exchange.failed(error)
            headers = error_headers(error, attempts=exchange.attempts)
            return web.Response(status=wire_of(error).status, body=_said(error.message), headers=headers)
        if isinstance(response, web.Response) and response.status >= 400:
            response.body = _said(message_in(response.body) or f"the engine answered {response.status}")
        return response

    return handle


def _said(message: str) -> bytes:
    return msgspec.json.encode({"error": message})


def _json(value: object) -> web.Response:
    return _json_bytes(msgspec.json.encode(value))


def _json_bytes(body: bytes) -> web.Response:
    return web.Response(body=body, content_type=JSON)
