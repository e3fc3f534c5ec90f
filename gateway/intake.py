"""Bodies of clients: bounded in size and time, and never trusted to be what they say.

A body is refused by its announced length before it is read, and by what arrives while it is read. A
client has to keep sending: a stall, or a trickle below a minimal rate, ends as 408. Compressed JSON is
expanded here under the same bound.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Mapping

from gateway.exchange import Exchange
from gateway.server.body import BodyError
from gateway.server.request import text
from geniehive.errors import InvalidRequest, PayloadTooLarge, RequestTimeout, UnsupportedMediaType

_MIN_RATE = 500  # bytes a second, over the whole body: a trickle is an attack (as Apache's mod_reqtimeout has it)
_WINDOW_BITS = {"gzip": 16 + zlib.MAX_WBITS, "x-gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}
_EXPANDED_AT_ONCE = 1024 * 1024


class ClientBody:
    """A request's body, piece by piece."""

    __slots__ = ("_cap", "_content", "_deadline", "_exchange", "_timeout_s", "received")

    def __init__(self, exchange: Exchange, *, cap: int, timeout_s: float) -> None:
        length = exchange.request.content_length
        if length is not None and length > cap:
            raise _too_large(length, cap)
        self._exchange = exchange
        self._content = exchange.request.body
        self._cap = cap
        self._timeout_s = timeout_s
        self._deadline = exchange.now() + timeout_s
        self.received = 0

    async def read(self) -> bytes:
        """The next piece; empty at the end. Raises RequestTimeout, PayloadTooLarge or InvalidRequest."""
        if self._exchange.interruption is not None:
            raise self._exchange.interruption
        began = self._exchange.now()
        latest = min(began + self._timeout_s, self._deadline + self.received / _MIN_RATE)
        try:
            async with asyncio.timeout_at(latest):
                piece = await self._content.read()
        except TimeoutError:
            raise RequestTimeout(f"the body did not arrive within {self._timeout_s:g} s; send it faster") from None
        except BodyError as error:
            raise InvalidRequest("the body is not valid HTTP: its length or its chunks are wrong") from error
        finally:
            self._exchange.body_seconds += self._exchange.now() - began
        self._count(len(piece))
        return piece

    async def all(self) -> bytes:
        """The whole body."""
        whole = self._content.whole()
        if whole is not None:  # it came with its headers
            self._count(len(whole))
            return whole
        pieces = []
        while piece := await self.read():
            pieces.append(piece)
        return b"".join(pieces)

    def _count(self, size: int) -> None:
        self.received += size
        self._exchange.body_bytes = self.received
        if self.received > self._cap:
            raise PayloadTooLarge(f"the body is larger than {self._cap} bytes")


def at_hand(exchange: Exchange, cap: int) -> bytes | None:
    """A JSON body as most come: declared as such, plain, and complete with its head. None: see `read_json`.

    Raises PayloadTooLarge.
    """
    fields, body = exchange.request.fields, exchange.request.body
    if (
        not body.complete
        or fields.get(b"content-type") != b"application/json"
        or b"content-encoding" in fields
        or b"expect" in fields
    ):
        return None
    whole = body.whole()
    if whole is None:
        return None
    if len(whole) > cap:
        raise _too_large(len(whole), cap)
    exchange.body_bytes = len(whole)
    return whole


def _too_large(size: int, cap: int) -> PayloadTooLarge:
    return PayloadTooLarge(f"the body has {size} bytes; at most {cap} are taken")


async def read_json(exchange: Exchange, *, cap: int, timeout_s: float) -> bytes:
    """A JSON body as bytes, expanded where it was compressed; not yet checked to be JSON."""
    fields = exchange.request.fields
    kind = fields.get(b"content-type")
    if kind != b"application/json":
        check_type(None if kind is None else text(kind), "application/json")
    if b"content-encoding" in fields or b"expect" in fields:
        return await _read_encoded(exchange, fields, cap, timeout_s)
    return await ClientBody(exchange, cap=cap, timeout_s=timeout_s).all()


async def _read_encoded(exchange: Exchange, fields: Mapping[bytes, bytes], cap: int, timeout_s: float) -> bytes:
    encoding = text(fields.get(b"content-encoding", b"")).strip().lower()
    if encoding not in {"", "identity"} and encoding not in _WINDOW_BITS:
        raise UnsupportedMediaType(f"content-encoding {encoding[:32]!a} is not taken; send gzip, deflate or none")
    body = ClientBody(exchange, cap=cap, timeout_s=timeout_s)
    await welcome(exchange)
    raw = await body.all()
    return await asyncio.to_thread(expand, raw, encoding, cap) if encoding in _WINDOW_BITS else raw


async def welcome(exchange: Exchange) -> None:
    """Tell a client that asked first that its body is wanted (RFC 9110, 10.1.1)."""
    expected = exchange.request.fields.get(b"expect")
    if expected is None:
        return
    if expected.lower() != b"100-continue":
        raise InvalidRequest("`Expect` is understood with 100-continue only")
    exchange.request.connection.welcome()


def check_type(given: str | None, wanted: str) -> None:
    """Refuse a body that does not say that it is what the route takes."""
    if given == wanted:
        return
    kind, _, parameters = (given or "").partition(";")
    if kind.strip().lower() != wanted:
        raise UnsupportedMediaType(f"send content-type: {wanted}, not {(given or 'none')[:64]!a}")
    for parameter in parameters.split(";"):
        name, _, value = parameter.partition("=")
        if name.strip().lower() == "charset" and value.strip().strip('"').lower() not in {"utf-8", "utf8"}:
            raise UnsupportedMediaType(f"the charset must be utf-8, not {value.strip()[:32]!a}")


def expand(raw: bytes, encoding: str, cap: int) -> bytes:
    """Decompress; bounded by the size that comes out. Raises InvalidRequest or PayloadTooLarge."""
    expander = zlib.decompressobj(_WINDOW_BITS[encoding])
    out, size = [], 0
    try:
        while raw:
            piece = expander.decompress(raw, _EXPANDED_AT_ONCE)
            size += len(piece)
            if size > cap:
                raise PayloadTooLarge(f"the body is larger than {cap} bytes once it is expanded")
            out.append(piece)
            raw = expander.unconsumed_tail
    except zlib.error:
        raise InvalidRequest(f"the body is not valid {encoding}") from None
    if not expander.eof or expander.unused_data:
        raise InvalidRequest(f"the body is not valid {encoding}: it is cut short or followed by something else")
    return b"".join(out)
