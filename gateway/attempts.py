"""Attempts: one candidate after the other until one has begun to answer, and then that one to its end.

Until the first byte of content nothing has been promised to the client (`gateway.opening`), so a failure
leads to the next candidate. What counts as a failure, and whether the same service may be asked again, is
decided in `verdict`. After the first byte there are no attempts any more (`gateway.delivery`). The in-flight
guard of a candidate is held for as long as it works for this request, a client that goes away included.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Protocol

from aiohttp import web

from gateway.delivery import Delivery
from gateway.errors import passed_on, should_repeat
from gateway.exchange import Exchange
from gateway.middleware import Meter
from gateway.opening import Opening
from gateway.plan import Plan, as_it_is
from gateway.relay import Comments, end_with
from gateway.resumption import Resumption
from gateway.retry_budget import RetryBudget
from gateway.server.server import Spawn
from gateway.upstream import Upstream
from gateway.verdict import AttemptFailed
from geniehive.config import GatewayConfig
from geniehive.errors import GenieHiveError, UpstreamError, UpstreamUnavailable
from geniehive.routing.candidate import Candidate
from geniehive.routing.ledger import Ask, Outcome

__all__ = ["Attempts", "Plan", "as_it_is"]

MAX_ATTEMPTS = 4
_BACKOFF_S = 0.3  # on average, before a busy engine that names no time is asked once more


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
        self._opening = Opening(upstream, limits)
        self._delivery = Delivery(limits)
        self._in_flight = in_flight
        self._limits = limits
        self._spawn = spawn
        self._meter = meter
        self._dice = dice
        self._budget = RetryBudget()
        self._resumption = Resumption(self._opening, self._delivery, self._enter, self._budget.spend, limits, meter)

    async def run(self, exchange: Exchange, plan: Plan) -> web.StreamResponse:
        """The answer of the first candidate that gives one. Raises the error of the last one otherwise."""
        self._budget.arrived(exchange.now())
        exchange.stream = plan.stream
        comments = Comments(exchange, self._limits.keepalive_comment_s if plan.stream else 0, self._spawn)
        try:
            response = await self._run(exchange, plan, comments)
            if exchange.cut is not None and exchange.response is not None:
                await self._resumption.go_on(exchange, plan, exchange.response, exchange.cut)
            return response
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
                    begun = await self._opening.begin(exchange, plan, tried)
                    if begun.scanner is not None:  # when the first token of a whole body was there, nobody knows
                        exchange.first_byte, tried.streamed = tried.until, True
                        guard.first_byte()
                    await comments.stop()
                    try:
                        response, well = await self._delivery.deliver(exchange, begun, tried)
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

    def _enter(self, exchange: Exchange, candidate: Candidate) -> AbstractContextManager[Guard]:
        """One more open request of a service."""
        return self._in_flight.guard(candidate.service.service_id, candidate, exchange.ask)

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
