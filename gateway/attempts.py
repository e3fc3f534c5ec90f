"""Attempts: one candidate after the other until one has begun to answer, and then that one to its end.

Until the first byte of content nothing has been promised to the client, so a failure leads to the next
candidate. What counts as a failure, and whether the same service may be asked again, is decided in
`verdict`. After the first byte there are no attempts any more (`gateway.relay`). The in-flight guard of
a candidate is held for as long as it works for this request, a client that goes away included.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import NamedTuple, Protocol

from aiohttp import web

from gateway.answers import Stream, Whole
from gateway.errors import passed_on, should_repeat
from gateway.exchange import Exchange
from gateway.middleware import Meter
from gateway.relay import Comments, commit, end_with, relay
from gateway.retry_budget import RetryBudget
from gateway.server.server import Spawn
from gateway.sse import Rewrite, SseScanner, told_in, too_large
from gateway.upstream import Refused, Upstream, UpstreamRequest, UpstreamResponse
from gateway.verdict import AttemptFailed, judge, judge_answer, judge_event
from geniehive.config import GatewayConfig
from geniehive.errors import CallerError, GenieHiveError, UpstreamError, UpstreamTimeout, UpstreamUnavailable
from geniehive.routing.candidate import Candidate
from geniehive.routing.ledger import Ask, Outcome
from geniehive.routing.receipt import Tried

MAX_ATTEMPTS = 4
_BACKOFF_S = 0.3  # on average, before a busy engine that names no time is asked once more
_HELD_BYTES = 8 * 1024 * 1024  # of an answer that is not a stream: held whole, so that a broken one can be replaced
_HELD_EVENTS = 1024 * 1024  # of a stream before its first content


class Guard(Protocol):
    """An open request of one service, counted until it is left."""

    def first_byte(self) -> None:
        """The answer has begun."""
        ...

    def finish(self, *, ok: bool, tokens: int | None = None, answer: Outcome | None = None) -> None:
        """The request is over; `tokens` is what was generated, where that is known, `answer` what it told."""
        ...


class InFlight(Protocol):
    """Counts open requests."""

    def guard(
        self, service_id: str, candidate: Candidate | None = None, ask: Ask | None = None
    ) -> AbstractContextManager[Guard]:
        """One more of a service, until the context is left; with `ask`, something is learned from it."""
        ...


def as_it_is(_candidate: Candidate, content_type: str, body: bytes) -> tuple[str, bytes]:
    """An answer unchanged. Raises UpstreamUnavailable for a web page."""
    if content_type.startswith("text/html"):
        raise UpstreamUnavailable("the engine answered with a web page; is its endpoint right?")
    return content_type, body


class Plan(NamedTuple):  # a frozen dataclass takes ten times as long to make
    """What to ask, of whom."""

    candidates: tuple[Candidate, ...]
    build: Callable[[Candidate], UpstreamRequest]
    stream: bool = False
    done_marker: bool = False
    """Whether the stream ends with `[DONE]`."""
    json: bool = True
    """Whether an answer is a JSON object, or a stream if and only if one was asked for."""
    grace_s: float = 2.0
    """For what may follow in a stream once the engine said that it finished."""
    replayable: Callable[[], bool] = lambda: True
    """Whether the body can be sent again."""
    body_failure: Callable[[], GenieHiveError | None] = lambda: None
    """What went wrong with the client's body while it was passed on."""
    adapt: Callable[[Candidate, str, bytes], tuple[str, bytes]] = as_it_is
    """Content type and body of an answer as the client expects them; raises what the engine hid in status 200."""
    rewrite: Callable[[Candidate], Rewrite | None] = lambda _candidate: None
    """What becomes of the events of a candidate's stream; None leaves their bytes as they are."""


class Begun(NamedTuple):
    """An answer whose first byte is there: a stream with its scanner, or a body (with the rest still to be read)."""

    upstream: UpstreamResponse
    head: bytes
    scanner: SseScanner | None = None
    content_type: str = ""
    done_marker: bool = False
    grace_s: float = 0

    def told(self, tried: Tried) -> None:
        """Write down what the answer tells of itself."""
        scanner = self.scanner
        told = told_in(self.head) if scanner is None else scanner.told
        tried.prompt_tokens, tried.tokens, tried.finish_reason, tried.cached_tokens = told
        tried.answer_bytes += len(self.head) if scanner is None else scanner.bytes


class Attempts:
    """Runs plans."""

    def __init__(
        self,
        upstream: Upstream,
        in_flight: InFlight,
        limits: GatewayConfig,
        spawn: Spawn,
        meter: Meter,
        dice: Callable[[], float],
    ) -> None:
        self._upstream = upstream
        self._in_flight = in_flight
        self._limits = limits
        self._spawn = spawn
        self._meter = meter
        self._dice = dice
        self._budget = RetryBudget()

    async def run(self, exchange: Exchange, plan: Plan) -> web.StreamResponse:
        """The answer of the first candidate that gives one. Raises the error of the last one otherwise."""
        self._budget.arrived(exchange.now())
        exchange.stream = plan.stream
        comments = Comments(exchange, self._limits.keepalive_comment_s if plan.stream else 0, self._spawn)
        try:
            return await self._run(exchange, plan, comments)
        except GenieHiveError as error:
            await comments.stop()
            if exchange.response is None:
                raise
            exchange.failed(error)
            await end_with(exchange.response, error)
            return exchange.response
        finally:
            await comments.stop()

    async def _run(self, exchange: Exchange, plan: Plan, comments: Comments) -> web.StreamResponse:
        failed: AttemptFailed | None = None
        crashes = 0
        for candidate in _turns(plan.candidates):
            if failed is not None and not self._may_repeat(exchange, plan, failed, candidate, crashes):
                break
            if failed is not None and failed.wait_s is not None and _is_last(exchange, candidate):
                await self._wait(exchange, failed.wait_s or _BACKOFF_S * (0.5 + self._dice()))
            tried = exchange.attempt(candidate)
            service_id = candidate.service.service_id
            with self._in_flight.guard(service_id, candidate, exchange.ask) as guard:
                try:
                    begun = await self._begin(exchange, plan, tried)
                    if begun.scanner is not None:  # when the first token of a whole body was there, nobody knows
                        exchange.first_byte, tried.streamed = tried.until, True
                        guard.first_byte()
                    await comments.stop()
                    try:
                        response, well = await self._deliver(exchange, begun, tried)
                    finally:
                        begun.upstream.close()
                        begun.told(tried)
                    tried.outcome = "ok" if well else "cut"
                    answer = Outcome(well, tried.prompt_tokens, tried.cached_tokens, tried.tokens)
                    guard.finish(ok=well, tokens=tried.tokens, answer=answer)
                    return response
                except AttemptFailed as error:
                    failed, tried.outcome, tried.reason = error, "failed", error.reason
                    crashes += error.crash
                    guard.finish(ok=not error.held_against)
                except UpstreamError as error:
                    tried.outcome, tried.reason = "cut", error.message
                    raise
                finally:
                    if tried.outcome == "open":
                        tried.outcome = "cancelled"
                    self._meter.attempt_done(service_id, tried.outcome)
        if failed is None:
            raise UpstreamUnavailable("there is nobody to ask")
        await comments.stop()
        if failed.passed is not None and exchange.response is not None:
            await end_with(exchange.response, failed.error, failed.passed.body)
            return exchange.response
        return _give_up(failed)

    def _may_repeat(
        self, exchange: Exchange, plan: Plan, failed: AttemptFailed, following: Candidate, crashes: int
    ) -> bool:
        again = failed.wait_s is not None or (failed.same_service and len(plan.candidates) == 1)
        return (
            failed.retry
            and (again or not _is_last(exchange, following))
            and crashes < 2
            and plan.replayable()
            and self._budget.spend(exchange.now())
        )

    async def _wait(self, exchange: Exchange, seconds: float) -> None:
        """Let some time pass, unless the request is interrupted meanwhile."""
        began = exchange.now()
        try:
            async with exchange.deadline(seconds):
                await exchange.loop.create_future()
        except TimeoutError:
            if exchange.interruption is not None:
                raise exchange.interruption from None
        finally:
            exchange.upstream_seconds += exchange.now() - began

    async def _begin(self, exchange: Exchange, plan: Plan, tried: Tried) -> Begun:
        """One attempt, up to the first byte of content. Raises AttemptFailed."""
        limit = self._limits.first_byte_timeout_s
        try:
            async with exchange.deadline(limit):
                response = await self._upstream.open(plan.build(tried.candidate))
                tried.status = response.status
                try:
                    return await self._first(response, plan, tried)
                except BaseException:
                    response.close()
                    raise
        except TimeoutError:
            if exchange.interruption is not None:
                raise exchange.interruption from None
            raise AttemptFailed(UpstreamTimeout(f"the engine sent nothing within {limit:g} s")) from None
        except UpstreamError as error:
            if (reason := plan.body_failure()) is not None:
                raise reason from error
            raise AttemptFailed(error, same_service=not isinstance(error, Refused)) from error
        finally:
            tried.until = exchange.now()
            exchange.upstream_seconds += tried.until - tried.began

    async def _first(self, response: UpstreamResponse, plan: Plan, tried: Tried) -> Begun:
        if response.status >= 300:
            raise judge(response.status, response.headers, await _up_to(response, _HELD_EVENTS))
        if response.content_type == "text/event-stream" and (plan.stream or not plan.json):
            scanner = SseScanner(max_bytes=self._limits.max_answer_bytes, rewrite=plan.rewrite(tried.candidate))
            return await _first_content(response, scanner, plan)
        body = await _up_to(response, _HELD_BYTES)
        if len(body) > self._limits.max_answer_bytes:
            raise AttemptFailed(too_large(self._limits.max_answer_bytes))
        if not body:
            raise UpstreamUnavailable("the engine's answer is empty")
        if plan.json:
            _check(response, plan, body)
        try:
            kind, body = plan.adapt(tried.candidate, response.headers.get("content-type", "application/json"), body)
        except CallerError:
            tried.outcome, tried.reason = "failed", "the engine refused the request inside of a good status"
            raise
        return Begun(response, body, content_type=kind)

    async def _deliver(self, exchange: Exchange, begun: Begun, tried: Tried) -> tuple[web.StreamResponse, bool]:
        """The rest of the answer; and whether it came to its proper end."""
        if begun.scanner is not None:
            response = exchange.response or commit(exchange)
            well = await relay(
                exchange,
                response,
                begun.upstream,
                begun.scanner,
                begun.head,
                idle_timeout_s=self._limits.idle_timeout_s,
                grace_s=begun.grace_s,
                done_marker=begun.done_marker,
            )
            return response, well
        if exchange.response is not None:
            raise UpstreamUnavailable("a stream was asked for, and the engine answered without one")
        if begun.upstream.ended:
            return Whole(begun.upstream.status, begun.head, begun.content_type), True
        return await self._pass_large(exchange, begun, tried)

    async def _pass_large(self, exchange: Exchange, begun: Begun, tried: Tried) -> tuple[web.StreamResponse, bool]:
        """A body too large to be held: passed on as it comes; if it breaks, so does the client's connection."""
        headers = {**exchange.headers(), "content-type": begun.content_type}
        response = exchange.response = Stream(exchange.request, begun.upstream.status, headers)
        piece, idle = begun.head, self._limits.idle_timeout_s
        try:
            async with exchange.deadline(idle):
                while piece:
                    await response.write(piece)
                    exchange.rearm(idle)
                    piece = await begun.upstream.read()
                    tried.answer_bytes += len(piece)
                    if tried.answer_bytes + len(begun.head) > self._limits.max_answer_bytes:
                        raise too_large(self._limits.max_answer_bytes)
        except (UpstreamError, TimeoutError) as error:
            tried.reason = error.message if isinstance(error, UpstreamError) else f"nothing moved for {idle:g} s"
            if exchange.request.transport is not None:
                exchange.request.transport.abort()
            return response, False
        await response.write_eof()
        return response, True


def _turns(candidates: tuple[Candidate, ...]) -> tuple[Candidate, ...]:
    """Whom to ask, in turn; the last may get a second chance."""
    chosen = candidates[:MAX_ATTEMPTS]
    return (*chosen, *chosen[-1:])


def _is_last(exchange: Exchange, candidate: Candidate) -> bool:
    """Whether this one was asked just before."""
    return exchange.candidate is not None and candidate.service.service_id == exchange.candidate.service.service_id


def _give_up(failed: AttemptFailed) -> web.Response:
    """What the client gets once nobody is left: the engine's own refusal, or our error."""
    if failed.passed is None:
        raise failed.error
    status, body, retry_after = failed.passed
    headers = {"content-type": "application/json"}
    if retry_after:
        headers["retry-after"] = retry_after
    if not should_repeat(status):
        headers.update({"x-should-retry": "false"})
    return web.Response(status=status, body=passed_on(status, body), headers=headers)


async def _up_to(response: UpstreamResponse, limit: int) -> bytes:
    """The body, or its beginning where it is longer."""
    pieces, size = [], 0
    while size < limit and (piece := await response.read()):
        pieces.append(piece)
        size += len(piece)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def _check(response: UpstreamResponse, plan: Plan, body: bytes) -> None:
    """Raises AttemptFailed for an answer of a good status that is not what was asked for."""
    if response.content_type == "text/event-stream":
        raise AttemptFailed(UpstreamUnavailable("the engine answered with a stream that was not asked for"))
    if (wrong := judge_answer(response.headers, body, whole=response.ended)) is not None:
        raise wrong
    if plan.stream:
        raise AttemptFailed(UpstreamUnavailable("a stream was asked for, and the engine answered without one"))


async def _first_content(response: UpstreamResponse, scanner: SseScanner, plan: Plan) -> Begun:
    """Read a stream until its first content. An end or an error before that is a failed attempt."""
    held, size = [], 0
    while size < _HELD_EVENTS:
        chunk = await response.read()
        piece = scanner.feed(chunk) if chunk else scanner.close()
        held.append(piece)
        size += len(piece)
        if scanner.content or scanner.over:
            break
        if not chunk:
            raise UpstreamUnavailable("the engine's stream ended before it began")
    if scanner.error is not None and not scanner.content:
        raise judge_event(response.headers, scanner.error)
    if scanner.over and not scanner.content:
        raise UpstreamUnavailable("the engine's stream ended before it began")
    return Begun(response, b"".join(held), scanner, done_marker=plan.done_marker, grace_s=plan.grace_s)
