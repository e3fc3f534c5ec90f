"""What a client meets that comes while too many others are connected: 503, and the end.

It is told so before it has said anything, and then left a moment to read it: a connection closed with
its request unread would be reset, and take the answer with it.
"""

from __future__ import annotations

import asyncio

from gateway.errors import error_body, error_headers
from geniehive.errors import Overloaded, wire_of

_LEFT_S = 1.0
_RETRY_AFTER_S = 1


class Refusal(asyncio.Protocol):
    """One connection beyond the cap."""

    def __init__(self, cap: int) -> None:
        self._cap = cap
        self._end: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio.BaseProtocol: all is said here."""
        client: asyncio.Transport = transport  # type: ignore[assignment]  # a stream's, which is no subclass in uvloop
        client.write(refusal(self._cap))
        if client.can_write_eof():  # TLS cannot
            client.write_eof()
        self._end = asyncio.get_running_loop().call_later(_LEFT_S, client.abort)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        """See asyncio.BaseProtocol."""
        if self._end is not None:
            self._end.cancel()


def refusal(cap: int) -> bytes:
    """The whole answer as bytes."""
    error = Overloaded(
        f"the gateway has {cap} connections open and takes no more; try again, or raise gateway.max_connections",
        retry_after_s=_RETRY_AFTER_S,
    )
    body = error_body(error)
    headers = {**error_headers(error), "server": "geniehive", "content-length": str(len(body)), "connection": "close"}
    lines = [f"HTTP/1.1 {wire_of(error).status} Service Unavailable", *(f"{key}: {headers[key]}" for key in headers)]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body
