"""The compiled lane by itself: what it passes, what it gives to `slow`, whom it tells, and what it holds on to."""

from __future__ import annotations

import gc
import sys
import time
import weakref
from types import SimpleNamespace

import pytest

from geniehive.relay.lane import lane_to
from tests.tools import require_lane

HEAD = b'data: {"choices":[{"delta":{"content":"'
TAIL = b'"}}]}\n\n'
NEVER = 1e12
PLENTY = 1_000_000


def event(text):
    return HEAD + text + TAIL


def chunk(data):
    return b"%x\r\n%b\r\n" % (len(data), data)


class Road:
    """A lane with everything around it; what it does is written down in `told`, in order."""

    def __init__(self):
        self.told = []
        self.client = SimpleNamespace(writing_paused=False)
        self.lane = lane_to(self.slow)

    def slow(self, data):
        self.told.append(("slow", data))

    def write(self, data):
        self.told.append(("write", data))

    def paused(self):
        self.told.append(("paused",))

    def moved(self):
        self.told.append(("moved",))

    def keep(self, data):
        self.told.append(("keep", data))

    def join(self, *, keep=None, due=NEVER, write=None):
        self.lane.join(write or self.write, self.client, self.paused, self.moved, keep, due)

    def learn(self, *, head=HEAD, tail=TAIL, budget=PLENTY, **join):
        self.join(**join)
        self.lane.learn(head, tail, budget)
        self.lane.open = True

    def took(self, data):
        """What became of a piece."""
        self.told.clear()
        self.lane(data)
        return self.told


@pytest.fixture
def road():
    require_lane()
    return Road()


# --- what passes -----------------------------------------------------------------------------------


def test_a_lane_that_is_closed_gives_everything_to_slow(road):
    data = chunk(event(b"a"))
    assert not road.lane.open
    assert not road.lane.ready
    assert road.took(data) == [("slow", data)]
    road.join()
    road.lane.open = True
    assert not road.lane.ready
    assert road.took(data) == [("slow", data)]
    road.lane.learn(HEAD, TAIL, PLENTY)
    assert road.lane.ready
    assert road.took(data) == [("slow", data)]


PASSES = {
    "one": [b"a"],
    "several in one read": [b"a", b"", b"bc", b"d" * 5000],
    "simple escapes": [rb"\"\\\/\b\f\n\r\t", rb"\\"],
    "a quote that is escaped behind a backslash that is": [rb"\\\""],
    "UTF-8": ["h\u00e9", "\u4f60\u597d", "\U0001f600", "\u2028"],
    "nothing": [b""],
    "what looks like the frame": [b"1 0 f ff"],
}


@pytest.mark.parametrize("texts", PASSES.values(), ids=PASSES)
def test_events_that_are_like_the_last_pass_as_they_came(road, texts):
    events = [event(each.encode() if isinstance(each, str) else each) for each in texts]
    data = b"".join(map(chunk, events))
    road.learn()
    assert road.took(data) == [("write", data)]
    assert road.lane.open
    assert road.took(data) == [("write", data)]
    assert road.lane.taken() == (2 * len(events), 2 * len(b"".join(events)))
    assert road.lane.taken() == (0, 0)


def sized(line, text=b"a"):
    """A chunk with another size line, where %x is the true size."""
    whole = event(text)
    return line.replace(b"%x", b"%x" % len(whole)) + whole + b"\r\n"


OTHER = {
    "a unicode escape": chunk(event(rb"\u0041")),
    "an escape that is none": chunk(event(rb"\x")),
    "a backslash at the end of the text": chunk(event(b"a\\")),
    "half an escape": chunk(event(rb"\\" + b"\\")),
    "a nul behind a backslash": chunk(event(b"\\\0")),
    "a bare quote": chunk(event(b'a","more":"b')),
    "a control character": chunk(event(b"a\x1fb")),
    "a nul": chunk(event(b"a\0b")),
    "a line feed": chunk(event(b"a\nb")),
    "DEL": chunk(event(b"a\x7fb")),
    "a byte that is not UTF-8": chunk(event(b"a\xff")),
    "half a character": chunk(event(b"a\xe4\xbd")),
    "a surrogate": chunk(event(b"\xed\xa0\x80")),
    "an overlong slash": chunk(event(b"\xc0\xaf")),
    "nothing at all": b"",
    "a chunk that is not whole": chunk(event(b"abc"))[:-1],
    "without its end": chunk(event(b"abc"))[:-2],
    "its size line only": sized(b"%x\r\n").partition(b"\n")[0] + b"\n",
    "its size only": b"5",
    "a size that is too small": sized(b"5\r\n"),
    "a size one too large": b"%x\r\n%b\r\n" % (len(event(b"a")) + 1, event(b"a")),
    "a size one too small": b"%x\r\n%b\r\n" % (len(event(b"a")) - 1, event(b"a")),
    "a size of seven digits": sized(b"1000000\r\n"),
    "a size with a sign": sized(b"+%x\r\n"),
    "a size with a blank": sized(b"%x \r\n"),
    "a size with a zero before it": sized(b"0%x\r\n"),
    "no size": sized(b"\r\n"),
    "a chunk extension": sized(b"%x;a=b\r\n"),
    "upper-case hexadecimal": sized(b"%x\r\n", b"a" * (0xAF - len(event(b"")))).replace(b"af", b"AF", 1),
    "a bare line feed": sized(b"%x\n"),
    "a chunk that ends otherwise": chunk(event(b"a"))[:-2] + b"\n\r",
    "the last chunk": b"0\r\n\r\n",
    "the last chunk behind one that passes": chunk(event(b"a")) + b"0\r\n\r\n",
    "something behind it": chunk(event(b"a")) + b"x",
    "one that is other behind it": chunk(event(b"a")) + chunk(b"data: [DONE]\n\n"),
    "one that is other before it": chunk(b": a\n\n") + chunk(event(b"a")),
    "two events in a chunk": chunk(event(b"a") + event(b"b")),
    "half an event": chunk(event(b"a")[:-1]),
    "another head": chunk(event(b"a").replace(b"content", b"context")),
    "another tail": chunk(event(b"a").replace(b"}}]}", b"}]}}")),
    "a key more": chunk(event(b"a").replace(b"}}]}", b',"x":1}}]}')),
    "not bytes": bytearray(chunk(event(b"a"))),
}


@pytest.mark.parametrize("data", OTHER.values(), ids=OTHER)
def test_all_else_goes_to_slow_unchanged_and_closes_it(road, data):
    road.learn(keep=road.keep)
    [(who, given)] = road.took(data)
    assert (who, given is data) == ("slow", True)
    assert not road.lane.open
    assert road.lane.taken() == (0, 0)
    alike = chunk(event(b"a"))
    assert road.took(alike) == [("slow", alike)]
    road.lane.open = True
    assert road.took(alike) == [("keep", event(b"a")), ("write", alike)]


def test_the_size_of_a_chunk_is_read_as_it_is_written(road):
    assert b"\r\nAF\r\n" not in OTHER["upper-case hexadecimal"]
    assert OTHER["upper-case hexadecimal"].startswith(b"AF\r\n")
    road.learn()
    data = chunk(event(b"a" * (0xAF - len(event(b"")))))
    assert data.startswith(b"af\r\n")
    assert road.took(data) == [("write", data)]


def test_a_size_of_six_digits_is_the_largest(road):
    road.learn(budget=2**30)
    data = chunk(event(b"a" * 0x100000))
    assert road.took(data) == [("write", data)]
    data = chunk(event(b"a" * 0x1000000))
    assert road.took(data) == [("slow", data)]


def test_head_and_tail_may_not_overlap(road):
    road.learn(head=b"data: aa", tail=b"aab\n\n")
    for short in (b"data: aab\n\n", b"data: aaab\n\n"):
        data = chunk(short)
        assert road.took(data) == [("slow", data)]
        road.lane.open = True
    data = chunk(b"data: aaaab\n\n")
    assert road.took(data) == [("write", data)]


def test_what_is_over_the_budget_goes_to_slow_whole(road):
    size = len(event(b"a"))
    one, two = chunk(event(b"a")), chunk(event(b"a")) * 2
    road.learn(budget=2 * size - 1)
    assert road.took(two) == [("slow", two)]
    road.lane.open = True
    assert road.took(one) == [("write", one)]
    assert road.took(one) == [("slow", one)]
    road.learn(budget=2 * size)
    assert road.took(two) == [("write", two)]
    assert road.took(one) == [("slow", one)]


# --- whom it tells ---------------------------------------------------------------------------------


def test_keep_gets_the_events_without_their_frames_before_they_are_written(road):
    road.learn(keep=road.keep)
    data = chunk(event(b"a")) + chunk(event(b"b"))
    assert road.took(data) == [("keep", event(b"a")), ("keep", event(b"b")), ("write", data)]


def test_a_client_that_takes_no_more_is_told_behind_the_write(road):
    road.learn(due=0.0)
    data = chunk(event(b"a"))
    road.client.writing_paused = True
    assert road.took(data) == [("write", data), ("paused",)]
    road.client.writing_paused = False
    assert road.took(data) == [("write", data), ("moved",)]


def test_moved_is_told_of_what_passes_when_it_is_due(road):
    road.learn(due=time.monotonic() + 60)
    data = chunk(event(b"a"))
    assert road.took(data) == [("write", data)]
    road.lane.due = time.monotonic()
    assert road.took(data) == [("write", data), ("moved",)]
    road.lane.due = time.monotonic() + 60
    assert road.took(data) == [("write", data)]


def test_what_cannot_be_written_goes_to_slow_and_does_not_count(road):
    def gone(_):
        raise ConnectionResetError

    road.learn(write=gone, due=0.0)
    data = chunk(event(b"a"))
    assert road.took(data) == [("slow", data)]
    assert not road.lane.open
    assert road.lane.taken() == (0, 0)


def test_a_failure_of_whoever_is_told_is_not_swallowed(road):
    def fail(*_):
        raise ZeroDivisionError

    data = chunk(event(b"a"))
    road.learn(keep=fail)
    with pytest.raises(ZeroDivisionError):
        road.took(data)
    assert road.told == []
    road.learn(due=0.0)
    road.lane.join(road.write, road.client, fail, fail, None, 0.0)
    for full in (True, False):
        road.lane.learn(HEAD, TAIL, PLENTY)
        road.lane.open = True
        road.client.writing_paused = full
        with pytest.raises(ZeroDivisionError):
            road.took(data)
        assert road.told == [("write", data)]
    slow = lane_to(fail)
    with pytest.raises(ZeroDivisionError):
        slow(data)


def test_an_interrupt_in_a_write_comes_out(road):
    def interrupted(_):
        raise KeyboardInterrupt

    road.learn(write=interrupted)
    with pytest.raises(KeyboardInterrupt):
        road.took(chunk(event(b"a")))
    assert road.told == []


@pytest.mark.parametrize("way", ["leave", "close"])
@pytest.mark.parametrize("where", ["keep", "write", "paused", "moved", "client"])
def test_whoever_is_told_may_leave_or_close_it(road, where, way):
    data = chunk(event(b"a")) + chunk(event(b"b"))

    class Leaver:
        def __call__(self, *_):
            getattr(road.lane, way)()

        @property
        def writing_paused(self):
            self()
            return where == "paused"

    leave = Leaver()
    road.client.writing_paused = where == "paused"
    who = {"write": road.write, "paused": road.paused, "moved": road.moved, "keep": None} | {where: leave}
    client = Leaver() if where == "client" else road.client
    del leave
    road.lane.join(who["write"], client, who["paused"], who["moved"], who["keep"], 0.0 if where == "moved" else NEVER)
    road.lane.learn(HEAD, TAIL, PLENTY)
    road.lane.open = True
    del client, who  # the lane has the last hold on them
    told = road.took(data)
    wanted = {"keep": [] if way == "close" else [("slow", data)], "write": []}.get(where, [("write", data)])
    assert told == wanted
    assert not road.lane.ready
    later = chunk(event(b"a"))
    assert road.took(later) == ([] if way == "close" else [("slow", later)])


# --- whose it is -----------------------------------------------------------------------------------


def test_who_leaves_it_gets_nothing_more_and_may_still_ask_what_passed(road):
    road.learn()
    data = chunk(event(b"a"))
    road.took(data)
    road.lane.leave()
    assert not road.lane.ready
    assert not road.lane.open
    road.lane.open = True
    assert road.took(data) == [("slow", data)]
    assert road.lane.taken() == (1, len(event(b"a")))


def test_who_joins_it_begins_anew(road):
    road.learn(keep=road.keep)
    data = chunk(event(b"a"))
    road.took(data)
    other = Road()
    road.lane.join(other.write, other.client, other.paused, other.moved, None, NEVER)
    assert not road.lane.ready
    assert not road.lane.open
    assert road.lane.taken() == (0, 0)
    assert road.took(data) == [("slow", data)]
    road.lane.learn(HEAD, TAIL, PLENTY)
    road.lane.open = True
    assert road.took(data) == []
    assert other.told == [("write", data)]


def test_a_lane_that_was_closed_takes_nothing(road):
    road.learn()
    data = chunk(event(b"a"))
    road.took(data)
    road.lane.close()
    assert road.took(data) == []
    road.lane.open = True
    assert road.took(data) == []
    assert road.lane.taken() == (1, len(event(b"a")))


def test_it_learns_only_once_it_leads_somewhere(road):
    with pytest.raises(RuntimeError, match="join it first"):
        road.lane.learn(HEAD, TAIL, 1)
    road.learn()
    road.lane.leave()
    with pytest.raises(RuntimeError, match="join it first"):
        road.lane.learn(HEAD, TAIL, 1)


def test_arguments_of_other_kinds_are_refused(road):
    lane, data = road.lane, chunk(event(b"a"))
    with pytest.raises(TypeError):
        lane()
    with pytest.raises(TypeError):
        lane(data, data)
    with pytest.raises(TypeError):
        lane(data=data)
    with pytest.raises(TypeError):
        type(lane)()
    with pytest.raises(TypeError):
        lane.join(road.write, road.client)
    with pytest.raises(TypeError):
        lane.join(road.write, road.client, road.paused, road.moved, None, "soon")
    road.join()
    for wrong in ((HEAD, TAIL), (HEAD.decode(), TAIL, 1), (HEAD, bytearray(TAIL), 1), (HEAD, TAIL, 1.5)):
        with pytest.raises(TypeError):
            lane.learn(*wrong)
    with pytest.raises(TypeError):
        lane.open = 1
    with pytest.raises(TypeError):
        lane.due = "soon"
    with pytest.raises(AttributeError):
        lane.ready = True
    assert road.told == []
    assert not lane.ready


# --- what it holds on to ---------------------------------------------------------------------------


def test_a_cycle_through_it_is_collected(road):
    class Holder:
        def __init__(self):
            self.lane = lane_to(self.take)
            self.lane.join(self.take, self, self.take, self.take, self.take, NEVER)
            self.lane.learn(HEAD, TAIL, PLENTY)

        def take(self, *_):
            pass

    gone = weakref.ref(Holder())
    gc.collect()
    assert gone() is None


def test_who_left_is_not_held(road):
    class Client:
        writing_paused = False

        def tell(self, *_):
            pass

    for way in (road.lane.leave, road.lane.close):
        client = Client()
        gone = weakref.ref(client)
        road.lane.join(client.tell, client, client.tell, client.tell, client.tell, NEVER)
        client = None
        assert gone() is not None
        way()
        assert gone() is None


def references(things):
    return [sys.getrefcount(each) for each in things]


def test_no_call_leaves_a_reference_behind(road):
    class Sink:
        def __call__(self, *_):
            pass

    class Broken:
        def __call__(self, *_):
            raise ConnectionResetError

    good, foreign = b"".join(map(chunk, [event(b"ab"), event("h\u00e9".encode())])), chunk(event(b"\xff"))
    head, tail = bytes(bytearray(HEAD)), bytes(bytearray(TAIL))
    things = [Sink(), Sink(), Sink(), Sink(), Sink(), Broken(), road.client, good, foreign, head, tail]
    slow, write, paused, moved, keep, broken, client, *_ = things

    def round_of(lane):
        for full in (False, True):
            client.writing_paused = full
            for to in (write, broken):
                lane.join(to, client, paused, moved, keep, 0.0)
                lane.learn(head, tail, PLENTY)
                lane.open = True
                lane(good)
                lane(foreign)
                lane.taken()
        client.writing_paused = False
        lane.leave()

    lane = lane_to(slow)
    for _ in range(50):  # the interpreter warms up
        round_of(lane)
    gc.collect()
    before, blocks = references(things), sys.getallocatedblocks()
    for _ in range(12_500):
        round_of(lane)
    gc.collect()
    assert references(things) == before
    assert sys.getallocatedblocks() - blocks < 500
    lane.join(write, client, paused, moved, keep, 0.0)
    lane.learn(head, tail, PLENTY)
    del lane
    gc.collect()
    after = references(things)
    assert after == [each - (at == 0) for at, each in enumerate(before)]
