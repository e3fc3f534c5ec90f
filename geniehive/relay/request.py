"""[pure] What is sent: a URL becomes an origin and a path, a request the bytes of its head."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Mapping
from functools import lru_cache
from typing import NamedTuple
from urllib.parse import urlsplit

import msgspec

Body = bytes | AsyncIterator[bytes]

_PORTS = {"http": 80, "https": 443}
_TARGET = re.compile(r"[!-~]+")  # visible ASCII: what may stand in a request line
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9a-z-]+")
_METHODS = frozenset(
    {"DELETE", "GET", "PATCH", "POST", "PUT"}
)  # HEAD is not: its answer announces a body that never comes
_FRAMING = frozenset({"host", "connection", "transfer-encoding"})  # the relay's own to set


class UpstreamRequest(msgspec.Struct, frozen=True):
    """What to send; `body` as an iterator is sent chunked unless the headers give its length."""

    method: str
    url: str
    headers: Mapping[str, str]
    body: Body
    lines: str = ""
    """More headers, as they are sent, each with its line's end: known to be good, and not looked at."""


class Origin(NamedTuple):
    """Whom to dial. `host` is a name or an address without brackets."""

    host: str
    port: int
    tls: bool


class Target(NamedTuple):
    """Where a request goes."""

    origin: Origin
    lines: str
    """What stands behind the method: the rest of the request line, and the Host header."""


def target(url: str) -> Target:
    """Take a URL apart. Raises ValueError, saying what is wrong with it."""
    parts = urlsplit(url)
    default = _PORTS.get(parts.scheme)
    if default is None:
        raise ValueError(f"an endpoint starts with http:// or https://, not with {parts.scheme[:20]!r}")
    if not parts.hostname:
        raise ValueError("the endpoint names no host")
    if parts.username is not None or parts.password is not None:
        raise ValueError("an endpoint has no user name; set the service's api_key")
    host = parts.hostname if parts.hostname.isascii() else parts.hostname.encode("idna").decode("ascii")
    port = default if parts.port is None else parts.port
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    shown = f"[{host}]" if ":" in host else host
    authority = shown if port == default else f"{shown}:{port}"
    if not _TARGET.fullmatch(path) or not _TARGET.fullmatch(authority):
        raise ValueError("the endpoint has characters that no URL may have")
    lines = f" {path} HTTP/1.1\r\nhost: {authority}\r\n"
    return Target(Origin(host, port, parts.scheme == "https"), lines)


def head(method: str, to: Target, headers: Mapping[str, str], length: int | None, lines: str = "") -> bytes:
    """The request line and the headers, whose names are in lower case; `length` None is a chunked body.

    Raises ValueError for headers that would break out of their line, or that frame the message.
    """
    if method not in _METHODS:
        raise ValueError(f"the method {method[:20]!r} is not spoken")
    if headers:
        lines += _checked(headers)
    if length is None:
        framing = "transfer-encoding: chunked\r\n"
    else:
        framing = "" if "content-length" in headers else f"content-length: {length}\r\n"
    return f"{method}{to.lines}{lines}{framing}\r\n".encode("latin-1")


def _checked(headers: Mapping[str, str]) -> str:
    if not _names_fit(tuple(headers)):
        raise ValueError("a header has a name that cannot be sent")
    lines = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
    if lines.count("\n") != len(headers) or lines.count("\r") != len(headers) or "\0" in lines:
        raise ValueError("a header has a value that cannot be sent")
    return lines


@lru_cache(maxsize=256)
def _names_fit(names: tuple[str, ...]) -> bool:
    """Whether these may be names of headers here; the same few come with every request."""
    return _FRAMING.isdisjoint(names) and all(map(_NAME.fullmatch, names))
