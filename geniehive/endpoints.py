"""[pure] What an endpoint may look like, wherever it comes from, and which addresses nobody may ever be sent to.

A gateway dials what node agents announce, so an endpoint is input of the cluster and not to be trusted
(server-side request forgery). It is read strictly: addresses are written as everybody writes them, since
`2130706433`, `0x7f.1` and `0177.0.0.1` are 127.0.0.1 to some resolvers and names to others. Addresses of
cloud metadata services and such as mean no single host are refused whoever asks.
"""

from __future__ import annotations

import ipaddress
import re
from typing import NamedTuple
from urllib.parse import urlsplit

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_PORTS = {"http": 80, "https": 443}
_NAME = re.compile(
    r"(?=.{1,253}\.?\Z)(?:[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?\.)*[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?\.?"
)
# A name whose last label looks like a number is an IPv4 address to whoever follows the URL standard (WHATWG URL, 3.5).
_NUMBER = re.compile(r"(?:.*\.)?(?:[0-9]+|0[xX][0-9a-fA-F]*)\.?")
_LOCAL_NAMES = frozenset({"localhost", "localhost."})
# Metadata services of clouds that are not link-local: AWS over IPv6, Alibaba, Oracle's old one.
_METADATA = frozenset(map(ipaddress.ip_address, ("fd00:ec2::254", "100.100.100.200", "192.0.0.192")))
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


class Endpoint(NamedTuple):
    """A URL taken apart; `host` is a name in lower case, or an address without brackets."""

    scheme: str
    host: str
    port: int
    path: str
    """With its slash in front; empty if there is none."""
    address: Address | None
    """The host, if it is an address."""

    @property
    def local_name(self) -> bool:
        """Whether the host is a name that always means the machine itself (RFC 6761, 6.3)."""
        return self.host in _LOCAL_NAMES

    def at(self, address: Address) -> str:
        """The URL with an address in place of the host."""
        host = f"[{address}]" if address.version == 6 else str(address)
        port = "" if self.port == _PORTS[self.scheme] else f":{self.port}"
        return f"{self.scheme}://{host}{port}{self.path}"


def read_endpoint(url: str) -> Endpoint:
    """Take an endpoint apart. Raises ValueError with what is wrong with it, fit to follow "the endpoint"."""
    if not url.isascii() or not url.isprintable() or " " in url or "\\" in url:
        raise ValueError("has characters that no URL may have")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise ValueError("is not a URL such as http://192.168.1.20:11434") from None
    if parts.scheme not in _PORTS:
        raise ValueError(f"starts with {parts.scheme[:20]!r}; it must be http:// or https://")
    if "@" in parts.netloc:
        raise ValueError("has a user name or a password; leave them out, and set the service's api_key")
    if parts.query or parts.fragment or "?" in url or "#" in url:
        raise ValueError("has a query or a fragment; leave out what follows the path")
    host = (parts.hostname or "").lower()
    if not host or port == 0 or parts.netloc.endswith(":"):
        raise ValueError("names no host or no port that can be dialled, such as http://192.168.1.20:11434")
    address = _address(host)
    return Endpoint(parts.scheme, host, _PORTS[parts.scheme] if port is None else port, parts.path, address)


def _address(host: str) -> Address | None:
    """The host as an address, None for a name. Raises ValueError for what is only almost one of them."""
    try:
        if "%" not in host:  # a zone is of the machine that writes it, and nobody else's
            return ipaddress.ip_address(host)
    except ValueError:
        pass
    if _NUMBER.fullmatch(host) or ":" in host or "%" in host:
        raise ValueError("has an address in an odd notation; write it as 192.168.1.20 or [fd00::20]")
    if not _NAME.fullmatch(host):
        raise ValueError("has a host that is neither a name nor an address")
    return None


def forbidden(address: Address) -> str:
    """Why nobody may be sent to an address, in a few words; empty if it is an ordinary one."""
    for one in (address, *_inside(address)):
        if one.is_link_local or one in _METADATA:
            return "is link-local, where clouds keep their metadata services"
        if one.is_unspecified or one.is_multicast or (one.version == 4 and int(one) == 2**32 - 1):
            return "means no single host"
        if one.version == 4 and one in ipaddress.IPv4Network("0.0.0.0/8"):
            return "means no single host"
    return ""


def read_allowed(text: str) -> Network | str:
    """An entry of control.allowed_endpoints: a network (an address is one of its own), or a name in lower case.

    Raises ValueError with what is wrong with it.
    """
    try:
        return ipaddress.ip_network(text, strict=False)
    except ValueError:
        pass
    name = text.lower()
    if _NUMBER.fullmatch(name) or not _NAME.fullmatch(name):
        raise ValueError(f'expected a network such as 192.168.1.0/24, an address or a host name, got "{text[:80]}"')
    return name


def plain(address: Address) -> Address:
    """An address without its IPv6 wrapping (::ffff:10.0.0.1 is 10.0.0.1)."""
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


def _inside(address: Address) -> tuple[Address, ...]:
    """The IPv4 addresses that an IPv6 one leads to: mapped, 6to4, Teredo, NAT64 (RFC 4291, 3056, 4380, 6052)."""
    if not isinstance(address, ipaddress.IPv6Address):
        return ()
    found: list[Address] = [one for one in (address.ipv4_mapped, address.sixtofour, *(address.teredo or ())) if one]
    if address in _NAT64:
        found.append(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
    return tuple(found)
