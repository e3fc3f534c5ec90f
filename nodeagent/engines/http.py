"""A thin HTTP client for one engine: what is asked of engines is small, and what they answer is not trusted.

Every request has a timeout and a cap on the body (after decompression), no redirect is followed, no cookie is kept,
and the key of the engine goes out in `Authorization` and nowhere else. A status is not an error here: 404, 501 and
503 say something about an engine. What raises is the lack of an answer, as `UpstreamUnavailable` or
`UpstreamTimeout`.
"""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass
from typing import Any, Final

import aiohttp
import msgspec

from geniehive.errors import UpstreamTimeout, UpstreamUnavailable

MAX_BODY_BYTES: Final = 8 * 2**20
LOOK_TIMEOUT_S: Final = 5.0
LOAD_TIMEOUT_S: Final = 600.0
_CONTROL_CHARACTERS: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """An answer: status, content type and body; `data` is the body as JSON, None where it is not JSON."""

    status: int
    content_type: str
    body: bytes
    data: Any

    @property
    def ok(self) -> bool:
        """Whether the status is 2xx."""
        return 200 <= self.status < 300

    @property
    def text(self) -> str:
        """The body as text; bytes that are not UTF-8 are replaced."""
        return self.body.decode("utf-8", "replace")

    @property
    def complaint(self) -> str:
        """What the engine says is wrong, on one line of at most 200 characters, in any of the usual shapes."""
        said: Any = self.data
        for key in ("error", "message", "detail"):
            if isinstance(said, dict) and key in said:
                said = said[key]
        words = said if isinstance(said, str) else f"status {self.status}"
        return _CONTROL_CHARACTERS.sub(" ", words).strip()[:200]


class Http:
    """Asks one engine. `endpoint` is its base URL; a trailing slash and a trailing /v1 are dropped."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        endpoint: str,
        *,
        api_key: str = "",
        timeout_s: float = LOOK_TIMEOUT_S,
        max_body_bytes: int = MAX_BODY_BYTES,
    ) -> None:
        self._session = session
        self.endpoint = base_url(endpoint)
        self._headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._timeout_s = timeout_s
        self._max_body_bytes = max_body_bytes

    async def get(self, path: str, *, timeout_s: float | None = None) -> Reply:
        """The answer to GET. Raises UpstreamUnavailable or UpstreamTimeout where there is none."""
        return await self._ask("GET", path, None, timeout_s)

    async def post(self, path: str, body: object = None, *, timeout_s: float | None = None) -> Reply:
        """The answer to POST with a JSON body, or with none. Raises as `get`."""
        return await self._ask("POST", path, body, timeout_s)

    async def delete(self, path: str, *, timeout_s: float | None = None) -> Reply:
        """The answer to DELETE. Raises as `get`."""
        return await self._ask("DELETE", path, None, timeout_s)

    async def get_all(self, *paths: str, timeout_s: float | None = None) -> dict[str, Reply]:
        """The answers to several GETs asked at once, by path; a path that gave no answer is left out."""
        replies: dict[str, Reply] = {}

        async def ask(path: str) -> None:
            try:
                replies[path] = await self.get(path, timeout_s=timeout_s)
            except (UpstreamUnavailable, UpstreamTimeout):
                return

        async with asyncio.TaskGroup() as group:
            for path in paths:
                group.create_task(ask(path))
        return replies

    async def _ask(self, method: str, path: str, body: object, timeout_s: float | None) -> Reply:
        seconds = self._timeout_s if timeout_s is None else timeout_s
        url = self.endpoint + path
        headers, data = self._headers, None
        if body is not None:
            headers, data = {**headers, "Content-Type": "application/json"}, msgspec.json.encode(body)
        try:
            async with (
                asyncio.timeout(seconds),
                self._session.request(
                    method, url, headers=headers, data=data, allow_redirects=False, timeout=_NO_TIMEOUT
                ) as response,
            ):
                raw = await self._read(response, path)
                return Reply(
                    status=response.status, content_type=response.content_type, body=raw, data=decode_json(raw)
                )
        except TimeoutError as error:
            raise UpstreamTimeout(
                f"{url} gave no answer in {seconds:g} s: is the engine hung or overloaded?"
            ) from error
        except aiohttp.ClientConnectorError as error:
            raise UpstreamUnavailable(f"{self.endpoint} refused the connection: is the engine running?") from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise UpstreamUnavailable(f"{url} did not answer in HTTP ({type(error).__name__})") from error

    async def _read(self, response: aiohttp.ClientResponse, path: str) -> bytes:
        chunks: list[bytes] = []
        size = 0
        async for chunk in response.content.iter_any():
            size += len(chunk)
            if size > self._max_body_bytes:
                response.close()
                raise UpstreamUnavailable(
                    f"{self.endpoint}{path} answered more than {self._max_body_bytes} bytes: is it an engine?"
                )
            chunks.append(chunk)
        return b"".join(chunks)


# The timeout of `asyncio.timeout` covers all of it; the session's own would only add a second, different error.
_NO_TIMEOUT: Final = aiohttp.ClientTimeout(total=None)


def engine_session() -> aiohttp.ClientSession:
    """A session fit for engines: no cookies, no proxy from the environment, few connections to each engine."""
    return aiohttp.ClientSession(
        cookie_jar=aiohttp.DummyCookieJar(),
        connector=aiohttp.TCPConnector(limit=0, limit_per_host=16),
        trust_env=False,
        headers={"User-Agent": "geniehive-node"},
    )


def base_url(endpoint: str) -> str:
    """An endpoint without a trailing slash and without /v1, as `Service.endpoint` wants it."""
    return endpoint.strip().rstrip("/").removesuffix("/v1").rstrip("/")


def decode_json(raw: bytes) -> Any:
    """The JSON value of a body, or None where it is not JSON (NaN, bad UTF-8 and too deep nesting included)."""
    try:
        return msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
