"""Look at a replayed engine: `async with looking("vllm", {...changes}) as (look, server)`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from nodeagent.engines import EngineState, Http, by_protocol, engine_session
from tests.nodeagent.engines.replay import Replay, Route, replaying
from tests.nodeagent.engines.worlds import WORLDS, unknown_of

Look = Callable[..., Awaitable[EngineState]]


@asynccontextmanager
async def looking(
    name: str, changes: dict[str, Route] | None = None, *, without: tuple[str, ...] = (), forbidden=frozenset()
) -> AsyncIterator[tuple[Look, Replay]]:
    routes = {key: route for key, route in {**WORLDS[name], **(changes or {})}.items() if key not in without}
    async with replaying(routes, unknown=unknown_of(name), forbidden=forbidden) as server, engine_session() as session:

        async def look(previous: EngineState | None = None) -> EngineState:
            return await by_protocol(name).look(Http(session, server.url), previous)

        yield look, server


@asynccontextmanager
async def ordering(name: str, routes: dict[str, Route]) -> AsyncIterator[tuple[Http, Replay]]:
    """An engine to give orders to, with exactly these routes."""
    async with replaying(routes, unknown=unknown_of(name)) as server, engine_session() as session:
        yield Http(session, server.url), server
