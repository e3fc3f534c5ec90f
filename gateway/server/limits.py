"""[pure] How large a request's head may be."""

from __future__ import annotations

MAX_TARGET = 16 * 1024
"""Bytes of a path with its query."""
MAX_HEADERS = 128
MAX_HEAD = 64 * 1024
"""Bytes of everything before the body."""
UNSUSPICIOUS = 4 * MAX_HEADERS
"""Bytes in which there is no room for too many headers: what is shorter need not be looked at."""

TOO_LARGE = f"the headers are too large: at most {MAX_HEADERS} are taken, and {MAX_HEAD} bytes of them all together"


class HeadSize:
    """Counts the head of one request as it comes, in however many pieces."""

    __slots__ = ("_bytes", "_lines")

    def __init__(self) -> None:
        self._bytes = self._lines = 0

    def fits(self, data: bytes) -> bool:
        """Whether the head may go on with these bytes, which may have the body's beginning behind it."""
        end = data.find(b"\r\n\r\n")
        end = len(data) if end < 0 else end
        self._bytes += end
        self._lines += data.count(b"\n", 0, end)
        return self._bytes <= MAX_HEAD and self._lines <= MAX_HEADERS
