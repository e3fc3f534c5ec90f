"""Attempts: one candidate after the other until one has begun to answer, and then that one to its end.

Until the first byte of content nothing has been promised to the client (`gateway.opening`), so a failure
leads to the next candidate (`gateway.turns`). What counts as a failure, and whether the same service may be
asked again, is decided in `verdict`. Services that fail too often are kept back (`gateway.circuit`). After the
first byte there are no attempts any more (`gateway.delivery`). The place of a candidate is held for as long as
it works for this request (`gateway.attempt`), a client that goes away included.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

from gateway import web
from gateway.admission import Admission, Place
from gateway.answers import Whole
from gateway.attempt import Attempt, InFlight
from gateway.circuit import Circuits
from gateway.delivery import Delivery
from gateway.errors import passed_on, should_repeat
from gateway.exchange import Exchange
from gateway.hedging import Race
from gateway.middleware import Meter
from gateway.opening import Begun, Opening
from gateway.plan import Plan, as_it_is
from gateway.relay import Comments, end_with
from gateway.resumption import Resumption
from gateway.retry_budget import RetryBudget
from gateway.server.server import Spawn
from gateway.turns import Failed, following
from gateway.verdict import LONGEST_WAIT_S, AttemptFailed
from geniehive.config import GatewayConfig
from geniehive.errors import GenieHiveError, NoServiceAvailable, UpstreamError, UpstreamUnavailable
from geniehive.routing.candidate import Candidate

__all__ = ["Attempts", "Plan", "as_it_is"]


class Attempts:
    """Runs plans."""

    def __init__(
        self,
        in_flight: InFlight,
        circuits: Circuits,
        admission: Admission,
        opening: Opening,
        limits: GatewayConfig,
        spawn: Spawn,
        meter: Meter,
        dice: Callable[[], float],
    ) -> None:
        self._opening = opening
        self._admission = admission
        self._delivery = Delivery(limits)
        self._in_flight = in_flight
        self._circuits = circuits
        self._limits = limits
        self._spawn = spawn
        self._meter = meter
        self._dice = dice
        self.budget = RetryBudget()
        """What repeats of all kinds are taken from."""
        self._resumption = Resumption(
            self._opening, self._delivery, partial(self._choose, begun=True), self._enter, self.budget, limits, meter
        )

    def run(self, exchange: Exchange, plan: Plan) -> Coroutine[Any, Any, web.StreamResponse]:
        """The answer of the first candidate that gives one. Raises the error of the last one otherwise."""
        self.budget.arrived(exchange.now())
        if plan.stream:
            exchange.stream = True
        elif plan.json:  # nothing of it goes out before its end is known
            return self._run(exchange, plan, None)
        return self._run_on(exchange, plan)

    async def _run_on(self, exchange: Exchange, plan: Plan) -> web.StreamResponse:
        """The same for an answer that may break off before the client's eyes."""
        commented = plan.stream and not exchange.stream_type
        comments = Comments(exchange, self._limits.keepalive_comment_s if commented else 0, self._spawn)
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

    async def _run(self, exchange: Exchange, plan: Plan, comments: Comments | None) -> web.StreamResponse:
        failed: list[Failed] = []
        options = plan.candidates
        patient = len(options) == 1
        if not options:
            raise UpstreamUnavailable("there is nobody to ask")
        while True:
            candidate, place = options[0], None
            if self._circuits.known or not self._admission.takes(candidate.service.service_id):
                chosen = await self._choose(exchange, options)
                if chosen is None:
                    break
                candidate, place = chosen
            attempt, role = self._enter(exchange, candidate, place), candidate.role
            if role is not None and role.routing_policy.hedge and not failed:
                response = await self._hedged(exchange, plan, comments, attempt, failed)
            else:
                response = await self._attempt(exchange, plan, comments, attempt, failed, patient=patient)
            if response is not None:
                return response
            shut = partial(self._shut, exchange.now())
            options, patient = following(plan.candidates, _everybody(exchange), failed, shut)
            if not options or not plan.replayable() or not self.budget.spend(exchange.now()):
                break
        return await self._nobody_left(exchange, options, failed, comments)

    async def _nobody_left(
        self, exchange: Exchange, options: tuple[Candidate, ...], failed: list[Failed], comments: Comments | None
    ) -> web.StreamResponse:
        """What the client gets when none of them answered."""
        if not failed:
            raise self._refusal(exchange, options)
        if comments is not None:
            await comments.stop()
        last = _told(failed)
        if last.passed is not None and exchange.response is not None:
            await end_with(exchange.response, last.error, last.passed.body)
            return exchange.response
        return _give_up(last)

    async def _attempt(
        self,
        exchange: Exchange,
        plan: Plan,
        comments: Comments | None,
        attempt: Attempt,
        failed: list[Failed],
        *,
        patient: bool = False,
        begun: Begun | None = None,
    ) -> web.StreamResponse | None:
        """One candidate's answer to its end; None if it gave none, which is then in `failed`.

        `begun` is an answer whose first byte is there already; without it the attempt has yet to begin.
        """
        response: web.StreamResponse
        tried = attempt.tried
        try:
            if begun is None:
                begun = await self._opening.begin(exchange, plan, tried, patient=patient)
            try:
                if begun.scanner is not None or begun.as_it_comes:
                    attempt.first_byte()  # when the first token of a whole body was there, nobody knows
                if comments is not None:
                    await comments.stop()
                if begun.whole and exchange.response is None:
                    response = Whole(begun.upstream.status, begun.head, begun.content_type)
                    well = True
                else:
                    response, well = await self._delivery.deliver(exchange, begun, tried)
            finally:
                begun.upstream.close()
                begun.told(tried)
            attempt.over(well=well)
        except AttemptFailed as error:
            attempt.failed(error, self._dice())
            failed.append(Failed(tried.candidate, error))
            return None
        except UpstreamError as error:
            attempt.broke(error.message)
            raise
        finally:
            attempt.close()
        return response

    async def _hedged(
        self, exchange: Exchange, plan: Plan, comments: Comments | None, first: Attempt, failed: list[Failed]
    ) -> web.StreamResponse | None:
        """As `_attempt`, with a second candidate as well where the first is late by what is known of it."""
        service_id = first.tried.candidate.service.service_id
        late_s = self._in_flight.late_s(service_id, streamed=plan.stream)
        if late_s is None or len(plan.candidates) == 1:
            alone = len(plan.candidates) == 1
            return await self._attempt(exchange, plan, comments, first, failed, patient=alone)
        entered = [first]

        def second() -> Attempt | None:
            other = self._second(exchange, plan, first.tried.candidate)
            if other is None or not plan.replayable() or not self.budget.spend(exchange.now()):
                return None
            attempt = self._enter(exchange, other)
            attempt.tried.note = f"a hedge: nothing had come within {late_s:.2f} s"
            entered.append(attempt)
            return attempt

        race = Race(exchange, plan, self._opening, first, second)
        try:
            won = await race.run(late_s)
            for attempt, error in race.lost:
                attempt.failed(error, self._dice())
                attempt.close()
                failed.append(Failed(attempt.tried.candidate, error))
            if won is None:
                return None
            return await self._attempt(exchange, plan, comments, won[0], failed, begun=won[1])
        finally:
            for attempt in entered:
                attempt.close()

    def _second(self, exchange: Exchange, plan: Plan, first: Candidate) -> Candidate | None:
        """Another service that takes work and has a place: nobody waits for a hedge."""
        now = exchange.now()
        for each in plan.candidates:
            service_id = each.service.service_id
            other = service_id != first.service.service_id and self._admission.takes(service_id)
            if other and not self._circuits.kept_back(service_id, now):
                return each
        return None

    def _enter(self, exchange: Exchange, candidate: Candidate, place: Place | None = None) -> Attempt:
        """Begin at the candidate's service, at the place that was taken there, if one was."""
        service_id, circuits, trial = candidate.service.service_id, self._circuits, False
        if place is not None:
            trial = place.trial
        elif circuits.known:
            trial = circuits.begin(service_id, exchange.now())
        guard = self._in_flight.guard(service_id, candidate, exchange.ask, reserved=place is not None)
        tried = exchange.attempt(candidate)
        if trial:
            tried.note = "a trial: the service was ejected"
        return Attempt(exchange, service_id, guard, circuits, self._meter, tried, trial)

    async def _choose(
        self, exchange: Exchange, options: tuple[Candidate, ...], *, begun: bool = False
    ) -> tuple[Candidate, Place | None] | None:
        """The first that takes work and has a place, if need be after a wait. None if all rest for too long.

        `begun` is whether the client has the beginning of an answer.
        """
        now = exchange.now()
        ready = tuple(each for each in options if not self._circuits.kept_back(each.service.service_id, now))
        if not ready:
            least = await self._least_bad(exchange, options)
            if least is None:
                return None
            ready = (least,)
        for each in ready:
            if self._admission.takes(each.service.service_id):
                return each, None
        place = await self._admission.wait(exchange, ready, begun=begun)
        return next(each for each in ready if each.service.service_id == place.service_id), place

    async def _least_bad(self, exchange: Exchange, options: tuple[Candidate, ...]) -> Candidate | None:
        """Of services that are all kept back, one that is free soon, else one that may be tried all the same."""
        now = exchange.now()
        rests = [(self._circuits.rest_s(each.service.service_id, now), each) for each in options]
        rest, least = min((each for each in rests if each[0] > 0), key=lambda each: each[0], default=(0.0, None))
        if least is not None and rest <= LONGEST_WAIT_S:
            await self._pause(exchange, rest)
            return least
        ejected = [each for rest, each in rests if not rest]
        return min(ejected, key=lambda each: self._circuits.badness(each.service.service_id, now), default=None)

    def _shut(self, now: float, service_id: str) -> bool:
        """Whether a service wants to be left alone for longer than a client may wait."""
        return self._circuits.rest_s(service_id, now) > LONGEST_WAIT_S

    def _refusal(self, exchange: Exchange, options: tuple[Candidate, ...]) -> NoServiceAvailable:
        now = exchange.now()
        rest = min(self._circuits.rest_s(each.service.service_id, now) for each in options)
        return NoServiceAvailable(
            "every service that could answer has just refused, and asked to be left alone for a while",
            retry_after_s=rest,
        )

    async def _pause(self, exchange: Exchange, seconds: float) -> None:
        """Let some time pass, unless the request is interrupted meanwhile."""
        began = exchange.now()
        try:
            with exchange.deadline(seconds):
                await exchange.loop.create_future()
        except TimeoutError:
            if exchange.interruption is not None:
                raise exchange.interruption from None
        finally:
            exchange.upstream_seconds += exchange.now() - began


def _told(failed: list[Failed]) -> AttemptFailed:
    """The failure that the client hears of: the last, unless another one says when to come back."""
    busy = [each.error for each in failed if each.error.busy_s is not None and each.error.passed is not None]
    return busy[-1] if busy and failed[-1].error.passed is None else failed[-1].error


def _everybody(exchange: Exchange) -> tuple[Candidate, ...]:
    """All that the name led to, not only those whom the strategy chose."""
    return () if exchange.found is None else exchange.found.candidates


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
