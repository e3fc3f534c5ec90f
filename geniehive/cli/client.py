"""Calls to the control plane's ClusterService and AccessService, with every failure as one of our errors.

`ask(target, talk)` opens a channel, runs `talk(client)` and closes it again.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from geniehive.errors import (
    ConfigError,
    Conflict,
    ControlPlaneUnreachable,
    GenieHiveError,
    InternalError,
    InvalidRequest,
    NotFound,
    PermissionDenied,
    Unauthenticated,
)

if TYPE_CHECKING:
    import grpc.aio

    from geniehive.tls import Credentials

T = TypeVar("T")

_SILENCE = frozenset({"UNAVAILABLE", "DEADLINE_EXCEEDED"})  # gRPC's own words for a server that does not answer

_TIMEOUT_S = 10.0
_KEY_FIX = (
    "give a config that has it (--config FILE: auth.admin_api_keys or control_plane.node_api_key) "
    "or an admin key or a token (GENIEHIVE_API_KEY)"
)


@dataclass(frozen=True, kw_only=True)
class Target:
    """Where the control plane is, and what it is shown."""

    addresses: tuple[str, ...]
    node_key: str = ""
    admin_key: str = ""
    credentials: Credentials | None = None

    @property
    def shown(self) -> str:
        """The addresses, for messages."""
        return ", ".join(self.addresses)


def target(config: Path | None, control: str, api_key: str) -> Target:
    """Where to ask, from options and config. Raises ConfigError."""
    from geniehive.cli.trust import credentials_for, own_addresses
    from geniehive.config_check import parse_address
    from geniehive.config_load import load_config

    given = load_config(config, os.environ)
    loaded = given.config
    addresses = tuple(part.strip() for part in control.split(",") if part.strip())
    if not addresses and all(given.origin(f"control_plane.{key}") == "default" for key in ("address", "addresses")):
        addresses = own_addresses(loaded)
    addresses = addresses or loaded.control_plane.targets
    for address in addresses:
        try:
            parse_address(address)
        except ValueError as error:
            raise ConfigError(f"--control: {error}") from None
    return Target(
        addresses=addresses,
        node_key=loaded.control_plane.node_api_key or next(iter(loaded.auth.node_api_keys), ""),
        admin_key=api_key or next(iter(loaded.auth.admin_api_keys), ""),
        credentials=credentials_for(loaded, addresses),
    )


class ClusterClient:
    """Calls methods of ClusterService and AccessService by name."""

    def __init__(self, channel: grpc.aio.Channel, where: Target) -> None:
        from geniehive.dial import metadata
        from geniehive.v1 import cluster_service_pb2_grpc

        self._channel = channel
        self._stub: Any = cluster_service_pb2_grpc.ClusterServiceStub(channel)
        self._metadata = metadata(node_key=where.node_key, admin_key=where.admin_key)
        self._where = where

    async def call(self, method: str, request: Any) -> Any:
        """One call of ClusterService. Raises GenieHiveError."""
        return await self._call(getattr(self._stub, method), request)

    async def access(self, method: str, request: Any) -> Any:
        """One call of AccessService. Raises GenieHiveError."""
        from geniehive.v1 import access_service_pb2_grpc

        stub = access_service_pb2_grpc.AccessServiceStub(self._channel)
        return await self._call(getattr(stub, method), request)

    async def _call(self, method: Any, request: Any) -> Any:
        import grpc

        from geniehive.dial import answer_of

        try:
            return await method(request, metadata=self._metadata, timeout=_TIMEOUT_S)
        except grpc.aio.AioRpcError as error:
            code, answer = error.code().name, answer_of(error)
            if answer is not None and code in _SILENCE:  # one that refuses is not one that is away
                raise answer from None
            raise (await self._tls_trouble(code) or translate(code, error.details() or "", self._where)) from None

    async def _tls_trouble(self, code: str) -> ControlPlaneUnreachable | None:
        """What gRPC does not say: a certificate that is refused, or TLS that is wanted."""
        if code != "UNAVAILABLE":
            return None
        import asyncio

        from geniehive import tls_trouble

        address, credentials = self._where.addresses[0], self._where.credentials
        if credentials is None:
            words = await asyncio.to_thread(tls_trouble.wants_tls, address)
        else:
            words = await asyncio.to_thread(tls_trouble.why, address, credentials)
        return ControlPlaneUnreachable(words) if words else None


def translate(code: str, details: str, where: Target) -> GenieHiveError:
    """The error of ours for a gRPC status: its words, and what to do."""
    match code:
        case "UNAVAILABLE" | "DEADLINE_EXCEEDED":
            return ControlPlaneUnreachable(
                f"cannot reach the control plane at {where.shown}: start it (geniehive up, or geniehive control), "
                "or say where it is (--control HOST:PORT)"
            )
        case "UNAUTHENTICATED":
            return Unauthenticated(_wanted(details, where))
        case "PERMISSION_DENIED":
            fix = "" if where.credentials is not None else "; set it as GENIEHIVE_API_KEY"
            return PermissionDenied(f"{details or 'the key may not do this'}{fix}")
        case "NOT_FOUND":
            return NotFound(details)
        case "INVALID_ARGUMENT":
            return InvalidRequest(details)
        case "FAILED_PRECONDITION":
            return Conflict(details)
        case "UNIMPLEMENTED":
            return InternalError(
                f"what answers at {where.shown} does not know this call: is it a GenieHive as new as this?"
            )
    return InternalError(f"the control plane at {where.shown} failed: {details or code}")


def _wanted(details: str, where: Target) -> str:
    """Who is not known there, and the fix."""
    if where.credentials is not None:
        return f"the control plane at {where.shown}: {details}"
    wants = "refuses a token that has expired" if "expired" in details else "wants a key"
    return f"the control plane at {where.shown} {wants}: {_KEY_FIX}"


def ask(where: Target, talk: Callable[[ClusterClient], Awaitable[T]]) -> T:
    """Run a conversation with the control plane. Raises GenieHiveError; KeyboardInterrupt on Ctrl-C."""
    import asyncio

    return asyncio.run(_conversation(where, talk))


async def _conversation(where: Target, talk: Callable[[ClusterClient], Awaitable[T]]) -> T:
    from geniehive.dial import control_channel

    async with control_channel(where.addresses, where.credentials) as channel:
        return await talk(ClusterClient(channel, where))
