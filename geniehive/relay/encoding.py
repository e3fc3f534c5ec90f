"""[pure] Bodies that an engine compressed although it was asked not to."""

from __future__ import annotations

import zlib

from geniehive.relay.failures import broken_off

_AT_ONCE = 1024 * 1024  # what one call expands to at most: a bomb goes off in pieces, under the caller's bounds
_GZIP = 16 + zlib.MAX_WBITS


class Decoder:
    """Expands one body, gzip or deflate, as it arrives."""

    __slots__ = ("_coding", "_full", "_rest", "_zlib")

    def __init__(self, coding: str) -> None:
        self._coding = coding
        self._zlib = zlib.decompressobj(_GZIP) if coding == "gzip" else None
        self._rest = b""
        self._full = False  # the last call gave as much as it may: there may be more inside

    @property
    def pending(self) -> bool:
        """Whether `decode` would give more without new bytes."""
        return self._full or bool(self._rest)

    def decode(self, data: bytes) -> bytes:
        """What these bytes expand to, or the first mebibyte of it. Raises UpstreamUnavailable for rubbish."""
        data = self._rest + data
        if not data and not self._full:
            return b""
        if self._zlib is None:
            # "deflate" should be zlib's format; some servers send it without the wrapper.
            self._zlib = zlib.decompressobj(zlib.MAX_WBITS if data[0] & 0x0F == 8 else -zlib.MAX_WBITS)
        try:
            found = self._zlib.decompress(data, _AT_ONCE)
        except zlib.error:
            raise broken_off("its compression is broken") from None
        self._rest, self._full = self._zlib.unconsumed_tail, len(found) >= _AT_ONCE
        if self._zlib.eof and self._coding == "gzip" and self._zlib.unused_data:
            self._rest, self._zlib = self._zlib.unused_data, zlib.decompressobj(_GZIP)  # a further member
        return found

    def close(self) -> None:
        """The body is over. Raises UpstreamUnavailable if something is missing of it."""
        if self._zlib is not None and not self._zlib.eof:
            raise broken_off("its compressed body is cut short")


def decoder(content_encoding: str) -> Decoder | None:
    """For the value of a Content-Encoding header; None if nothing is encoded. Raises UpstreamUnavailable."""
    coding = content_encoding.strip().lower()
    if coding in {"", "identity"}:
        return None
    if coding in {"gzip", "x-gzip", "deflate"}:
        return Decoder(coding.removeprefix("x-"))
    raise broken_off(f"it is compressed as {coding[:20]!a}, which was not asked for")
