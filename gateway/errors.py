"""Errors as clients see them: OpenAI's envelope with all four keys, the same from every layer.

`geniehive.errors.WIRE` says what an error is on the wire; here it becomes bytes: a response, or an
event at the end of a stream whose status has long been sent. What an engine says about a request is
brought into the same envelope, whatever shape it came in.
"""

from __future__ import annotations

import math
from typing import Any

import msgspec

from gateway import web
from geniehive.errors import GenieHiveError, UpstreamError, Wire, wire_of

JSON = "application/json"
NO_STREAMS = "the engine gives this whole: ask without a stream"
_LONGEST_MESSAGE = 2000  # of an engine's words; more is a page, not a message
_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
_CODES = {400: "invalid_request", 404: "not_found", 413: "payload_too_large", 429: "rate_limit_exceeded"}
# The openai SDK repeats these by itself; anything else it repeats only from 500 on.
_REPEATED_BY_CLIENTS = frozenset({408, 409, 429})


def envelope(message: str, kind: str, code: str | None, param: str | None = None) -> bytes:
    """An error body in OpenAI's shape; all four keys are always there."""
    return msgspec.json.encode({"error": {"message": message, "type": kind, "param": param, "code": code}})


def error_body(error: BaseException) -> bytes:
    """The body for an error; one that is not ours says nothing of its inside."""
    wire = wire_of(error)
    if isinstance(error, GenieHiveError):
        return envelope(error.message, wire.type, wire.code, error.param)
    return envelope("the gateway failed; its log has the reason under this request's id", wire.type, wire.code)


def error_event(error: BaseException) -> bytes:
    """The error as a server-sent event: the end of a stream that could not be finished."""
    return b"data: " + error_body(error) + b"\n\n"


def error_headers(error: BaseException, *, attempts: int = 0) -> dict[str, str]:
    """`Retry-After` and `x-should-retry`.

    A client must not repeat what is permanent, nor what the gateway has already repeated for it.
    """
    headers = {"content-type": JSON}
    if isinstance(error, GenieHiveError) and error.retry_after_s is not None:
        headers["retry-after"] = str(max(1, math.ceil(error.retry_after_s)))
    wire = wire_of(error)
    if not wire.retryable or (attempts and isinstance(error, UpstreamError) and "retry-after" not in headers):
        headers["x-should-retry"] = "false"
    return headers


def error_response(
    error: BaseException, *, attempts: int = 0, headers: dict[str, str] | None = None, status: int | None = None
) -> web.Response:
    """The whole answer for an error."""
    wire: Wire = wire_of(error)
    return web.Response(
        status=status or wire.status,
        body=error_body(error),
        headers={**error_headers(error, attempts=attempts), **(headers or {})},
    )


def passed_on(status: int, body: bytes) -> bytes:
    """An engine's error body in OpenAI's envelope; untouched where it already has all four keys."""
    found = _found(body)
    if isinstance(found, dict):
        if isinstance(found.get("message"), str) and found.keys() >= {"message", "type", "param", "code"}:
            return body
        message = found.get("message")
        text = message if isinstance(message, str) else msgspec.json.encode(found).decode()
        code = found.get("code")
        kind = found.get("type")
        return envelope(
            text[:_LONGEST_MESSAGE],
            kind if isinstance(kind, str) else _kind(status),
            code if isinstance(code, str) else _CODES.get(status),
            found.get("param") if isinstance(found.get("param"), str) else None,
        )
    text = found if isinstance(found, str) and found.strip() else f"the engine answered {status}"
    return envelope(text.strip()[:_LONGEST_MESSAGE], _kind(status), _CODES.get(status))


def message_in(body: bytes) -> str:
    """What an engine's error body says, in one line; empty if it says nothing."""
    found = _found(body)
    if isinstance(found, dict):
        found = found.get("message")
    return " ".join(found.split())[:_LONGEST_MESSAGE] if isinstance(found, str) else ""


def should_repeat(status: int) -> bool:
    """Whether a client may usefully repeat a request that an engine answered with this status."""
    return status in _REPEATED_BY_CLIENTS


def _kind(status: int) -> str:
    return _TYPES.get(status, "invalid_request_error" if status < 500 else "upstream_error")


def _found(body: bytes) -> Any:
    """The error inside a body: OpenAI's `error` object, Ollama's bare string, FastAPI's `detail`, plain text."""
    try:
        value = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        text = body[:_LONGEST_MESSAGE].decode("utf-8", "replace")
        return "" if text.lstrip().startswith("<") else text
    if isinstance(value, dict):
        inner = value.get("response")  # of a `response.failed`
        for each in (value, inner if isinstance(inner, dict) else {}):
            for key in ("error", "detail"):
                if each.get(key):
                    return each[key]
    return value
