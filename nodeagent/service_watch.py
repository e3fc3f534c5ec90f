"""Watches one service: a look at the interval, a cheap check in between, a look at once when asked.

A look asks the engine all that it tells; it never overlaps with another one. Between looks a connection is opened to
an engine that was healthy, once a second: after a kill -9 the kernel refuses it at once, so the service is unhealthy
about a second later, and no engine pays more for that than an accept. What does not answer is looked at every second,
so that it is back soon after it is back. An engine that answered before has `KNOWN_BUDGET_S` to answer a look: it
tells what it does from memory, however busy it is. One look without an answer in time may still be a busy engine: the
next one follows at once, and only the second in a row makes it unhealthy. A refused connection counts at once.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final

import aiohttp
from msgspec.structs import replace

from geniehive.errors import GenieHiveError, UpstreamTimeout, UpstreamUnavailable
from geniehive.resources import HealthStatus, Service
from nodeagent import discovery
from nodeagent.dialling import host_and_port, opens
from nodeagent.engines import Engine, EngineState, Http, identify
from nodeagent.managed import health_of, notes_of
from nodeagent.reach import Reach
from nodeagent.target import Target

CHECK_INTERVAL_S: Final = 1.0
LOOK_BUDGET_S: Final = 10.0
"""For a look at an engine that has not answered yet, or not lately: it may be starting."""
KNOWN_BUDGET_S: Final = 2.0
FORGET_AFTER_S: Final = 600.0
"""A discovered service that does not answer for so long is gone."""

_log = logging.getLogger(__name__)


class ServiceWatch:
    """One service. `tell` gets it after each look; `initial` is what is known of it already."""

    def __init__(
        self,
        target: Target,
        session: aiohttp.ClientSession,
        reach: Reach,
        *,
        tell: Callable[[Service], None],
        interval_s: float,
        initial: Service | None = None,
    ) -> None:
        self.target = target
        self._http = Http(session, target.service.endpoint, api_key=target.api_key)
        self._session = session
        self._reach = reach
        self._tell = tell
        self._interval_s = interval_s
        self._engine = target.engine
        self._previous: EngineState | None = None
        self._last = initial or target.service
        self._late = 0
        self._poked = asyncio.Event()
        self._waiting: list[asyncio.Future[None]] = []
        self._dead_since: float | None = None
        self.looked = asyncio.Event()

    async def run(self) -> None:
        """Watch until cancelled; ends by itself when a discovered service is gone for good."""
        while not self._gone():
            self._poked.clear()
            waiting, self._waiting = self._waiting, []
            self._last = await self._safe_look()
            self._tell(self._last)
            self.looked.set()
            _release(waiting)
            await self._pause()
        _release(self._waiting)

    def poke(self) -> None:
        """Look soon."""
        self._poked.set()

    async def look_now(self) -> Service:
        """Look, and return what was seen; a look that is under way is not taken for it."""
        done = asyncio.get_running_loop().create_future()
        self._waiting.append(done)
        self.poke()
        await done
        return self._last

    async def load(self, asset_id: str, context_size: int | None) -> None:
        """Have the engine bring a model into memory. Raises UpstreamError."""
        engine = await self._known_engine()
        await engine.load(self._http, asset_id, context_size)

    async def unload(self, asset_id: str) -> None:
        """Have the engine put a model out of memory. Raises UpstreamError."""
        engine = await self._known_engine()
        await engine.unload(self._http, asset_id)

    # --- looking -------------------------------------------------------------------------------

    async def _safe_look(self) -> Service:
        """A look; what an engine's answer breaks in our reading makes that service unhealthy, and nothing else."""
        try:
            return await self._look()
        except Exception as error:  # noqa: BLE001 - what engines answer is not trusted, and others must go on
            _log.exception("%s: its answers cannot be read; please report it", self.target.service.service_id)
            return self._failed(f"its answers cannot be read ({type(error).__name__})")

    async def _look(self) -> Service:
        target = self.target
        if target.managed is not None and (health := health_of(target.managed.status)) is not None:
            notes = (*target.service.notes, *notes_of(target.managed.status))
            return replace(self._failed(health.reason), health=health, notes=notes)
        budget_s = LOOK_BUDGET_S if self._previous is None else KNOWN_BUDGET_S
        try:
            async with asyncio.timeout(budget_s):
                engine = await self._known_engine()
                state = await engine.look(self._http, self._previous)
        except (TimeoutError, UpstreamTimeout) as error:
            return self._no_answer(error, budget_s)
        except GenieHiveError as error:
            return self._failed(error.message)
        self._previous, self._late = state, 0
        return await self._reach.announce(discovery.merge(target.service, state), engine)

    async def _known_engine(self) -> Engine:
        """The engine behind the service. Raises UpstreamUnavailable where none can be told."""
        if self._engine is None:
            self._engine = await self._find_engine()
        return self._engine

    async def _find_engine(self) -> Engine:
        target = self.target
        endpoint = target.service.endpoint
        if not await self._listens():
            raise UpstreamUnavailable(f"{endpoint} refused the connection: is the engine running?")
        engine = await identify(
            target.protocol,
            endpoint,
            self._session,
            api_key=target.api_key,
            manifest=target.manifest,
            runtime=target.service.runtime.engine,
        )
        if engine is None:
            raise UpstreamUnavailable(f"what answers at {endpoint} is no engine that is known: set discover_protocol")
        return engine

    def _no_answer(self, error: Exception, budget_s: float) -> Service:
        self._late += 1
        if self._late < 2 and self._last.health.status is HealthStatus.HEALTHY:
            return self._last
        return self._failed(str(error) or f"no answer within {budget_s:g} s: is the engine hung or overloaded?")

    def _failed(self, reason: str) -> Service:
        """The service as it was announced, but unhealthy: nothing measured, nothing known to be in memory."""
        self._previous = None
        if self.target.protocol == "auto":
            self._engine = None  # something else may answer there next time
        return discovery.failed(self._reach.assume(self._last), reason)

    # --- waiting -------------------------------------------------------------------------------

    async def _pause(self) -> None:
        """Wait for the next look: the interval, or less when somebody asks or the engine is gone."""
        loop = asyncio.get_running_loop()
        healthy = self._last.health.status is HealthStatus.HEALTHY
        if healthy and self._late:
            return
        until = loop.time() + (self._interval_s if healthy else min(self._interval_s, CHECK_INTERVAL_S))
        while (left := until - loop.time()) > 0:
            try:
                async with asyncio.timeout(min(left, CHECK_INTERVAL_S)):
                    await self._poked.wait()
            except TimeoutError:
                if healthy and not await self._listens():
                    return
            else:
                return

    def _gone(self) -> bool:
        if not self._last.discovered or self._last.health.status is not HealthStatus.UNHEALTHY:
            self._dead_since = None
            return False
        now = asyncio.get_running_loop().time()
        self._dead_since = now if self._dead_since is None else self._dead_since
        return now - self._dead_since > FORGET_AFTER_S

    async def _listens(self) -> bool:
        return await opens(*host_and_port(self.target.service.endpoint))


def _release(waiting: list[asyncio.Future[None]]) -> None:
    for one in waiting:
        if not one.done():
            one.set_result(None)
