"""The work that is open at a service, and when it will take the next request.

An engine reads prompts one after the other and writes answers side by side, in as many slots as it has.
This gateway knows when it sent each of its requests, and which of them have begun to be answered; of
other gateways' requests it knows how many there are. From that it foresees when a slot comes free: when
somebody asks and something has changed, or the last forecast is old for how far it reached.
"""

from __future__ import annotations

import heapq
from typing import Protocol

_READING_STARVES = 0.8  # share of the time of reading a prompt in which answers stand still
_MANY = 24  # open requests of which a forecast is made now and then, and not at every change
_STALE_S = 0.05  # a forecast is good for this long at least,
_STALE = 0.1  # and for this share of the wait that it foresees
_DOUBT = 1.0  # of a wait that is all for others' requests: the shortest of many guesses is likely to be wrong
_NEVER = float("inf")
_UNSEEN_S = 0.4  # others' requests of so long ago are not counted yet: gateways report four times a second


class Speeds(Protocol):
    """What a request's place can do."""

    def reading_s(self, fresh_tokens: float) -> float:
        """Seconds from the start of reading to the first token."""
        ...

    def token_s(self, streams: float) -> float:
        """Seconds a token, with so many answers being written."""
        ...

    def tokens_left(self, expected: float, written: float) -> float:
        """Tokens that an answer still has, on average."""
        ...


class Work:
    """One open request, as far as its engine's time is concerned."""

    __slots__ = ("answer", "began_at", "first_at", "fresh", "load_s", "sent_at", "speeds")

    def __init__(self, speeds: Speeds, sent_at: float, fresh: float, answer: float, load_s: float) -> None:
        self.speeds = speeds
        self.sent_at = sent_at
        self.fresh = fresh  # tokens to read
        self.answer = answer  # tokens to write
        self.load_s = load_s
        self.began_at: float | None = None  # when it got its slot, as far as can be seen
        self.first_at: float | None = None


class Backlog:
    """Open requests of one service. Slots are as many as it told, or as its kind of engine has."""

    __slots__ = (
        "floor_s",
        "made_at",
        "mates",
        "others",
        "ready_at",
        "slots",
        "streams",
        "typical_s",
        "unread",
        "until",
        "works",
    )

    def __init__(self, slots: int) -> None:
        self.slots = slots
        self.works: dict[Work, None] = {}  # in order of sending
        self.unread: dict[Work, None] = {}  # those whose answer has not begun
        self.others = 0  # requests of other gateways
        self.mates: list[Backlog] = []  # of other models there, with slots of their own and the same processor
        self.ready_at = 0.0  # when a request that came now would begin to be read
        self.floor_s = 0.0  # and it would wait this long at least
        self.streams = 1.0  # answers that would be written beside each other then
        self.typical_s = 3.0  # from a slot to the end
        self.made_at = -_NEVER  # when that was foreseen,
        self.until = -_NEVER  # and for how long it is good

    @property
    def depth(self) -> int:
        """Open requests, everybody's."""
        return len(self.works) + self.others

    def begin(self, work: Work, now: float) -> None:
        """A request was sent."""
        if len(self.works) + self.others < self.slots:
            work.began_at = now
        self.works[work] = self.unread[work] = None
        self._changed()

    def first(self, work: Work, now: float) -> None:
        """It begins to be answered."""
        work.first_at = now
        unread = self.unread
        unread.pop(work, None)
        self.slots = max(self.slots, len(self.works) - len(unread))  # it has more slots than was thought
        for each in unread:
            if each.began_at is not None:
                each.began_at = now  # prompts are read one after the other: its turn is now
        self._changed()

    def end(self, work: Work, now: float) -> None:
        """It is over, well or not: who waited longest gets its slot."""
        self.works.pop(work, None)
        self.unread.pop(work, None)
        if work.first_at is not None and work.began_at is not None:
            self.typical_s += 0.1 * (now - work.began_at - self.typical_s)
        for each in self.unread:
            if each.began_at is None:
                each.began_at = now
                break
        self._changed()

    def told(self, slots: int | None, others: int) -> None:
        """How many slots the engine says it has, and how many requests of others are there."""
        if others != self.others or (slots and slots != self.slots):
            self.slots, self.others = slots or self.slots, others
            self._changed()

    def _changed(self) -> None:
        depth = len(self.works) + self.others + 1
        self.streams = float(min(depth, self.slots))
        self.until = -_NEVER if len(self.works) <= _MANY else self.made_at + _STALE_S
        for mate in self.mates:
            mate.until = -_NEVER

    def wait_s(self, now: float) -> float:
        """Seconds until a request that came now would begin to be read."""
        if not self.works and not self.others and not self.mates:
            return 0.0
        if now > self.until:
            self.foresee(now)
        wait = self.ready_at - now
        return wait if wait > self.floor_s else self.floor_s  # noqa: FURB136 - the request path: max() takes longer

    def foresee(self, now: float) -> None:
        """When the next request would begin to be read, as things are now."""
        depth = len(self.works) + self.others
        self.made_at, self.floor_s = now, 0.0
        if not self.works and depth >= self.slots:
            self.ready_at, self.until = now, _NEVER
            self.floor_s = self._strangers_s(depth)
            return
        if depth < self.slots:
            reading = 0.0
            for work in self.unread:
                reading = self._read(work, now, reading)
            for mate in self.mates:
                for work in mate.unread:
                    reading = self._read(work, now, reading)
            self.ready_at = now + reading
            self.until = now + max(_STALE_S, _STALE * reading) if reading else _NEVER
            if self.others:
                self.floor_s = self._unseen_s(self.slots - depth)
            return
        self._foresee_queue(now)
        wait = self.ready_at - now
        self.ready_at += _DOUBT * wait * self.others / depth
        self.until = now + max(_STALE_S, _STALE * (self.ready_at - now))

    def _foresee_queue(self, now: float) -> None:
        ends: list[float] = []  # when slots come free, in seconds from now
        reading = 0.0  # when the last prompt will have been read
        waiting: list[Work] = []
        streams, slots = self.streams, self.slots
        for work in self.works:
            token_s = work.speeds.token_s(streams)
            if work.first_at is not None:
                written = (now - work.first_at) / token_s
                ends.append(work.speeds.tokens_left(work.answer, written) * token_s)
            elif len(ends) < slots and not waiting:
                reading = self._read(work, now, reading)
                ends.append(reading + work.answer * token_s)
            else:
                waiting.append(work)
        if reading:
            stalled = _READING_STARVES * reading
            ends = [end + stalled if end < reading + stalled else end for end in ends]
        self._queue(now, ends, reading, waiting)

    @staticmethod
    def _read(work: Work, now: float, after: float) -> float:
        """When this prompt will have been read, if reading goes on `after` seconds from now."""
        took = work.load_s + work.speeds.reading_s(work.fresh)
        if after > 0.0:
            return after + took
        passed = now - (work.sent_at if work.began_at is None else work.began_at)
        return max(took - passed, 0.3 * passed, 0.0)  # what is late is likely to be later still

    def _queue(self, now: float, ends: list[float], reading: float, waiting: list[Work]) -> None:
        strangers = self.others
        self.floor_s = 0.0
        if strangers:
            ends.extend(self.typical_s * (number + 0.5) / strangers for number in range(strangers))
        heapq.heapify(ends)
        if len(ends) > self.slots:  # strangers in the queue: the first that end make room for the last
            ends.sort()
            late = ends[self.slots :]
            del ends[self.slots :]
            for end in late:
                heapq.heapreplace(ends, ends[0] + end)
        for work in waiting:
            start = max(heapq.heappop(ends), reading) if len(ends) >= self.slots else reading
            reading = start + work.load_s + work.speeds.reading_s(work.fresh)
            heapq.heappush(ends, reading + work.answer * work.speeds.token_s(self.streams))
        start = max(ends[0], reading) if len(ends) >= self.slots else reading
        self.ready_at = now + start

    def _unseen_s(self, free: int) -> float:
        """Others may have taken the last free slots since they were heard of: what is likely to be waited for that."""
        if free > 2:
            return 0.0
        came = self.others / self.typical_s * _UNSEEN_S
        full = came if free == 1 else 0.5 * came * came
        return min(full, 0.5) * self.typical_s / (self.slots + 1)

    def _strangers_s(self, depth: int) -> float:
        """All requests here are others': the wait is unknown, but it is not nothing."""
        return self.typical_s * (depth - self.slots + 1) / (self.slots + 1)
