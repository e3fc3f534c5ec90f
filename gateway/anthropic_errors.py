"""Errors in Anthropic's shape: `{"type": "error", "error": {"type", "message"}, "request_id"}`.

https://platform.claude.com/docs/en/api/errors. They are made from those in OpenAI's envelope, so that
every layer of the gateway says the same in both.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

from gateway.answers import Whole
from gateway.errors import message_in
from geniehive.errors import GenieHiveError, wire_of

VERSION_HEADER: Final = "anthropic-version"
MESSAGES: Final = "/v1/messages"
_TYPES: Final = {
    400: "invalid_request_error", 401: "authentication_error", 403: "permission_error", 404: "not_found_error",
    408: "timeout_error", 413: "request_too_large", 429: "rate_limit_error", 503: "overloaded_error",
    504: "timeout_error", 529: "overloaded_error",
}  # fmt: skip


def speaks_anthropic(path: str, headers: Mapping[str, str]) -> bool:
    """Whether a request is of an Anthropic client: by its route, or by the header that all of them send."""
    return path.startswith(MESSAGES) or VERSION_HEADER in headers


def in_anthropics_shape(status: int, body: bytes, request_id: str) -> bytes:
    """The error that stands in OpenAI's envelope."""
    kind = _TYPES.get(status) or ("invalid_request_error" if status < 500 else "api_error")
    error = {"type": kind, "message": message_in(body) or f"the request failed with status {status}"}
    return msgspec.json.encode({"type": "error", "error": error, "request_id": request_id})


def ending(error: GenieHiveError, body: bytes, request_id: str) -> bytes:
    """The end of a stream of Messages that broke; `body` is the error in OpenAI's envelope."""
    shaped = in_anthropics_shape(wire_of(error).status, body, request_id)
    return b"event: error\ndata: " + shaped + b"\n\n"


def reshape(response: Whole, request_id: str) -> None:
    """Bring an error that has not gone out into Anthropic's shape."""
    response.content = in_anthropics_shape(response.status, response.content, request_id)
