"""Going on with a stream that was cut: other services of the same model are asked, one after the other.

The client's stream stays open meanwhile, with comment lines where it waits long. How a service is asked is decided
in `gateway.resume_ask`, what of its answer may pass in `gateway.resume_splice`; each attempt costs one repeat of the
retry budget. Where nobody goes on, the stream ends in the error event that it would have ended in at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import suppress
from enum import Enum

from gateway.answers import Stream
from gateway.attempt import Attempt
from gateway.circuit import Circuits
from gateway.delivery import Delivery
from gateway.exchange import Exchange, printable
from gateway.middleware import Meter
from gateway.opening import Opening
from gateway.plan import Cut, Plan
from gateway.relay import end_with
from gateway.resume_ask import Again, ways
from gateway.resume_sent import Sent, Spliced
from gateway.resume_splice import Disagrees, Splice
from gateway.retry_budget import RetryBudget
from gateway.sse import Rewrite
from gateway.upstream import UpstreamRequest
from gateway.verdict import AttemptFailed
from geniehive.config import GatewayConfig
from geniehive.resources import Operation
from geniehive.routing.candidate import Candidate
from geniehive.routing.receipt import Tried

_COMMENT = b": keepalive\n\n"


class _Ended(Enum):
    """How an attempt to go on ended."""

    WELL = "well"
    CUT = "cut"  # it had gone on
    REFUSED = "refused"  # the service is well, but not with this way of asking
    FAILED = "failed"


class Resumption:
    """Continues streams; `enter` takes a place at a candidate's service."""

    def __init__(
        self,
        opening: Opening,
        delivery: Delivery,
        enter: Callable[[Exchange, Candidate], Attempt],
        circuits: Circuits,
        budget: RetryBudget,
        limits: GatewayConfig,
        meter: Meter,
    ) -> None:
        self._opening = opening
        self._delivery = delivery
        self._enter = enter
        self._circuits = circuits
        self._budget = budget
        self._limits = limits
        self._meter = meter

    async def go_on(self, exchange: Exchange, plan: Plan, response: Stream, cut: Cut) -> None:
        """Bring a cut stream to its end, or end it with the error of its cut."""
        failure, base = exchange.failure, cut.rewrite
        while (sent := cut.kept.sent()) is not None:
            exchange.cut = None
            ended = await self._with_others(exchange, plan, sent, base, response)
            if ended is _Ended.WELL:
                return
            if ended is not _Ended.CUT or (following := _cut_of(exchange)) is None:
                break
            cut, failure = following, exchange.failure
        exchange.cut, exchange.failure = None, failure
        await end_with(response, cut.failure, cut.said)

    async def _with_others(
        self, exchange: Exchange, plan: Plan, sent: Sent, base: Rewrite | None, response: Stream
    ) -> _Ended:
        """Ask one service after the other, until something of an answer has passed."""
        ended = _Ended.FAILED
        for candidate in _others(exchange, plan):
            if self._circuits.kept_back(candidate.service.service_id, exchange.now()):
                continue
            request = plan.build(candidate)
            if not isinstance(request.body, bytes) or plan.operation is None:
                break
            for way in ways(plan.operation, candidate.service.protocol, request.body, sent):
                if not self._may_ask(exchange):
                    return ended
                splice = Splice(sent, goes_on=way.goes_on, note=_note(candidate, way))
                again = _plan(plan, request, way, splice, base, sent)
                ended = await self._ask(exchange, again, candidate, way.how, splice, response)
                if ended is _Ended.WELL or ended is _Ended.CUT:
                    return ended
                if ended is not _Ended.REFUSED:
                    break
        return ended

    def _may_ask(self, exchange: Exchange) -> bool:
        asked = sum(bool(each.resumed) for each in exchange.tried)
        return asked < self._limits.max_resumptions and self._budget.spend(exchange.now())

    async def _ask(
        self, exchange: Exchange, plan: Plan, candidate: Candidate, how: str, splice: Splice, response: Stream
    ) -> _Ended:
        """One attempt."""
        attempt = self._enter(exchange, candidate)
        attempt.tried.resumed = how
        waiting = _Comments(exchange.loop, response, splice, self._limits.keepalive_comment_s)
        try:
            return await self._one(exchange, plan, attempt, splice)
        finally:
            waiting.stop()
            attempt.close()
            self._meter.resumed(how, attempt.tried.outcome)

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
        if (cut := _cut_of(exchange)) is None or not isinstance(cut.failure, Disagrees):
            attempt.over(well=False)
            return _Ended.CUT if splice.joined else _Ended.FAILED
        return _Ended.CUT if splice.joined else _differs(tried, cut.failure.message)


class _Comments:
    """Comment lines for a client whose stream waits until another engine has come to what it does not have."""

    def __init__(self, loop: asyncio.AbstractEventLoop, response: Stream, splice: Splice, interval_s: float) -> None:
        self._loop = loop
        self._response = response
        self._splice = splice
        self._interval_s = interval_s
        self._timer = loop.call_later(interval_s, self._tick) if interval_s > 0 else None

    def _tick(self) -> None:
        if not self._splice.joined:
            with suppress(ConnectionError):
                self._response.push(_COMMENT)
                self._timer = self._loop.call_later(self._interval_s, self._tick)

    def stop(self) -> None:
        """No comment follows after this."""
        if self._timer is not None:
            self._timer.cancel()


def _plan(plan: Plan, request: UpstreamRequest, way: Again, splice: Splice, base: Rewrite | None, sent: Sent) -> Plan:
    """The plan of one attempt to go on; `base` is what becomes of events at last, as from the start."""
    return plan._replace(
        build=lambda _candidate: request._replace(body=way.body),
        rewrite=lambda _candidate: splice if base is None else lambda block: base(splice(block)),
        keep=lambda _candidate: Spliced(sent),
    )


def _others(exchange: Exchange, plan: Plan) -> Iterator[Candidate]:
    """Services of the model that was cut, but for those that were asked already."""
    first = next(each.candidate for each in exchange.tried if each.outcome == "cut")
    for candidate in plan.candidates:
        asked = {each.candidate.service.service_id for each in exchange.tried}
        if candidate.service.service_id not in asked and _same_model(candidate, first):
            yield candidate


def _differs(tried: Tried, reason: str) -> _Ended:
    """An answer like any other: it speaks neither for nor against the service."""
    tried.outcome, tried.reason = "failed", reason
    return _Ended.REFUSED


def _cut_of(exchange: Exchange) -> Cut | None:
    return exchange.cut


def resumable(candidate: Candidate, operation: Operation | None, candidates: tuple[Candidate, ...]) -> bool:
    """Whether a cut stream of this candidate could be continued by another one, and may be."""
    role = candidate.role
    if operation is None or len(candidates) < 2 or (role is not None and role.routing_policy.no_resume):
        return False
    return any(each is not candidate and _same_model(each, candidate) for each in candidates)


def _same_model(one: Candidate, other: Candidate) -> bool:
    if one.asset.asset_id == other.asset.asset_id:
        return True
    names = {name.casefold() for name in (one.asset.asset_id, *one.asset.aliases)}
    return any(name.casefold() in names for name in (other.asset.asset_id, *other.asset.aliases))


def _note(candidate: Candidate, way: Again) -> bytes:
    return f": geniehive resumed on {printable(candidate.service.service_id)} ({way.how})\n\n".encode()
