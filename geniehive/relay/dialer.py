"""Makes connections: a name becomes addresses, the addresses are tried in turn, all within one timeout.

What a name resolves to is kept for a minute, the address that answered first. Each address gets its share
of the time that is left, so one that swallows packets does not use up the time of the next.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import ssl
from collections.abc import Callable

from geniehive.endpoints import forbidden
from geniehive.relay.connection import Connection
from geniehive.relay.failures import Refused, refused
from geniehive.relay.request import Origin

_NAMES_S = 60.0
_MOST_NAMES = 4096


class Dialer:
    """Dials origins. `tls` is what certificates are checked by; the system's if it is None."""

    def __init__(self, loop: asyncio.AbstractEventLoop, timeout_s: float, tls: ssl.SSLContext | None) -> None:
        self._loop = loop
        self._timeout_s = timeout_s
        self._tls = tls
        self._names: dict[tuple[str, int], tuple[float, list[str]]] = {}

    async def dial(self, origin: Origin, make: Callable[[], Connection]) -> Connection:
        """A new connection. Raises Refused."""
        try:
            async with asyncio.timeout(self._timeout_s):
                return await self._first_of(origin, await self._addresses(origin), make)
        except TimeoutError:
            raise refused("connecting took too long") from None

    async def _first_of(self, origin: Origin, addresses: list[str], make: Callable[[], Connection]) -> Connection:
        deadline = self._loop.time() + self._timeout_s
        failure: Refused | None = None
        for at, address in enumerate(tuple(addresses)):
            share = (deadline - self._loop.time()) / (len(addresses) - at)
            try:
                async with asyncio.timeout(share):
                    connection = await self._connect(origin, address, make)
            except OSError as error:  # TimeoutError is one
                failure = refused(_reason(error))
                continue
            if at:  # this one first, next time
                addresses.remove(address)
                addresses.insert(0, address)
            return connection
        self._names.pop((origin.host, origin.port), None)
        raise failure or refused("its name does not resolve")

    async def _connect(self, origin: Origin, address: str, make: Callable[[], Connection]) -> Connection:
        tls = self._context() if origin.tls else None
        transport, connection = await self._loop.create_connection(
            make, address, origin.port, ssl=tls, server_hostname=origin.host if tls is not None else None
        )
        sock = transport.get_extra_info("socket")
        if sock is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        return connection

    async def _addresses(self, origin: Origin) -> list[str]:
        """Addresses of a host; an address is its own."""
        if _is_address(origin.host):
            return _permitted([origin.host])
        key, now = (origin.host, origin.port), self._loop.time()
        until, known = self._names.get(key, (0.0, []))
        if until > now:
            return known
        try:
            found = await self._loop.getaddrinfo(origin.host, origin.port, type=socket.SOCK_STREAM)
        except OSError:
            raise refused("its name does not resolve") from None
        if len(self._names) >= _MOST_NAMES:
            self._names.clear()
        addresses = _permitted(list(dict.fromkeys(str(each[4][0]) for each in found)))
        self._names[key] = (now + _NAMES_S, addresses)
        return addresses

    def _context(self) -> ssl.SSLContext:
        if self._tls is None:
            self._tls = ssl.create_default_context()  # reads the system's certificates: only where it is needed
        return self._tls


def _permitted(addresses: list[str]) -> list[str]:
    """The addresses that may be dialled. Raises Refused if a name leads only where nobody may be sent."""
    found = [one for one in addresses if not forbidden(ipaddress.ip_address(one.partition("%")[0]))]
    if not found:
        raise refused("its address is one that no engine has")
    return found


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _reason(error: OSError) -> str:
    """In words, without the address."""
    match error:
        case TimeoutError():
            return "connecting took too long"
        case ssl.SSLCertVerificationError():
            return "its certificate is not valid"
        case ssl.SSLError():
            return "TLS failed"
        case ConnectionRefusedError():
            return "refused"
        case ConnectionResetError():
            return "connection reset"
        case _:
            return "unreachable"
