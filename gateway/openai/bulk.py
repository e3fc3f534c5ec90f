"""[pure] How much is in a JSON document, told from its bytes before anything is made of them.

A decoder holds the interpreter until it is through, so what it is given decides how long all other
requests wait. Bytes cost it little, values and keys much: 30 MB of `[],[],…` take seconds, a picture of
30 MB milliseconds. So a large document is counted first, cheaply with all that stands in its texts, and
only if that is too much, exactly. As far as a document is valid, the exact count is right; behind that
no decoder goes.
"""

from __future__ import annotations

from collections.abc import Iterator

from geniehive.errors import InvalidRequest

AT_ONCE = 256 * 1024
"""Bytes up to which a document need not be counted, nor decoded aside of the event loop: 20 ms at most."""
MAX_VALUES = 400_000
"""Commas; an embeddings request of token ids, which has most, is 300,000 of them at OpenAI."""
MAX_KEYS = 100_000
"""Colons."""
MAX_CONTAINERS = 100_000
"""Objects and lists."""
_PIECE = 256 * 1024
_RARE = 200

_UNCOUNTED = 1024 * 1024  # bytes up to which commas and colons, which texts are full of, are not counted

_COSTLY = ((b"{", MAX_CONTAINERS, "objects"), (b"[", MAX_CONTAINERS, "lists"))
_LIMITS = (*_COSTLY, (b",", MAX_VALUES, "values"), (b":", MAX_KEYS, "keys"))


def check_bulk(raw: bytes) -> None:
    """Raises InvalidRequest for a document that has more in it than a request may need."""
    limits = _COSTLY if len(raw) <= _UNCOUNTED else _LIMITS
    suspected = [limit for limit in limits if _may_exceed(raw, limit[0], limit[1])]
    if not suspected:
        return
    counts = [0] * len(suspected)
    for piece in _outside_of_texts(raw):
        for at, (mark, limit, what) in enumerate(suspected):
            counts[at] += piece.count(mark)
            if counts[at] > limit:
                raise InvalidRequest(f"the body has more than {limit} {what}; send it in several requests")


def _may_exceed(raw: bytes, mark: bytes, limit: int) -> bool:
    """Whether a byte is there so often, in texts and outside of them. One that is rare is found faster than counted."""
    at = -1
    for _ in range(_RARE):
        at = raw.find(mark, at + 1)
        if at < 0:
            return False
    return raw.count(mark) > limit


def _outside_of_texts(raw: bytes) -> Iterator[bytes]:
    """What stands between the texts, in pieces small enough that other threads get their turn."""
    inside, escape = 0, b""
    for at in range(0, len(raw), _PIECE):
        piece = escape + raw[at : at + _PIECE]
        half = (len(piece) - len(piece.rstrip(b"\\"))) % 2  # an escape whose second half is in the next piece
        escape, piece = (b"\\", piece[:-1]) if half else (b"", piece)
        parts = piece.replace(b"\\\\", b"").replace(b'\\"', b"").split(b'"')
        yield b"".join(parts[inside::2])
        inside ^= (len(parts) - 1) % 2
