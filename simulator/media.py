"""[pure] What simulated media engines make, out of nothing but the request: sounds, pictures and scores to check.

A sound is a tone for each word, as high as the voice and the word say; a picture is a gradient of colours that its
prompt stands for; a document's score is the share of the query's words that it has. The same request gives the same
bytes.
"""

from __future__ import annotations

import hashlib
import math
import struct
import zlib
from collections.abc import Iterator
from typing import Final

RATE: Final = 24_000
"""Samples a second, one channel, 16 bits, as Kokoro speaks."""
_WORD_S: Final = 0.06
_LOUD: Final = 8_000
_ENDLESS: Final = 0xFFFFFFFF


def spoken(text: str, voice: str = "", speed: float = 1.0) -> Iterator[bytes]:
    """A piece of PCM for each word."""
    samples = max(1, int(RATE * _WORD_S / min(max(speed, 0.25), 4.0)))
    for word in text.split():
        pitch = 120 + _number(f"{voice}/{word}") % 600
        waves = (int(_LOUD * math.sin(2 * math.pi * pitch * at / RATE)) for at in range(samples))
        yield struct.pack(f"<{samples}h", *waves)


def wav_head(size: int | None = None) -> bytes:
    """The head of a WAV file; without a size that of a stream, whose end nobody knows yet."""
    data = _ENDLESS if size is None else size
    whole = _ENDLESS if size is None else size + 36
    head = struct.pack("<4sI4s4sIHHIIHH", b"RIFF", whole, b"WAVE", b"fmt ", 16, 1, 1, RATE, RATE * 2, 2, 16)
    return head + struct.pack("<4sI", b"data", data)


def picture(prompt: str, width: int = 64, height: int = 64, turn: int = 0) -> bytes:
    """A PNG; `turn` tells the pictures of one request apart."""
    red, green, blue = hashlib.sha256(f"{prompt}/{turn}".encode()).digest()[:3]
    row = b"".join(bytes((red, green, (blue + at) % 256)) for at in range(width))
    raw = b"".join(b"\x00" + row for _ in range(height))
    size = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", size), (b"IDAT", zlib.compress(raw)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, data) for kind, data in chunks)


def relevance(query: str, document: str) -> float:
    """The share of the query's words that the document has, 0 to 1."""
    wanted = set(query.casefold().split())
    return len(wanted & set(document.casefold().split())) / len(wanted) if wanted else 0.0


def heard(audio: bytes) -> str:
    """What is in a recording: how long it is, if it is ours, and how large."""
    if audio[:4] == b"RIFF" and audio[8:12] == b"WAVE":
        return f"{(len(audio) - 44) / 2 / RATE:.2f} seconds of sound"
    return f"{len(audio)} bytes of sound"


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _number(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")
