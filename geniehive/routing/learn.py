"""What is learned of engines from finished requests: speeds by online fits, answer lengths as they come.

A fit is a line through recent samples, the older the lighter, held by a prior until there are samples:
reading a prompt takes a fixed time and so much for each new token, writing a token takes so much and a
little more for each other stream. Unknown engines are thought to be good, or nobody would try them; one
request is enough to learn otherwise.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections import deque

_FORGET = 0.97  # weight of the sample before, for each new one
_KEPT = 128  # answer lengths
_OFTEN = 8  # answers after which sums over them are made anew
_MOST_CLASSES = 4096
_PAUSES = 14  # the first up to a quarter of a second, each twice as long as the one before, the last half an hour
_MOST_ENDED = 2000.0
_TRUST = 4.0  # answers of a class that weigh as much as all answers of the model


class Line:
    """y = base + slope * x, both at least a little above zero."""

    __slots__ = ("_rigid", "_span", "_sw", "_sx", "_sxx", "_sxy", "_sy", "base", "samples", "slope")

    def __init__(self, base: float, slope: float, span: float, weight: float = 0.5, *, rigid: bool = False) -> None:
        """A prior: two points of this weight on this line, at 0 and at `span`; `rigid` if its base is well known."""
        self._span = span
        self._rigid = rigid
        self.suppose(base, slope, weight)

    def suppose(self, base: float, slope: float, weight: float = 0.5) -> None:
        """Start again from this line, before there are samples."""
        self.samples = 0
        self._sw = self._sx = self._sxx = self._sy = self._sxy = 0.0
        self.base, self.slope = base, slope
        self._add(0.0, base, weight)
        self._add(self._span, base + slope * self._span, weight)

    def learn(self, x: float, y: float, weight: float = 1.0) -> None:
        """A sample. The first one moves the prior to where it is."""
        if not self.samples:
            self._start(x, y)
        self._sw *= _FORGET
        self._sx *= _FORGET
        self._sxx *= _FORGET
        self._sy *= _FORGET
        self._sxy *= _FORGET
        self._add(x, y, weight)
        self.samples += 1
        self._solve()

    def _start(self, x: float, y: float) -> None:
        if self._rigid and x > 0.0:
            self.suppose(min(self.base, y / 2), max(y - self.base, y / 2) / x)
        elif not self._rigid:
            scale = y / max(self.at(x), 1e-9)
            self.suppose(self.base * scale, self.slope * scale)

    def at(self, x: float) -> float:
        """The expected y."""
        return self.base + self.slope * x

    def _add(self, x: float, y: float, weight: float) -> None:
        self._sw += weight
        self._sx += weight * x
        self._sxx += weight * x * x
        self._sy += weight * y
        self._sxy += weight * x * y

    def _solve(self) -> None:
        spread = self._sw * self._sxx - self._sx * self._sx
        mean = self._sy / self._sw
        if spread > 1e-9 * self._span * self._span * self._sw * self._sw:
            slope = (self._sw * self._sxy - self._sx * self._sy) / spread
            base = (self._sy - slope * self._sx) / self._sw
            if slope >= 0.0 and base >= 0.0:
                self.base, self.slope = base, slope
                return
            if slope >= 0.0 and self._sxx > 0:  # a line through the origin
                self.base, self.slope = 0.0, self._sxy / self._sxx
                return
        else:
            at = self._sx / self._sw
            scale = mean / max(self.at(at), 1e-9)
            self.base, self.slope = self.base * scale, self.slope * scale
            return
        self.base, self.slope = mean, 0.0


class Lengths:
    """Tokens of answers: of all requests to a model, and of classes that share the beginning of a prompt."""

    __slots__ = ("_classes", "_recent", "_sorted", "_sum", "_tail", "_unseen", "mean")

    def __init__(self, guess: float = 200.0) -> None:
        self.mean = guess
        self._recent: deque[int] = deque(maxlen=_KEPT)
        self._sorted: list[int] = []
        self._tail: list[float] = []  # sums of the longest 0, 1, 2, … answers, from the end
        self._unseen = 0  # answers since the sums were made
        self._sum = 0
        self._classes: dict[int, tuple[float, float]] = {}  # (answers that count, their mean), oldest first

    def learn(self, kind: int, tokens: int) -> None:
        """An answer of a class had so many tokens."""
        if len(self._recent) == _KEPT:
            oldest = self._recent[0]
            self._sum -= oldest
            del self._sorted[bisect_right(self._sorted, oldest) - 1]
        self._recent.append(tokens)
        insort(self._sorted, tokens)
        self._sum += tokens
        self.mean = self._sum / len(self._recent)
        self._unseen += 1
        count, mean = self._classes.pop(kind, (0.0, 0.0))
        count = min(count + 1.0, 50.0)
        self._classes[kind] = (count, mean + (tokens - mean) / count)
        if len(self._classes) > _MOST_CLASSES:
            del self._classes[next(iter(self._classes))]

    def expected(self, kind: int, most: int | None) -> float:
        """Tokens that the answer will have, on average."""
        count, mean = self._classes.get(kind, (0.0, 0.0))
        tokens = (count * mean + _TRUST * self.mean) / (count + _TRUST)
        return min(tokens, most) if most else tokens

    def remaining(self, expected: float, written: float) -> float:
        """Tokens still to come of an answer that was expected to have `expected` and has `written`."""
        if written < 1e-6 or not self._sorted:
            return max(expected - written, 0.25 * expected)
        if self._unseen >= _OFTEN or not self._tail or self._unseen * 4 > len(self._sorted):
            self._rebuild()
        scale = expected / self.mean
        longer = len(self._sorted) - bisect_right(self._sorted, written / scale)
        if longer >= len(self._tail):
            longer = len(self._tail) - 1
        if longer < 3:
            return 0.5 * written
        return max(self._tail[longer] / longer * scale - written, 1.0)

    def _rebuild(self) -> None:
        total, tail = 0.0, [0.0]
        for tokens in reversed(self._sorted):
            total += tokens
            tail.append(total)
        self._tail, self._unseen = tail, 0


class Returns:
    """How likely a conversation goes on, by how long ago its last answer ended.

    Kept as counts: answers that ended, and next turns by the length of the pause before them.
    """

    __slots__ = ("_by_pause", "_ended", "_later", "_never")

    def __init__(self) -> None:
        self._ended = 2.0
        self._by_pause = [0.1] * _PAUSES
        self._later = [0.0] * (_PAUSES + 1)  # turns after a pause of this length or longer
        self._never = 1.0

    def ended(self) -> None:
        """An answer ended."""
        self._ended += 1.0
        if self._ended > _MOST_ENDED:  # forget by and by
            self._ended *= 0.5
            self._by_pause = [count * 0.5 for count in self._by_pause]
        if int(self._ended) % 8 == 0:
            self._solve()

    def returned(self, pause_s: float) -> None:
        """A conversation went on after a pause."""
        self._by_pause[min(int(pause_s * 4.0).bit_length(), _PAUSES - 1)] += 1.0

    def likely(self, age_s: float, within_s: float) -> float:
        """The chance that a conversation that has been silent for so long goes on in the next `within_s`."""
        bucket = int(age_s * 4.0).bit_length()
        if bucket >= _PAUSES:
            return 0.0
        limit = min(int((age_s + within_s) * 4.0).bit_length() + 1, _PAUSES)
        later = self._later
        return (later[bucket] - later[limit]) / (later[bucket] + self._never)

    def _solve(self) -> None:
        total = 0.0
        for bucket in reversed(range(_PAUSES)):
            total += self._by_pause[bucket]
            self._later[bucket] = total
        self._never = max(self._ended - total, 0.1)
