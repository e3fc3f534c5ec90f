"""Fingerprints of prompts, to know which engine has read the beginning of one before.

A fingerprint is a list of marks, each with a checksum of what stands before it. Marks stand at fixed
offsets, one an octave, and at the ends of the first and of the last messages: so a shared system prompt,
and the whole of the turn before, are found exactly, and of anything else at least half. The checksum is a
running CRC-32 (C speed) over the stretches between fixed offsets; of a long stretch only its two ends are
read, so that the cost does not grow with the prompt. What stands before a mark decides its checksum,
whatever comes after it; with the offset beside it two prompts are hardly ever confused, and if they are, a
request goes to an engine that is not warm for it.
"""

from __future__ import annotations

from typing import NamedTuple
from zlib import crc32

_FIXED = tuple(1 << octave for octave in range(10, 25))  # 1024, 2048, 4096, ... bytes
_MESSAGE = b'{"role"'  # as clients and their SDKs begin a message
_LAST = 4  # messages from the end whose beginning is marked, beside the second of all
_REACH = 16384  # bytes from the start and from the end in which beginnings of messages are looked for
_WHOLE = 1024  # a stretch of at most so many bytes is read whole
_END = 256  # of a longer one so many from the start and from the end
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
        if each:
            start += len(each)
            running = crc32(each[-_WHOLE:], crc32(each[:_WHOLE], running))
    cuts = _cuts(prompt)
    end = cuts[-1]
    keys: list[int] = []
    at, place = 0, 0  # the last fixed mark, and the next cut
    for fixed in _FIXED:
        if fixed >= end:
            break
        while (cut := cuts[place]) < fixed:
            reach = at + _END if cut - at > _WHOLE else cut
            key = crc32(prompt[at:reach], running)
            keys.append((key if reach == cut else crc32(prompt[cut - _END : cut], key)) | (start + cut) << _OFFSET_BITS)
            place += 1
        if fixed - at > _WHOLE:
            running = crc32(prompt[fixed - _END : fixed], crc32(prompt[at : at + _END], running))
        else:
            running = crc32(prompt[at:fixed], running)
        keys.append(running | (start + fixed) << _OFFSET_BITS)
        at = fixed
        if cut == fixed:
            place += 1
    for cut in cuts[place:]:
        reach = at + _END if cut - at > _WHOLE else cut
        key = crc32(prompt[at:reach], running)
        keys.append((key if reach == cut else crc32(prompt[cut - _END : cut], key)) | (start + cut) << _OFFSET_BITS)
    return Prefix(start + end, tuple(keys))


def offset(key: int) -> int:
    """How many bytes stand before the mark of this key."""
    return key >> _OFFSET_BITS


def _cuts(prompt: bytes) -> list[int]:
    """Ends of messages that are marked, in order; the last one is the end (of the last message, if there are any)."""
    end = len(prompt) - (prompt[-1:] == b"]")
    found = [end]
    at, low = end, end - _REACH if end > _REACH else 2
    for _ in range(_LAST):
        at = prompt.rfind(_MESSAGE, low, at)
        if at < 0:
            break
        found.append(_end_before(prompt, at))
    if at > 0 or low > 2:
        at = prompt.find(_MESSAGE, 2, min(found[-1], _REACH))
        if at > 0:
            found.append(_end_before(prompt, at))
    found.reverse()
    return found


def _end_before(prompt: bytes, at: int) -> int:
    """The end of the message before the one at `at`: in front of the comma, and of white space."""
    at -= 1
    if prompt[at - 1] == 0x7D:  # "},{": the usual case
        return at
    while at > 0 and prompt[at - 1] in b", \n\t":
        at -= 1
    return at
