"""[pure] Whether an answer is right, as a share of 0 to 1.

Only what can be judged without another model is judged: a known result, facts that must be there, a
length, an order, a distance. A model that thinks aloud is judged by the end of what it says.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

_NUMBER = re.compile(r"-?\d+(?:[.,]\d+)*")
_WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)?")


def result(text: str, expected: str) -> float:
    """1 if the last number, or the last line, of a text is the expected one."""
    if _NUMBER.fullmatch(expected):
        numbers = [found.replace(",", "") for found in _NUMBER.findall(text)]
        return float(bool(numbers) and _same_number(numbers[-1], expected))
    lines = [line for line in text.splitlines() if line.strip()]
    return float(bool(lines) and _has(lines[-1], expected))


def facts(text: str, needed: Sequence[str], most_words: int) -> float:
    """The share of needed facts that are in a text, halved where it is longer than asked. "a|b" is either."""
    found = sum(any(_has(text, one) for one in fact.split("|")) for fact in needed)
    share = found / len(needed) if needed else float(bool(text.strip()))
    return share if len(_WORD.findall(text)) <= most_words else share / 2


def sequence(text: str, first: int, last: int) -> float:
    """How far a text counts from `first` to `last` without a slip: 1 is to the end."""
    expected, whole = first, last - first + 1
    for word in _NUMBER.findall(text):
        if word != str(expected):
            break
        expected += 1
    return min(1.0, (expected - first) / whole)


def closer(anchor: Sequence[float], near: Sequence[float], far: Sequence[float]) -> float:
    """1 if the anchor's vector is more like the near one's than the far one's, by cosine."""
    return float(_cosine(anchor, near) > _cosine(anchor, far))


def heard(text: str, said: str) -> float:
    """1 minus the word error rate of a transcript, not below 0; case and punctuation do not count."""
    reference, found = _plain(said), _plain(text)
    if not reference:
        return float(not found)
    row = list(range(len(found) + 1))
    for i, word in enumerate(reference, 1):
        previous, row[0] = row[0], i
        for j, other in enumerate(found, 1):
            previous, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, previous + (word != other))
    return max(0.0, 1 - row[-1] / len(reference))


def _plain(text: str) -> list[str]:
    return _WORD.findall(text.casefold())


def _has(text: str, words: str) -> bool:
    """Whether the words stand in a text, whole and in this order."""
    return f" {' '.join(_plain(words))} " in f" {' '.join(_plain(text))} "


def _same_number(one: str, other: str) -> bool:
    try:
        return math.isclose(float(one), float(other))
    except ValueError:
        return False


def _cosine(one: Sequence[float], other: Sequence[float]) -> float:
    size = math.hypot(*one) * math.hypot(*other)
    return sum(a * b for a, b in zip(one, other, strict=True)) / size if size else 0.0
