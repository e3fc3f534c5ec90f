"""[mostly pure] What config says of a service, joined with what its engine tells; and the engines that nobody named.

Three rules join them. What the engine knows best, whether a model is in memory and how large its context is, goes
before config. What only people know, aliases, labels, policies, limits, stays as config says it. What config did not
name is added. An engine that tells nothing about a point leaves config's word standing.

The only I/O is in `scan`.
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

import aiohttp
import msgspec

from geniehive.errors import UpstreamError
from geniehive.resources import Asset, Health, HealthStatus, Observed, Operation, Runtime, Service
from nodeagent.engines.base import Engine, EngineState
from nodeagent.engines.fingerprint import fingerprint
from nodeagent.engines.http import Http, base_url

_CONNECT_TIMEOUT_S: Final = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """An engine that answered on this host: its loopback endpoint, what it is, and what it told."""

    endpoint: str
    port: int
    engine: Engine
    state: EngineState


def merge(configured: Service, state: EngineState) -> Service:
    """A service of config as its engine's state corrects and completes it."""
    operations_named = bool(configured.operations)
    told = tuple(_without_guess(asset, state, drop=operations_named) for asset in state.assets)
    assets, notes = _merge_assets(configured.assets, told, state)
    base = configured.operations or state.operations
    operations = tuple(dict.fromkeys((*base, *(operation for asset in assets for operation in asset.operations))))
    return msgspec.structs.replace(
        configured,
        endpoint=base_url(configured.endpoint),
        protocol=state.protocol,
        operations=operations,
        routes=configured.routes or state.routes,
        runtime=Runtime(
            engine=configured.runtime.engine or state.runtime_name,
            launcher=configured.runtime.launcher,
            version=state.version or configured.runtime.version,
        ),
        assets=assets,
        health=state.health,
        observed=state.observed,
        notes=tuple(dict.fromkeys((*configured.notes, *state.notes, *notes))),
    )


def failed(service: Service, reason: str) -> Service:
    """A service whose engine gave no answer: unhealthy, nothing measured, and nothing known of what is in memory."""
    return msgspec.structs.replace(
        service,
        health=Health(status=HealthStatus.UNHEALTHY, reason=reason),
        observed=Observed(),
        assets=tuple(msgspec.structs.replace(asset, loaded=None, vram_bytes=None) for asset in service.assets),
    )


def as_service(host_id: str, found: Found) -> Service:
    """The service of an engine that config did not name: `HOST/ENGINE-PORT`."""
    bare = Service(
        service_id=f"{host_id}/{found.engine.name}-{found.port}",
        host_id=host_id,
        endpoint=found.endpoint,
        discovered=True,
    )
    return merge(bare, found.state)


def addressed(service: Service, engine: Engine, address: str, *, beyond_loopback: bool | None) -> Service:
    """A service of this host's loopback, as other hosts can dial it under `address`.

    Where the engine listens on loopback alone it is announced as unreachable, with the fix; where that is not known
    (None) it is announced as if it could be reached. A loopback `address` means a cluster of one machine.
    """
    parts = urlsplit(service.endpoint)
    if not _is_loopback(parts.hostname or "") or not address or _is_loopback(address):
        return service
    if beyond_loopback is False:
        note = f"only this host can reach it, it listens on loopback alone: {engine.listen_fix}"
        return msgspec.structs.replace(service, reachable=False, notes=(*service.notes, note))
    host = f"[{address}]" if ":" in address else address
    port = f":{parts.port}" if parts.port else ""
    return msgspec.structs.replace(service, endpoint=f"{parts.scheme}://{host}{port}{parts.path}", reachable=True)


async def scan(
    session: aiohttp.ClientSession,
    ports: Collection[int],
    *,
    skip: Collection[int] = (),
    host: str = "127.0.0.1",
) -> tuple[Found, ...]:
    """The engines that answer at `ports` of this host, in that order; `skip` names ports already accounted for.

    Closed ports cost next to nothing, an open one at most the fingerprint's budget and one look.
    """
    wanted = [port for port in dict.fromkeys(ports) if port not in skip]
    found: dict[int, Found] = {}

    async def visit(port: int) -> None:
        result = await _visit(session, host, port)
        if result is not None:
            found[port] = result

    async with asyncio.TaskGroup() as group:
        for port in wanted:
            group.create_task(visit(port))
    return tuple(found[port] for port in wanted if port in found)


def _merge_assets(
    configured: tuple[Asset, ...], told: tuple[Asset, ...], state: EngineState
) -> tuple[tuple[Asset, ...], tuple[str, ...]]:
    """Config's assets with the engine's facts, then those that config did not name; and notes on what does not fit."""
    pairs = {asset.asset_id: _match(asset, told) for asset in configured}
    if state.any_name and configured and not any(pairs.values()):
        pairs[configured[0].asset_id] = told[0]  # the engine's only model, under config's name for it
    notes: list[str] = []
    merged: list[Asset] = []
    for asset in configured:
        match = pairs[asset.asset_id]
        if match is not None:
            merged.append(_merge_asset(asset, match))
        else:
            merged.append(_unconfirmed(asset, state))
            if state.complete:
                notes.append(f"config names {asset.asset_id}, which the engine does not list")
    used = {match.asset_id for match in pairs.values() if match is not None}
    return (*merged, *(asset for asset in told if asset.asset_id not in used)), tuple(notes)


def _match(asset: Asset, told: tuple[Asset, ...]) -> Asset | None:
    exact = next((known for known in told if known.asset_id == asset.asset_id), None)
    return exact or next((known for known in told if asset.asset_id in known.aliases), None)


def _merge_asset(asset: Asset, told: Asset) -> Asset:
    """Facts of the moment from the engine, words of people from config."""
    names = dict.fromkeys((*asset.aliases, told.asset_id, *told.aliases))
    return msgspec.structs.replace(
        asset,
        aliases=tuple(name for name in names if name != asset.asset_id),
        loaded=asset.loaded if told.loaded is None else told.loaded,
        context_size=told.context_size or asset.context_size,
        family=asset.family or told.family,
        quantization=asset.quantization or told.quantization,
        capabilities=tuple(dict.fromkeys((*asset.capabilities, *told.capabilities))),
        operations=asset.operations or told.operations,
        size_bytes=told.size_bytes or asset.size_bytes,
        vram_bytes=told.vram_bytes if told.vram_bytes is not None else asset.vram_bytes,
        parameter_size=asset.parameter_size or told.parameter_size,
        voices=asset.voices or told.voices,
    )


def _unconfirmed(asset: Asset, state: EngineState) -> Asset:
    """An asset that the engine did not confirm: not in memory if the engine listed all that it has."""
    if state.complete:
        return msgspec.structs.replace(asset, loaded=False, vram_bytes=None)
    if state.health.status is not HealthStatus.HEALTHY:
        return msgspec.structs.replace(asset, loaded=None, vram_bytes=None)
    return asset


def _without_guess(asset: Asset, state: EngineState, *, drop: bool) -> Asset:
    """Guessed operations yield to config's; facts stay."""
    none: tuple[Operation, ...] = ()
    return msgspec.structs.replace(asset, operations=none) if state.guessed and drop else asset


async def _visit(session: aiohttp.ClientSession, host: str, port: int) -> Found | None:
    if not await _is_open(host, port):
        return None
    endpoint = f"http://{host}:{port}"
    engine = await fingerprint(endpoint, session)
    if engine is None:
        return None
    try:
        state = await engine.look(Http(session, endpoint))
    except UpstreamError:
        return None
    return Found(endpoint=endpoint, port=port, engine=engine, state=state)


async def _is_open(host: str, port: int) -> bool:
    try:
        async with asyncio.timeout(_CONNECT_TIMEOUT_S):
            _, writer = await asyncio.open_connection(host, port)
    except (OSError, TimeoutError):
        return False
    writer.close()
    return True


def _is_loopback(address: str) -> bool:
    try:
        parsed = ipaddress.ip_address(address.strip("[]"))
    except ValueError:
        return address == "localhost"
    mapped = getattr(parsed, "ipv4_mapped", None)
    return bool((mapped or parsed).is_loopback)
