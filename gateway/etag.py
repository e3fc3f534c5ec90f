"""Answers that a client may have already: told by their hash (RFC 9110, 8.8.3 and 13.1.2)."""

from __future__ import annotations

import hashlib

import msgspec

from gateway import web
from gateway.exchange import Exchange

_HELD = "private, no-cache"  # it may be kept, and must be asked for again: what is busy changes


def tagged(exchange: Exchange, value: object) -> web.Response:
    """The value as JSON with its tag; 304 without a body if that is what the client has."""
    body = msgspec.json.encode(value)
    tag = f'"{hashlib.blake2b(body, digest_size=12).hexdigest()}"'
    headers = {"etag": tag, "cache-control": _HELD}
    if matches(exchange.request.headers.get("if-none-match", ""), tag):
        return web.Response(status=304, headers=headers)
    return web.Response(body=body, content_type="application/json", headers=headers)


def matches(given: str, tag: str) -> bool:
    """Whether a list of tags has this one, weak or strong; "*" has every one."""
    tags = [each.strip().removeprefix("W/") for each in given.split(",")]
    return "*" in tags or tag in tags
