"""The relay: one HTTP request to an engine, and its answer piece by piece.

Everything that speaks HTTP to engines is here, behind `Upstream.open` and `UpstreamResponse.read`;
nothing here knows of clients, models or attempts, so the inside can be replaced. Failures come out as
`Refused` (no connection: nothing was sent), `UpstreamUnavailable` and `UpstreamTimeout`. Redirects are
not followed and cookies not kept. Deadlines other than that of connecting belong to the caller.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Self

import aiohttp
from multidict import CIMultiDict
from yarl import URL

from geniehive.errors import UpstreamTimeout, UpstreamUnavailable

Body = bytes | AsyncIterator[bytes]
_KEPT_OPEN_S = 60.0  # of pooled connections; engines close theirs after that or later
_READ_BUFFER = 64 * 1024


class Refused(UpstreamUnavailable):
    """No connection could be made, so the engine saw nothing of the request."""


@dataclass(frozen=True, slots=True)
class UpstreamRequest:
    """What to send; `body` as an iterator is sent chunked unless the headers give its length."""

    method: str
    url: str
    headers: Mapping[str, str]
    body: Body


class UpstreamResponse:
    """An answer whose status and headers are there; `read` gives the body, decoded if it was compressed."""

    __slots__ = ("_response", "headers", "status")

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response
        self.status = response.status
        self.headers: Mapping[str, str] = response.headers

    @property
    def content_type(self) -> str:
        """The media type, lower case, without parameters; empty if the engine gave none."""
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()

    @property
    def ended(self) -> bool:
        """Whether the body was read to its end."""
        return self._response.content.at_eof()

    async def read(self) -> bytes:
        """The next piece of the body; empty at its end. Raises UpstreamUnavailable where it breaks off."""
        try:
            return await self._response.content.readany()
        except (aiohttp.ClientError, OSError) as error:
            raise UpstreamUnavailable(f"the engine broke its answer off ({_short(error)})") from error

    def close(self) -> None:
        """Give the connection back if the answer was read to its end, else close it: the engine stops working."""
        self._response.close()


class Upstream:
    """A pool of connections to engines. Use as an async context manager."""

    def __init__(self, *, connect_timeout_s: float) -> None:
        self._connect_timeout_s = connect_timeout_s
        self._session: aiohttp.ClientSession | None = None
        self._urls: dict[str, URL] = {}

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEPT_OPEN_S, ttl_dns_cache=60),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=self._connect_timeout_s),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=True,
            read_bufsize=_READ_BUFFER,
            skip_auto_headers=("User-Agent", "Content-Type", "Accept"),
            trust_env=False,
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def open(self, request: UpstreamRequest) -> UpstreamResponse:
        """Send a request and wait for the head of its answer; the caller closes what it gets."""
        if self._session is None:
            raise UpstreamUnavailable("the gateway is not running")
        try:
            response = await self._session.request(
                request.method,
                self._url(request.url),
                headers=CIMultiDict(request.headers),
                data=request.body,
                allow_redirects=False,
            )
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            raise Refused(f"no connection to the engine ({_short(error)})") from error
        except TimeoutError as error:
            raise UpstreamTimeout("the engine did not answer in time") from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise UpstreamUnavailable(f"the engine did not answer ({_short(error)})") from error
        return UpstreamResponse(response)

    def _url(self, text: str) -> URL:
        """Parsed once: there are as many as endpoints times routes."""
        url = self._urls.get(text)
        if url is None:
            if len(self._urls) >= 4096:
                self._urls.clear()
            url = self._urls[text] = URL(text, encoded=True)
        return url


def _short(error: BaseException) -> str:
    """The kind of failure without addresses: clients read this."""
    match error:
        case aiohttp.ConnectionTimeoutError():
            return "connecting took too long"
        case aiohttp.ClientConnectorDNSError():
            return "its name does not resolve"
        case aiohttp.ClientConnectorError():
            return "refused" if isinstance(error.os_error, ConnectionRefusedError) else "unreachable"
        case aiohttp.ServerDisconnectedError():
            return "closed without an answer"
        case aiohttp.ClientPayloadError():
            return "body cut short"
        case aiohttp.ClientResponseError():
            return "not a valid HTTP answer"
        case ConnectionResetError() | asyncio.IncompleteReadError():
            return "connection reset"
        case _:
            return "connection failed"
