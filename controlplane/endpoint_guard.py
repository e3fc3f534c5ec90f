"""Holds the endpoints that nodes announce against the policy, at the edge, before the loop hears of them.

A refused service stays in the list without its endpoint, unreachable and with the reason among its notes:
operators see it, and nobody dials it. Each refusal is logged once. Names are looked up here, all at once and
for a bounded time, so that a slow resolver holds up no heartbeat for long.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import socket
from collections.abc import Callable, Collection, Iterable
from typing import Final

import psutil
from msgspec.structs import replace

from controlplane.endpoint_policy import EndpointPolicy, EndpointRefused
from geniehive.endpoints import Address, Endpoint, plain
from geniehive.resources import Service

RESOLVE_S: Final = 2.0
_REMEMBERED = 4096  # refusals; a node that invents new ones fills no memory

_log = logging.getLogger(__name__)


def local_addresses() -> frozenset[Address]:
    """Every address of this machine."""
    found = set()
    for entries in psutil.net_if_addrs().values():
        for entry in entries:
            if entry.family in {socket.AF_INET, socket.AF_INET6}:
                found.add(ipaddress.ip_address(entry.address.partition("%")[0]))
    return frozenset(found)


class EndpointGuard:
    """Vets the services of nodes."""

    def __init__(self, policy: EndpointPolicy, local: Callable[[], frozenset[Address]] = local_addresses) -> None:
        self._policy = policy
        self._local = local
        self._told: set[tuple[str, str, str]] = set()
        self.refused = 0
        """Endpoints refused so far."""

    async def vet(self, host_id: str, services: Iterable[Service], peer: Address | None) -> tuple[Service, ...]:
        """The services of a host as they may go into the cluster; `peer` is where its node's stream comes from."""
        own = self._own(peer)
        return tuple(await asyncio.gather(*(self._one(host_id, each, own) for each in services)))

    def _own(self, peer: Address | None) -> frozenset[Address]:
        """Addresses of the node's host: a Unix socket and loopback are this machine's."""
        if peer is not None and not peer.is_loopback:
            local = self._local()
            return local if peer in local else frozenset({peer})
        return self._local() | _LOOPBACK

    async def _one(self, host_id: str, service: Service, own: frozenset[Address]) -> Service:
        if not service.endpoint or not service.reachable:
            return service
        try:
            endpoint = self._policy.read(service.endpoint)
            resolved = await _resolve(endpoint)
            dialled = self._policy.judge(service.endpoint, endpoint, resolved, _with_loopback(own, resolved))
        except EndpointRefused as error:
            return self._refuse(host_id, service, str(error))
        if dialled == service.endpoint:
            return service
        return replace(service, endpoint=dialled, notes=(*service.notes, f"announced as {service.endpoint}"))

    def _refuse(self, host_id: str, service: Service, why: str) -> Service:
        self.refused += 1
        told = (host_id, service.service_id, why)
        if told not in self._told and len(self._told) < _REMEMBERED:
            self._told.add(told)
            _log.warning("host %s, service %s: %s", host_id, service.service_id, why)
        return replace(service, endpoint="", reachable=False, notes=(*service.notes, why))


_LOOPBACK: Final = frozenset(map(ipaddress.ip_address, ("127.0.0.1", "::1")))


def _with_loopback(own: frozenset[Address], resolved: Collection[Address]) -> frozenset[Address]:
    """All of 127/8 is this machine if 127.0.0.1 is the node's own."""
    if own.isdisjoint(_LOOPBACK):
        return own
    return own | {plain(one) for one in resolved if plain(one).is_loopback}


async def _resolve(endpoint: Endpoint) -> tuple[Address, ...]:
    """What the host resolves to, in the resolver's order; empty if it does not."""
    if endpoint.address is not None:
        return (endpoint.address,)
    try:
        async with asyncio.timeout(RESOLVE_S):
            found = await asyncio.get_running_loop().getaddrinfo(endpoint.host, endpoint.port, type=socket.SOCK_STREAM)
    except (OSError, TimeoutError, UnicodeError):
        return ()
    return tuple(dict.fromkeys(ipaddress.ip_address(str(each[4][0]).partition("%")[0]) for each in found))
