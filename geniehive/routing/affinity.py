"""Fingerprints of prompts, to know which engine has read the beginning of one before.

A fingerprint is a list of marks, each with a checksum of everything before it. Marks stand at fixed
offsets, two an octave, and at the ends of the first and of the last messages: so a shared system prompt,
and the whole of the turn before, are found exactly, and anything else within a third. The checksum is a
running CRC-32 (C speed, and the same for the same bytes however they are cut); with the offset beside it
two prompts are hardly ever confused, and if they are, a request goes to an engine that is not warm for it.
"""

from __future__ import annotations

import zlib
from typing import NamedTuple

_FIXED = tuple(step << octave for octave in range(9, 24) for step in (2, 3))  # 1024, 1536, 2048, 3072, ... bytes
_MESSAGE = b'{"role"'  # as clients and their SDKs begin a message
_FIRST = 2  # messages from the start whose beginning is marked
_LAST = 4  # messages from the end
_OFFSET_BITS = 32


class Prefix(NamedTuple):
    """A prompt as routing knows it: `size` bytes, and a key for what stands before each mark, shortest first."""

    size: int
    keys: tuple[int, ...] = ()


NOTHING = Prefix(0)


def fingerprint(prompt: bytes, *before: bytes) -> Prefix:
    """The fingerprint of `prompt`: the raw JSON of `messages`, or a prompt as it is.

    `before` is what engines put ahead of the messages (the raw JSON of `tools`): it counts as one piece.
    """
    start, running = 0, 0
    for each in before:
        start += len(each)
        running = zlib.crc32(each, running)
    view = memoryview(prompt)
    keys = []
    last = 0
    for mark in _marks(prompt):
        running = zlib.crc32(view[last:mark], running)
        keys.append(running | (start + mark) << _OFFSET_BITS)
        last = mark
    return Prefix(start + last, tuple(keys))


def offset(key: int) -> int:
    """How many bytes stand before the mark of this key."""
    return key >> _OFFSET_BITS


def _marks(prompt: bytes) -> list[int]:
    """Where marks stand, in order; the last one is the end (of the last message, if there are messages)."""
    end = len(prompt) - prompt.endswith(b"]")
    marks = {end}
    at = 1
    for _ in range(_FIRST):
        at = prompt.find(_MESSAGE, at + 1)
        if at < 0:
            break
        marks.add(_end_before(prompt, at))
    at = end
    for _ in range(_LAST):
        at = prompt.rfind(_MESSAGE, 2, at)
        if at < 0:
            break
        marks.add(_end_before(prompt, at))
    for mark in _FIXED:
        if mark >= end:
            break
        marks.add(mark)
    return sorted(marks)


def _end_before(prompt: bytes, at: int) -> int:
    """The end of the message before the one at `at`: in front of the comma, and of white space."""
    while at > 0 and prompt[at - 1] in b", \n\t":
        at -= 1
    return at
