"""One request as it was sent: method, path, headers; what hardly anybody asks for is made when it is asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, overload
from urllib.parse import parse_qsl, urlsplit

import msgspec

from gateway.server.body import Body

if TYPE_CHECKING:
    import asyncio

    from gateway.deadline import Alarm
    from gateway.server.connection import Connection


class Headers(Mapping[str, str]):
    """Headers by name, in any case of letters. Of one that was sent several times the first counts."""

    __slots__ = ("_fields",)

    def __init__(self, fields: Mapping[bytes, bytes]) -> None:
        self._fields = fields

    def __getitem__(self, name: str) -> str:
        return text(self._fields[name.lower().encode()])

    @overload  # type: ignore[override]  # Mapping's takes any default
    def get(self, name: str, default: str) -> str: ...

    @overload
    def get(self, name: str, default: None = None) -> str | None: ...

    def get(self, name: str, default: str | None = None) -> str | None:
        """The value of a header, or the default."""
        found = self._fields.get(name.lower().encode())
        return default if found is None else text(found)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name.lower().encode() in self._fields

    def __iter__(self) -> Iterator[str]:
        return iter([text(name) for name in self._fields])

    def __len__(self) -> int:
        return len(self._fields)


def text(value: bytes) -> str:
    """A header as text: what is not UTF-8 survives, and matches nothing."""
    return value.decode("utf-8", "surrogateescape")


class Request(msgspec.Struct, eq=False, weakref=True):
    """What a client asks."""

    connection: Connection
    method: str
    _target: str
    path: str
    """As it was sent, not decoded, without its query."""
    fields: dict[bytes, bytes]
    """The headers as bytes, names in lower case."""
    body: Body
    http10: bool
    """Whether the client is an old one."""
    keep_alive: bool
    _names: dict[str, str] | None = None

    @property
    def headers(self) -> Headers:
        """The headers as text, by name."""
        return Headers(self.fields)

    @property
    def query(self) -> dict[str, str]:
        """The parameters behind the question mark; of one that is given several times the first."""
        return dict(reversed(parse_qsl(urlsplit(self._target).query, keep_blank_values=True)))

    @property
    def content_length(self) -> int | None:
        """What the client announced; None for a body in chunks, or none at all."""
        value = self.fields.get(b"content-length")
        return None if value is None else int(value)

    @property
    def match_info(self) -> dict[str, str]:
        """Names from the path."""
        if self._names is None:
            self._names = {}
        return self._names

    def name(self, key: str, value: str) -> None:
        """Remember a name from the path."""
        self.match_info[key] = value

    @property
    def alarm(self) -> Alarm:
        """The one timer of its connection."""
        return self.connection.alarm

    @property
    def transport(self) -> asyncio.Transport | None:
        """To the client; None once it is gone."""
        return self.connection.transport

    @property
    def on_writable(self) -> Callable[[], None] | None:
        """What is called when the client takes bytes again, after it had not."""
        return self.connection.on_writable

    @on_writable.setter
    def on_writable(self, call: Callable[[], None] | None) -> None:
        self.connection.on_writable = call


def path_of(target: str) -> str:
    """The path of a target with a query, or in absolute form (RFC 9112, 3.2.2)."""
    if target.startswith("/"):
        return target.partition("#")[0].partition("?")[0]
    return (urlsplit(target).path or "/") if "://" in target else target
