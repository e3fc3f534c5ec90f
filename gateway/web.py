"""What handlers answer with. The names and arguments are those of `aiohttp.web`, which is not loaded for them.

The gateway has its own server and its own connections to engines, so all that it would take from aiohttp are these
two classes; the package with its client is 10 MB of every worker, and its classes are slow to tell apart.
`gateway.answers` has what is written on the hot path, and brings a `Response` into that shape.
"""

from __future__ import annotations

from collections.abc import Mapping


class StreamResponse:
    """Any answer."""

    status: int = 200


class Response(StreamResponse):
    """An answer whose body is at hand. `headers` by name in lower case; a content type among them comes first."""

    def __init__(
        self,
        *,
        status: int = 200,
        body: bytes = b"",
        content_type: str = "application/octet-stream",
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.status = status
        self.body = body
        self.headers = {"content-type": content_type, **(headers or {})}
