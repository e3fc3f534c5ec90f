"""Hedging: where an answer is late, a second service is asked as well, and the first to begin wins.

Late is later than 19 of 20 answers began there, as far as this worker has seen. The loser is cancelled and its
place free before anything goes to the client. Both attempts share the time that one has for its first byte.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import NamedTuple

from gateway.attempt import Attempt
from gateway.exchange import Exchange
from gateway.opening import Begun, Opening
from gateway.plan import Plan
from gateway.verdict import AttemptFailed
from geniehive.errors import GenieHiveError


class Lost(NamedTuple):
    """An attempt that failed."""

    attempt: Attempt
    error: AttemptFailed


class Race:
    """One request with up to two attempts at once. `second` enters the other one; None if there is none to be had."""

    def __init__(
        self, exchange: Exchange, plan: Plan, opening: Opening, first: Attempt, second: Callable[[], Attempt | None]
    ) -> None:
        self._exchange = exchange
        self._plan = plan
        self._opening = opening
        self._first = first
        self._second = second
        self._legs: dict[asyncio.Task[Begun | GenieHiveError | AttemptFailed], Attempt] = {}
        self.lost: list[Lost] = []
        """Who failed, in the order in which they did."""

    async def run(self, delay_s: float) -> tuple[Attempt, Begun] | None:
        """Who has begun to answer first; None if nobody did. The second attempt begins after `delay_s`.

        Raises what is nobody's failure but the request's, and what interrupted the exchange.
        """
        exchange, tried = self._exchange, self._first.tried
        won: asyncio.Task[Begun | GenieHiveError | AttemptFailed] | None = None
        try:
            async with asyncio.TaskGroup() as tasks:
                try:
                    with exchange.deadline(*self._opening.patience(exchange, tried)):
                        won = await self._compete(tasks, delay_s)
                except TimeoutError:
                    self._time_out()
                finally:
                    self._end(won)
        except BaseException:  # whoever leaves while the losers end has no use for the winner
            if won is not None and isinstance(begun := won.result(), Begun):
                begun.upstream.close()
            raise
        finally:
            tried.until = tried.until or exchange.now()
            exchange.upstream_seconds += exchange.now() - tried.began
        if won is None:
            if exchange.interruption is not None:
                raise exchange.interruption
            self._tell(self.lost[-1].attempt, "the request was refused elsewhere")
            return None
        result = won.result()
        if not isinstance(result, Begun):
            raise result
        self._tell(self._legs[won], "another service was faster")
        return self._legs[won], result

    async def _compete(
        self, tasks: asyncio.TaskGroup, delay_s: float
    ) -> asyncio.Task[Begun | GenieHiveError | AttemptFailed] | None:
        """The leg that ended the race, by an answer or by what is no service's failure; None if all failed."""
        self._start(tasks, self._first)
        timeout: float | None = delay_s
        while pending := [each for each in self._legs if not each.done()]:
            done, _ = await asyncio.wait(pending, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
            if not done and (other := self._second()) is not None:
                self._start(tasks, other)
            timeout = None
            for each in done:
                result = each.result()
                if not isinstance(result, AttemptFailed):
                    return each
                self.lost.append(Lost(self._legs[each], result))
                if not result.retry:  # nobody else will answer it either
                    return None
        return None

    def _start(self, tasks: asyncio.TaskGroup, attempt: Attempt) -> None:
        self._legs[tasks.create_task(self._leg(attempt))] = attempt

    async def _leg(self, attempt: Attempt) -> Begun | GenieHiveError | AttemptFailed:
        """One attempt; its failure is its result, so that the other one goes on."""
        try:
            return await self._opening.ask(self._plan, attempt.tried)
        except (AttemptFailed, GenieHiveError) as error:
            return error
        finally:
            attempt.tried.until = self._exchange.now()

    def _time_out(self) -> None:
        """The time for the first byte is over: all that have not failed are late, unless it is the gateway that ends.

        One that began in this very moment is as well: nobody has looked at it.
        """
        if self._exchange.interruption is not None:
            return
        lost = {id(each.attempt) for each in self.lost}
        late = [attempt for attempt in self._legs.values() if id(attempt) not in lost]
        self.lost += [Lost(attempt, self._opening.too_late(attempt.tried, self._exchange.now())) for attempt in late]

    def _end(self, won: asyncio.Task[Begun | GenieHiveError | AttemptFailed] | None) -> None:
        """Stop all but the winner: those that wait, and one that was just as fast."""
        for leg in self._legs:
            if not leg.done():
                leg.cancel()
            elif leg is not won and not leg.cancelled() and isinstance(begun := leg.result(), Begun):
                begun.upstream.close()

    def _tell(self, decisive: Attempt, why: str) -> None:
        """Who decided the race stands last among the attempts; those that it stopped are over."""
        exchange, failed = self._exchange, {id(each.attempt) for each in self.lost}
        for attempt in self._legs.values():
            if attempt is not decisive and id(attempt) not in failed:
                attempt.tried.outcome, attempt.tried.reason = "cancelled", why
                attempt.close()
        others = [each for each in exchange.tried if each is not decisive.tried]
        exchange.tried[:] = [*others, decisive.tried]
        exchange.candidate = decisive.tried.candidate
