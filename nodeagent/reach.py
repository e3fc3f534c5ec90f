"""Under which endpoint a service is announced: gateways on other hosts cannot dial this host's loopback.

While the host's own address is loopback (the control plane runs on this host, and `node.address` names nothing else),
endpoints go out as they are. Otherwise an engine on loopback is announced under the host's address if a connection to
it opens there; one that listens on loopback alone is announced as unreachable, with the fix.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from geniehive.config_check import is_loopback
from geniehive.resources import Service
from nodeagent import discovery
from nodeagent.dialling import host_and_port, opens
from nodeagent.engines import Engine, by_protocol

Opens = Callable[[str, int], Awaitable[bool]]


class Reach:
    """Announces services under `address`, the host's address as other hosts dial it; empty is not known yet."""

    def __init__(self, address: str = "", opens: Opens = opens) -> None:
        self.address = address
        self._opens = opens

    async def announce(self, service: Service, engine: Engine) -> Service:
        """A service whose engine answered, as it goes out."""
        host, port = host_and_port(service.endpoint)
        if not self.address or is_loopback(self.address) or not is_loopback(host):
            return service
        return discovery.addressed(service, engine, self.address, beyond_loopback=await self._opens(self.address, port))

    def assume(self, service: Service) -> Service:
        """A service whose engine does not answer: how it listens cannot be told, so it counts as reachable.

        One that was announced as unreachable stays so.
        """
        if not service.reachable:
            return service
        return discovery.addressed(service, by_protocol("openai"), self.address, beyond_loopback=None)
