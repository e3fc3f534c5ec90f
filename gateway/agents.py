"""The routes of coding agents: OpenAI's Responses, Anthropic's Messages, and the count of their tokens.

They are routed as chats are. `gateway.dialects` says what an engine gets; retries, receipts and streams are those of
all requests. A request that only an engine with the route itself can take goes to such engines alone.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Iterable
from functools import partial

import msgspec
from msgspec.structs import replace

from gateway import web
from gateway.answers import Whole
from gateway.anthropic_errors import MESSAGES, VERSION_HEADER
from gateway.attempts import Attempts, Plan
from gateway.dialects import CHAT, Dialogue, MessagesDialogue, ResponsesDialogue
from gateway.exchange import Exchange
from gateway.intake import read_json
from gateway.openai.body import JsonBody
from gateway.openai.generate import engine_headers
from gateway.response_store import ResponseStore
from gateway.resumable import Keeper
from gateway.router import Router
from gateway.translate import messages_request
from gateway.translate.prompt import ask_of, prompt_of
from gateway.upstream import UpstreamRequest
from geniehive.config import GatewayConfig
from geniehive.errors import InvalidRequest
from geniehive.resources import Operation
from geniehive.routing.candidate import Candidate
from geniehive.routing.policy import INCLUDE_REASONING, PolicyBook

Parse = Callable[[Exchange, bytes], Awaitable[JsonBody]]

COUNT_TOKENS = f"{MESSAGES}/count_tokens"
_VERSION = "2023-06-01"
_FORWARDED = "anthropic-"
_GRACE_S = 2.0  # usage follows the finish reason in a chunk of its own
_BYTES_PER_TOKEN = 4  # of English and code, with the vocabularies of today's models
_ESTIMATED = "x-geniehive-estimated"


class Agents:
    """Makes the handlers; `parse` checks a JSON body."""

    def __init__(self, router: Router, attempts: Attempts, limits: GatewayConfig, parse: Parse) -> None:
        self._router = router
        self._attempts = attempts
        self._limits = limits
        self._parse = parse
        self._policies = PolicyBook(Operation.CHAT)
        self._kept_back = frozenset({*limits.dropped_parameters, INCLUDE_REASONING})
        self._store = ResponseStore(limits.stored_responses)
        self._keeper = Keeper(limits)

    async def messages(self, exchange: Exchange) -> web.StreamResponse:
        """POST /v1/messages."""
        body = await self._body(exchange)
        _check_messages(body)
        return await self._run(exchange, MessagesDialogue(exchange, body, self._policies, self._kept_back))

    async def responses(self, exchange: Exchange) -> web.StreamResponse:
        """POST /v1/responses."""
        body = await self._body(exchange)
        owner = _owner(exchange)
        dialogue = ResponsesDialogue(exchange, body, self._policies, self._kept_back, self._store, owner)
        return await self._run(exchange, dialogue)

    async def response(self, exchange: Exchange) -> web.StreamResponse:
        """GET /v1/responses/{id}: one that is kept."""
        found = self._store.get(exchange.tail, _owner(exchange)).response
        return Whole(200, msgspec.json.encode(found), "application/json")

    async def forget(self, exchange: Exchange) -> web.StreamResponse:
        """DELETE /v1/responses/{id}."""
        self._store.delete(exchange.tail, _owner(exchange))
        told = {"id": exchange.tail, "object": "response", "deleted": True}
        return Whole(200, msgspec.json.encode(told), "application/json")

    async def count_tokens(self, exchange: Exchange) -> web.StreamResponse:
        """POST /v1/messages/count_tokens: by an engine that counts, else an estimate that says so."""
        body = await self._body(exchange)
        _check_messages(body)
        candidates = self._candidates(exchange, body, body.fields)
        able = _only(exchange, candidates, lambda each: COUNT_TOKENS in each.service.routes)
        if not able:
            messages_request.to_chat(body.fields)  # refuses what could not be answered either
            tokens = math.ceil(len(prompt_of({**body.fields, "tools": None})) / _BYTES_PER_TOKEN)
            tokens += math.ceil(len(msgspec.json.encode(body.fields.get("tools") or "")) / _BYTES_PER_TOKEN)
            told = msgspec.json.encode({"input_tokens": tokens})
            return Whole(200, told, "application/json", {_ESTIMATED: "true"})
        dialogue = MessagesDialogue(exchange, body, self._policies, self._kept_back)
        headers = _headers(exchange, MESSAGES, stream=False)

        def build(candidate: Candidate) -> UpstreamRequest:
            url = candidate.service.endpoint + COUNT_TOKENS
            return UpstreamRequest("POST", url, headers, dialogue.content(candidate))

        return await self._attempts.run(exchange, Plan(able, build))

    async def _body(self, exchange: Exchange) -> JsonBody:
        raw = await read_json(exchange, cap=self._limits.max_body_bytes, timeout_s=self._limits.body_timeout_s)
        return await self._parse(exchange, raw)

    def _candidates(self, exchange: Exchange, body: JsonBody, fields: dict[str, object]) -> tuple[Candidate, ...]:
        return self._router.candidates(body.model, Operation.CHAT, exchange, partial(ask_of, fields))

    async def _run(self, exchange: Exchange, dialogue: Dialogue) -> web.StreamResponse:
        body = dialogue.body
        candidates = _able(exchange, self._candidates(exchange, body, dialogue.fields), dialogue)
        headers = _headers(exchange, dialogue.path, stream=body.stream)
        translated = {name: value for name, value in headers.items() if not name.startswith(_FORWARDED)}

        def build(candidate: Candidate) -> UpstreamRequest:
            own = dialogue.native(candidate)
            url = candidate.service.endpoint + (dialogue.path if own else CHAT)
            return UpstreamRequest("POST", url, headers if own else translated, dialogue.content(candidate))

        def rest(candidate: Candidate) -> UpstreamRequest:
            url = candidate.service.endpoint + CHAT
            return UpstreamRequest("POST", url, translated, dialogue.translated(candidate))

        plan = Plan(
            candidates,
            build,
            stream=body.stream,
            done_marker=body.stream,
            grace_s=_GRACE_S,
            adapt=dialogue.adapt,
            rewrite=dialogue.rewrite,
            rest=rest,
        )
        if body.stream:
            plan = self._keeper.kept(plan, Operation.CHAT, dialogue.transcript)
        return await self._attempts.run(exchange, plan)


def _able(exchange: Exchange, candidates: tuple[Candidate, ...], dialogue: Dialogue) -> tuple[Candidate, ...]:
    """Whom to ask: everybody, or where the request cannot be translated, those with the route itself.

    Raises InvalidRequest, naming the part, where there is none.
    """
    if all(map(dialogue.native, candidates if exchange.found is None else exchange.found.candidates)):
        return candidates
    try:
        dialogue.chat()
    except InvalidRequest:
        own = _only(exchange, candidates, dialogue.native)
        if not own:
            raise
        return own
    return candidates


def _only(
    exchange: Exchange, candidates: tuple[Candidate, ...], able: Callable[[Candidate], bool]
) -> tuple[Candidate, ...]:
    """Those that are able, of all that the name leads to where the strategy chose none: nobody else is asked later."""
    if exchange.found is None:
        return tuple(filter(able, candidates))
    everybody = tuple(filter(able, exchange.found.candidates))
    exchange.found = replace(exchange.found, candidates=everybody)
    return tuple(filter(able, candidates)) or everybody


def _headers(exchange: Exchange, path: str, *, stream: bool) -> dict[str, str]:
    """The headers for an engine with the route itself: Anthropic's go along where a client sent them."""
    headers = engine_headers(exchange, "application/json", "text/event-stream" if stream else "application/json")
    forwarded = _anthropic(exchange.request.headers.items())
    if path == MESSAGES:
        headers[VERSION_HEADER] = _VERSION
    return headers | forwarded


def _anthropic(given: Iterable[tuple[str, str]]) -> dict[str, str]:
    lower = ((name.lower(), value) for name, value in given)
    return {name: value for name, value in lower if name.startswith(_FORWARDED)}


def _check_messages(body: JsonBody) -> None:
    """What some engines answer 500 to."""
    if not isinstance(body.fields.get("messages"), list):
        raise InvalidRequest("`messages` must be a list of turns", param="messages")


def _owner(exchange: Exchange) -> object:
    """The key that asks: the same one as long as it is good; its name may come to be another's."""
    return exchange.principal
