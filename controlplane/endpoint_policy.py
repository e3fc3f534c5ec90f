"""[pure] Which endpoints a node may announce: those of its own host, unless the operator allows more.

A node's own addresses are the one that its stream comes from and, for a node on the control plane's own
machine, all of that machine's. `control.allowed_endpoints` adds networks and names. A name is judged by
what it resolves to, and what it resolved to is what gateways dial: it cannot point elsewhere later
(DNS rebinding). Where TLS proves the name it stays as it is, since another host could not answer to it.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Iterable, Sequence

from geniehive.endpoints import Address, Endpoint, forbidden, plain, read_allowed, read_endpoint


class EndpointRefused(ValueError):
    """An endpoint that the policy does not let in; the text says why, and what to do."""


class EndpointPolicy:
    """Judges endpoints. `allowed` is control.allowed_endpoints; `configured` are endpoints of this very config."""

    def __init__(self, allowed: Sequence[str] = (), configured: Iterable[str] = ()) -> None:
        entries = [read_allowed(one) for one in allowed]
        self._networks = [one for one in entries if not isinstance(one, str)]
        self._names = {one for one in entries if isinstance(one, str)}
        self._configured = frozenset(url.rstrip("/") for url in configured)

    def read(self, url: str) -> Endpoint:
        """An endpoint taken apart. Raises EndpointRefused."""
        try:
            return read_endpoint(url)
        except ValueError as error:
            raise EndpointRefused(f"the endpoint {error}") from None

    def judge(self, url: str, endpoint: Endpoint, resolved: Sequence[Address], own: Collection[Address]) -> str:
        """The endpoint as gateways may dial it.

        `resolved` is what the endpoint's host resolves to, itself if it is an address; `own` are the node's addresses.
        Raises EndpointRefused.
        """
        if not resolved:
            raise EndpointRefused("the endpoint's name does not resolve on the control plane; announce its address")
        for address in resolved:
            if why := forbidden(address):
                raise EndpointRefused(f"the endpoint's address {address} {why}; no setting allows it")
        if not self._admitted(url, endpoint, resolved, own):
            where = f"{endpoint.host} ({resolved[0]})" if endpoint.address is None else endpoint.host
            raise EndpointRefused(
                f"the endpoint's host {where} is not the node's own; if it may be, list it in control.allowed_endpoints"
            )
        if endpoint.address is not None or endpoint.local_name or endpoint.scheme == "https":
            return url
        return endpoint.at(next((one for one in resolved if one in own), resolved[0]))

    def _admitted(self, url: str, endpoint: Endpoint, resolved: Sequence[Address], own: Collection[Address]) -> bool:
        if url.rstrip("/") in self._configured or endpoint.host in self._names:
            return True
        return all(plain(one) in own or self._allowed(plain(one)) for one in resolved)

    def _allowed(self, address: Address) -> bool:
        return any(address in network for network in self._networks if network.version == address.version)


def peer_address(peer: str) -> Address | None:
    """The address in gRPC's name of a peer ("ipv4:10.0.0.2:4711", "ipv6:%5B::1%5D:4711"); None for a Unix socket."""
    kind, _, rest = peer.partition(":")
    if kind not in {"ipv4", "ipv6"}:
        return None
    host = rest.rpartition(":")[0].replace("%5B", "").replace("%5D", "").strip("[]").partition("%")[0]
    try:
        return plain(ipaddress.ip_address(host))
    except ValueError:
        return None
