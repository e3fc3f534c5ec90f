"""What an engine is to the node agent: something to recognise, to look at, and to order to load and unload.

An engine class holds no state: it is a set of pure readings of an engine's answers with a thin shell of HTTP around
them. What one look must remember for the next one (counters, so that rates are recent ones) leaves in
`EngineState.memory` and comes back as `previous`.

A look asks only what has no side effect: nothing here generates a token, loads a model or keeps one awake.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from geniehive.errors import UpstreamError, UpstreamTimeout, UpstreamUnavailable
from geniehive.resources import Asset, Health, HealthStatus, Observed, Operation
from nodeagent.engines.http import LOAD_TIMEOUT_S, Http, Reply
from nodeagent.engines.native import since

Evidence = Mapping[str, Reply]
"""Answers by path, as far as there were any."""

POLL_S = 0.2
HEALTHY = Health(status=HealthStatus.HEALTHY)


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineState:
    """What one look told.

    `complete`: `assets` is all that the engine serves, so what config names beyond it is not there.
    `any_name`: the engine serves its one model under whatever name a request gives.
    `operations`: what the service as a whole can be asked for, where the engine's kind is all that is known; an
    asset's own operations are facts, unless `guessed` says that they were read from names.
    `routes`: what it serves beside the routes of its operations, such as "/v1/messages"; for what is not known to be
    there gateways translate.
    `memory`: for the next look of the same engine, and for nobody else.
    """

    protocol: str
    runtime_name: str
    version: str = ""
    health: Health = HEALTHY
    operations: tuple[Operation, ...] = ()
    routes: tuple[str, ...] = ()
    assets: tuple[Asset, ...] = ()
    observed: Observed = Observed()
    notes: tuple[str, ...] = ()
    complete: bool = True
    any_name: bool = False
    guessed: bool = False
    memory: object = None


class Engine(ABC):
    """One kind of engine. `name` is the protocol's word, `runtime_name` the engine's own name.

    `probes`: paths whose answers tell it from others; GET on them is free of side effects on every known engine.
    `listen_fix`: how to make it listen for other hosts.
    `routes_since`: routes beside those of its operations, and the version that first had them.
    """

    name: ClassVar[str]
    runtime_name: ClassVar[str]
    probes: ClassVar[tuple[str, ...]]
    listen_fix: ClassVar[str]
    routes_since: ClassVar[Mapping[str, str]] = {}

    @abstractmethod
    def recognise(self, seen: Evidence) -> bool:
        """Whether the answers to `probes` are this engine's. Pure; never by port."""

    @abstractmethod
    async def look(self, http: Http, previous: EngineState | None = None) -> EngineState:
        """What the engine serves and does now. Raises UpstreamError where it gives no answer that makes sense.

        `previous` is what the last look at the same endpoint returned; with it rates and medians are recent ones.
        """

    async def fingerprint(self, http: Http) -> bool:
        """Whether this engine answers there."""
        return self.recognise(await http.get_all(*self.probes))

    async def load(self, http: Http, asset_id: str, context_size: int | None = None) -> None:
        """Bring a model into memory; returns when it is there. Raises UpstreamError with the fix where it cannot."""
        raise UpstreamError(self._cannot("load", http, asset_id, context_size))

    async def unload(self, http: Http, asset_id: str) -> None:
        """Put a model out of memory; returns when it is out. Raises UpstreamError with the fix where it cannot."""
        raise UpstreamError(self._cannot("unload", http, asset_id, None))

    def _cannot(self, verb: str, http: Http, asset_id: str, context_size: int | None) -> str:
        size = f" with a context of {context_size}" if context_size else ""
        return (
            f"{self.runtime_name or 'the server'} at {http.endpoint} has no way to {verb} {asset_id}{size} over HTTP: "
            "start or stop the engine's own process instead"
        )

    def state(self, **fields: Any) -> EngineState:
        """An EngineState of this engine."""
        if self.routes_since and "routes" not in fields:
            fields["routes"] = since(self.routes_since, fields.get("version", ""))
        return EngineState(protocol=self.name, runtime_name=self.runtime_name, **fields)


def json_of(seen: Evidence, path: str) -> Any:
    """The JSON of a path that answered 2xx, else None."""
    reply = seen.get(path)
    return reply.data if reply is not None and reply.ok else None


def refusal(reply: Reply, path: str) -> Health:
    """The health that a status other than 2xx means, with what to do about it."""
    if reply.status in {401, 403}:
        return unhealthy(f"{path} wants a key ({reply.status}): set api_key of this service in the node's config")
    if reply.status == 503:
        return unhealthy(f"{path} answers 503: {reply.complaint}")
    return unhealthy(f"{path} answers {reply.status}: {reply.complaint}; check endpoint and discover_protocol")


def unhealthy(reason: str) -> Health:
    """An engine that answers, but not well."""
    return Health(status=HealthStatus.UNHEALTHY, reason=reason)


def loading(reason: str) -> Health:
    """An engine that is not ready yet."""
    return Health(status=HealthStatus.LOADING, reason=reason)


def demand(reply: Reply, order: str) -> Reply:
    """The reply if it is 2xx. Raises UpstreamUnavailable with the engine's own words if it is not."""
    if not reply.ok:
        raise UpstreamUnavailable(f"the engine refused to {order}: {reply.complaint}")
    return reply


async def wait_until(done: Callable[[], Awaitable[bool]], order: str) -> None:
    """Ask every `POLL_S` seconds until an order is carried out: engines push nothing that says so.

    Raises UpstreamTimeout after LOAD_TIMEOUT_S, and whatever `done` raises.
    """
    try:
        async with asyncio.timeout(LOAD_TIMEOUT_S):
            while True:
                if await done():
                    return
                await asyncio.sleep(POLL_S)
    except TimeoutError as error:
        raise UpstreamTimeout(f"the engine did not {order} within {LOAD_TIMEOUT_S:g} s: its log says why") from error
