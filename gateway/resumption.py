"""Going on with a stream that was cut: other services of the same model are asked, one after the other.

The client's stream stays open meanwhile, with comment lines where it waits long. How a service is asked is decided
in `gateway.resume_ask`, what of its answer may pass in `gateway.resume_splice`; each attempt costs one repeat of the
retry budget. Where nobody goes on, the stream ends in the error event that it would have ended in at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from enum import Enum

from msgspec.structs import replace

from gateway.admission import Place
from gateway.answers import Stream
from gateway.attempt import Attempt
from gateway.delivery import Delivery
from gateway.exchange import Exchange, printable
from gateway.middleware import Meter
from gateway.opening import Opening
from gateway.plan import Cut, Plan
from gateway.relay import end_with
from gateway.resumable import same_model
from gateway.resume_ask import Again, ways
from gateway.resume_sent import RESUMED, Sent, Spliced
from gateway.resume_splice import Disagrees, Splice
from gateway.retry_budget import RetryBudget
from gateway.sse import Rewrite
from gateway.upstream import UpstreamRequest
from gateway.verdict import AttemptFailed
from geniehive.config import GatewayConfig
from geniehive.errors import Overloaded
from geniehive.routing.candidate import Candidate
from geniehive.routing.receipt import Tried

_COMMENT = b": keepalive\n\n"


class _Ended(Enum):
    """How an attempt to go on ended."""

    WELL = "well"
    CUT = "cut"  # it had gone on
    TOLD = "told"  # what cut it was for the client to hear: its stream is over
    REFUSED = "refused"  # the service is well, but not with this way of asking
    FAILED = "failed"


_OVER = frozenset({_Ended.WELL, _Ended.TOLD})
Chosen = tuple[Candidate, Place | None] | None


class Resumption:
    """Continues streams. `choose` finds whom to ask, and waits for a place there; `enter` begins at it."""

    def __init__(
        self,
        opening: Opening,
        delivery: Delivery,
        choose: Callable[[Exchange, tuple[Candidate, ...]], Awaitable[Chosen]],
        enter: Callable[[Exchange, Candidate, Place | None], Attempt],
        budget: RetryBudget,
        limits: GatewayConfig,
        meter: Meter,
    ) -> None:
        self._opening = opening
        self._delivery = delivery
        self._choose = choose
        self._enter = enter
        self._budget = budget
        self._limits = limits
        self._meter = meter

    async def go_on(self, exchange: Exchange, plan: Plan, response: Stream, cut: Cut) -> None:
        """Bring a cut stream to its end, or end it with the error of its cut."""
        failure, sent = exchange.failure, cut.kept.sent()
        base = cut.kept.onward(cut.rewrite)
        comments = _Comments(exchange.loop, response, 0 if exchange.stream_type else self._limits.keepalive_comment_s)
        try:
            while sent is not None:
                exchange.cut, comments.splice = None, None
                ended = await self._with_others(exchange, plan, sent, base, comments)
                if ended in _OVER:
                    return
                if ended is not _Ended.CUT or (following := _cut_of(exchange)) is None:
                    break
                cut, failure, sent = following, exchange.failure, following.kept.sent()
        finally:
            comments.stop()
        exchange.cut, exchange.failure = None, failure
        await end_with(response, cut.failure, cut.said)

    async def _with_others(
        self, exchange: Exchange, plan: Plan, sent: Sent, base: Rewrite | None, comments: _Comments
    ) -> _Ended:
        """Ask one service after the other, until something of an answer has passed."""
        ended, refused = _Ended.FAILED, 0
        options = _others(exchange, plan)
        while options and self._may_ask(exchange):
            chosen = await self._chosen(exchange, options)
            if chosen is None:
                break
            candidate, place = chosen
            attempt = self._enter(exchange, candidate, place)  # first: it gives the place back, whatever happens
            try:
                request = (plan.rest or plan.build)(candidate)
                found = ways(plan.operation, candidate.service.protocol, request.body, sent)
                way = found[refused]
                comments.splice = splice = Splice(sent, goes_on=way.goes_on, note=_note(candidate, way))
                again = _plan(plan, replace(request, body=way.body), splice, base, sent)
                attempt.tried.resumed = way.how
                ended = await self._one(exchange, again, attempt, splice)
            finally:
                attempt.close()
                if how := attempt.tried.resumed:
                    self._meter.resumed(how, attempt.tried.outcome)
            if ended is _Ended.CUT or ended in _OVER:
                break
            if ended is _Ended.REFUSED and refused + 1 < len(found):
                options, refused = (candidate,), refused + 1
            else:
                options, refused = _others(exchange, plan), 0
        return ended

    def _may_ask(self, exchange: Exchange) -> bool:
        asked = sum(bool(each.resumed) for each in exchange.tried)
        return asked < self._limits.max_resumptions and self._budget.spend(exchange.now())

    async def _chosen(self, exchange: Exchange, options: tuple[Candidate, ...]) -> Chosen:
        """Who is to be asked, with a place there; None if nobody has one."""
        try:
            return await self._choose(exchange, options)
        except Overloaded:
            return None

    async def _one(self, exchange: Exchange, plan: Plan, attempt: Attempt, splice: Splice) -> _Ended:
        tried, first_byte = attempt.tried, exchange.first_byte
        try:
            begun = await self._opening.begin(exchange, plan, tried, patient=False)
        except AttemptFailed as error:
            if isinstance(error.error, Disagrees):
                return _differs(tried, error.reason)
            attempt.failed(error, 0.5)
            return _Ended.REFUSED if error.passed is not None and not error.retry else _Ended.FAILED
        attempt.first_byte()
        exchange.first_byte = first_byte
        try:
            _, well = await self._delivery.deliver(exchange, begun, tried)
        finally:
            begun.upstream.close()
            begun.told(tried)
        if well:
            exchange.failure = ""
            attempt.over(well=True)
            return _Ended.WELL
        if (cut := _cut_of(exchange)) is None:
            attempt.over(well=False)
            return _Ended.TOLD
        if not isinstance(cut.failure, Disagrees):
            attempt.over(well=False)
            return _Ended.CUT if splice.joined else _Ended.FAILED
        return _Ended.CUT if splice.joined else _differs(tried, cut.failure.message)


class _Comments:
    """Comment lines for a client whose stream waits until another engine has come to what it does not have."""

    def __init__(self, loop: asyncio.AbstractEventLoop, response: Stream, interval_s: float) -> None:
        self._loop = loop
        self._response = response
        self._interval_s = interval_s
        self._timer = loop.call_later(interval_s, self._tick) if interval_s > 0 else None
        self.splice: Splice | None = None
        """What the stream goes through now."""

    def _tick(self) -> None:
        with suppress(ConnectionError):
            if self.splice is None or not self.splice.joined:
                self._response.push(_COMMENT)
            self._timer = self._loop.call_later(self._interval_s, self._tick)

    def stop(self) -> None:
        """No comment follows after this."""
        if self._timer is not None:
            self._timer.cancel()


def _plan(plan: Plan, request: UpstreamRequest, splice: Splice, base: Rewrite | None, sent: Sent) -> Plan:
    """The plan of one attempt to go on; `base` is what becomes of events at last, as from the start."""
    return replace(
        plan,
        build=lambda _candidate: request,
        rewrite=lambda _candidate: splice if base is None else lambda block: base(splice(block)),
        keep=lambda _candidate: Spliced(sent),
    )


def _others(exchange: Exchange, plan: Plan) -> tuple[Candidate, ...]:
    """Services of the model that was cut, but for those that were asked already."""
    first = next(each.candidate for each in exchange.tried if each.outcome == "cut")
    asked = {each.candidate.service.service_id for each in exchange.tried}
    return tuple(each for each in plan.candidates if each.service.service_id not in asked and same_model(each, first))


def _differs(tried: Tried, reason: str) -> _Ended:
    """An answer like any other: it speaks neither for nor against the service."""
    tried.outcome, tried.reason = "failed", reason
    return _Ended.REFUSED


def _cut_of(exchange: Exchange) -> Cut | None:
    return exchange.cut


def _note(candidate: Candidate, way: Again) -> bytes:
    return RESUMED + f"{printable(candidate.service.service_id)} ({way.how})\n\n".encode()
