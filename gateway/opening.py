"""One attempt, up to the first byte of content: until then nothing has been promised to the client.

What counts as a failure, and whether the same service may be asked again, is decided in `verdict`. The
head of a stream is held until its first content, a whole answer until its end, so that a broken one can
still be replaced by another service's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial

import msgspec

from gateway.errors import NO_STREAMS, error_body
from gateway.exchange import Exchange
from gateway.loading import LOOK_EVERY_S, Loading
from gateway.plan import Kept, Plan
from gateway.sse import SseScanner, too_large
from gateway.told import ABSENT, Body, look, told_in
from gateway.upstream import Refused, Upstream, UpstreamResponse
from gateway.verdict import AttemptFailed, Kind, Passed, judge, judge_answer, judge_event
from geniehive.config import GatewayConfig
from geniehive.errors import (
    CallerError,
    GenieHiveError,
    InvalidRequest,
    UpstreamError,
    UpstreamTimeout,
    UpstreamUnavailable,
)
from geniehive.resources import HealthStatus
from geniehive.routing.receipt import Tried

_LOADING = HealthStatus.LOADING
_EVENTS = "text/event-stream"
_JSON = "application/json"
_POLL_S = 0.25  # before an engine that is loading is asked again; then twice as long each time
_HELD_EVENTS = 1024 * 1024  # of a stream before its first content


class Begun(msgspec.Struct, frozen=True, eq=False):
    """An answer whose first byte is there: a stream with its scanner, or a body (with the rest still to be read)."""

    upstream: UpstreamResponse
    head: bytes
    scanner: SseScanner | None = None
    content_type: str = ""
    done_marker: bool = False
    grace_s: float = 0
    """For what may follow in a stream once the engine said that it finished: usage, `[DONE]`."""
    kept: Kept | None = None
    """What the client has of a stream that another engine could go on with."""
    as_it_comes: bool = False
    """Whether it is passed on from its first byte, though it is no stream of events."""
    whole: bool = False
    """Whether `head` is the whole body."""
    said: bytes = b""
    """The answer as the engine gave it, where the client gets another one."""
    seen: Body | None = None
    """What was seen of it, where it was looked at."""

    def told(self, tried: Tried) -> None:
        """Write down what the answer tells of itself."""
        if self.scanner is None:
            tried.told = told_in(self.said or self.head, self.seen)
            tried.answer_bytes += len(self.head)
        else:
            tried.told = self.scanner.told
            tried.answer_bytes += self.scanner.bytes


class Opening:
    """Begins attempts."""

    def __init__(self, upstream: Upstream, loading: Loading, limits: GatewayConfig) -> None:
        self._upstream = upstream
        self._loading = loading
        self._limits = limits

    async def begin(self, exchange: Exchange, plan: Plan, tried: Tried, *, patient: bool) -> Begun:
        """One attempt, up to the first byte of content. Raises AttemptFailed.

        `patient` is to ask again an engine that refuses while it loads its model, for as long as that may take.
        """
        try:
            candidate = tried.candidate
            warm = candidate.asset.loaded is not False and candidate.service.health.status is not _LOADING
            look_s = self._limits.first_byte_timeout_s if warm else self._loading.first_look_s(tried)
            with exchange.deadline(look_s, partial(self._loading.more_s, exchange, tried)):
                try:
                    response = await self._upstream.open(plan.build(candidate))
                    return self._at_hand(response, plan, tried) or await self._awaited(response, plan, tried)
                except AttemptFailed as error:
                    if not patient or error.kind is not Kind.LOADING:
                        raise
                    return await self._once_loaded(exchange, plan, tried, error)
        except TimeoutError:
            if exchange.interruption is not None:
                raise exchange.interruption from None
            raise self.too_late(tried, exchange.now()) from None
        except UpstreamError as error:
            raise _failure(plan, error) from error
        finally:
            tried.until = until = exchange.now()
            exchange.upstream_seconds += until - tried.began

    async def ask(self, plan: Plan, tried: Tried) -> Begun:
        """The same without its deadline and without its times, which are the caller's."""
        try:
            return await self._ask(plan, tried)
        except UpstreamError as error:
            raise _failure(plan, error) from error

    def patience(self, exchange: Exchange, tried: Tried) -> tuple[float, Callable[[], float]]:
        """For how long the first byte is waited for, and how that is made longer."""
        return self._loading.first_look_s(tried), partial(self._loading.more_s, exchange, tried)

    def too_late(self, tried: Tried, now: float) -> AttemptFailed:
        """The first byte did not come in its time."""
        limits = self._limits
        if tried.loading_at is not None and now >= tried.began + limits.load_timeout_s:
            return AttemptFailed(
                UpstreamTimeout(f"the engine did not load the model within {limits.load_timeout_s:g} s")
            )
        return AttemptFailed(UpstreamTimeout(f"the engine sent nothing within {limits.first_byte_timeout_s:g} s"))

    async def _ask(self, plan: Plan, tried: Tried) -> Begun:
        response = await self._upstream.open(plan.build(tried.candidate))
        return self._at_hand(response, plan, tried) or await self._awaited(response, plan, tried)

    def _at_hand(self, response: UpstreamResponse, plan: Plan, tried: Tried) -> Begun | None:
        """A good answer that is there as a whole and in one piece, as short ones are; None is one for `_awaited`."""
        tried.status = status = response.status
        if status >= 300 or ((plan.stream or not plan.json) and response.content_type == _EVENTS):
            return None
        body = response.at_hand()
        return None if body is None else self._held(response, plan, tried, body, whole=True)

    async def _awaited(self, response: UpstreamResponse, plan: Plan, tried: Tried) -> Begun:
        try:
            if response.status >= 300:
                raise judge(response.status, response.headers, await _up_to(response, _HELD_EVENTS))
            if (plan.stream or not plan.json) and response.content_type == _EVENTS:
                kept = plan.keep(tried.candidate)
                scanner = SseScanner(
                    max_bytes=self._limits.max_answer_bytes,
                    rewrite=plan.rewrite(tried.candidate),
                    keep=None if kept is None else kept.keep,
                    choices=plan.choices,
                    finishes=plan.done_marker,
                )
                return await _first_content(response, scanner, plan, kept)
            body = await _up_to(response, plan.held_bytes)
            return self._held(response, plan, tried, body, whole=response.ended)
        except BaseException:
            response.close()
            raise

    def _held(self, response: UpstreamResponse, plan: Plan, tried: Tried, body: bytes, *, whole: bool) -> Begun:
        """What has begun with a body, or the beginning of one. Raises AttemptFailed if it is not what was asked for."""
        if len(body) > self._limits.max_answer_bytes:
            raise AttemptFailed(too_large(self._limits.max_answer_bytes))
        if not body:
            raise UpstreamUnavailable("the engine's answer is empty")
        seen, headers = None, response.headers
        kind = headers.get("content-type", _JSON)
        if plan.json:
            if kind != _JSON and response.content_type == _EVENTS:
                raise AttemptFailed(UpstreamUnavailable("the engine answered with a stream that was not asked for"))
            seen = look(body) if whole else None
            usual = seen is not None and seen.error is ABSENT and body.isascii()  # nothing to be judged
            if not usual and (wrong := judge_answer(headers, body, whole=whole, seen=seen)) is not None:
                raise wrong
            if plan.stream:
                raise _no_streams(vary=plan.streams_vary)
        try:
            kind, head = plan.adapt(tried.candidate, kind, body)
        except CallerError:
            tried.outcome, tried.reason = "failed", "the engine refused the request inside of a good status"
            raise
        said = body if head is not body else b""
        as_it_comes = plan.held_bytes == 1
        return Begun(response, head, content_type=kind, as_it_comes=as_it_comes, whole=whole, said=said, seen=seen)

    async def _once_loaded(self, exchange: Exchange, plan: Plan, tried: Tried, refused: AttemptFailed) -> Begun:
        """Ask until the engine does not say any more that it is loading. Each time costs it next to nothing."""
        pause = _POLL_S
        while True:
            late = exchange.now() + pause >= tried.began + self._limits.load_timeout_s
            if refused.kind is not Kind.LOADING or late or not plan.replayable():
                raise refused
            self._loading.seen(tried, exchange.now())
            exchange.rearm(pause + LOOK_EVERY_S)
            await asyncio.sleep(pause)
            pause = min(2 * pause, LOOK_EVERY_S)
            try:
                return await self._ask(plan, tried)
            except AttemptFailed as error:
                refused = error


def _failure(plan: Plan, error: UpstreamError) -> GenieHiveError | AttemptFailed:
    """What a failure of the engine means, unless it was the client's body that failed on its way."""
    return plan.body_failure() or AttemptFailed(error, same_service=not isinstance(error, Refused))


async def _up_to(response: UpstreamResponse, limit: int) -> bytes:
    """The body, or its beginning where it is longer."""
    pieces, size = [], 0
    while size < limit and (piece := await response.read()):
        pieces.append(piece)
        size += len(piece)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def _no_streams(*, vary: bool) -> AttemptFailed:
    """An engine gave a whole answer where a stream was asked for; if they `vary`, nothing is held against it."""
    if not vary:
        return AttemptFailed(UpstreamUnavailable("a stream was asked for, and the engine answered without one"))
    error = InvalidRequest(NO_STREAMS, param="stream")
    return AttemptFailed(error, retry=False, passed=Passed(400, error_body(error), ""))


async def _first_content(response: UpstreamResponse, scanner: SseScanner, plan: Plan, kept: Kept | None) -> Begun:
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
    return Begun(response, b"".join(held), scanner, done_marker=plan.done_marker, grace_s=plan.grace_s, kept=kept)
