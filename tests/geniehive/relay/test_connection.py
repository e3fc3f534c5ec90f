"""What engines send, byte by byte: framing is llhttp's, a broken answer is never a whole one."""

from __future__ import annotations

import asyncio
import gzip

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geniehive.errors import UpstreamUnavailable
from geniehive.relay.connection import announced_idle_s, framed, joined
from geniehive.relay.failures import Unanswered
from tests.geniehive.relay.wire import Line, whole

ZIPPED = gzip.compress(b"hello", mtime=0)
OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"transfer-encoding: chunked\r\n\r\n"
FIVE = b"content-length: 5\r\n\r\nhello"
INTERIM = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n"
PACKED = OK + b"content-encoding: gzip\r\ncontent-length: %d\r\n\r\n%b" % (len(ZIPPED), ZIPPED)
ANSWERS = {
    "length": (OK + FIVE, b"hello", True),
    "chunked": (CHUNKED + b"2\r\nhe\r\n3;x=y\r\nllo\r\n0\r\n\r\n", b"hello", True),
    "chunked with a trailer": (CHUNKED + b"5\r\nhello\r\n0\r\nx-sum: 1\r\n\r\n", b"hello", True),
    "after 100 and 103": (INTERIM + OK + FIVE, b"hello", True),
    "no content": (b"HTTP/1.1 204 No Content\r\n\r\n", b"", True),
    "nothing": (OK + b"content-length: 0\r\n\r\n", b"", True),
    "gzip": (PACKED, b"hello", True),
    "connection: close": (OK + b"connection: close\r\n" + FIVE, b"hello", False),
    "http/1.0": (b"HTTP/1.0 200 OK\r\n" + FIVE, b"hello", False),
}


@pytest.mark.parametrize("cut", [None, 1, 2, 3, 7])
@pytest.mark.parametrize(("data", "body", "again"), ANSWERS.values(), ids=ANSWERS)
async def test_an_answer_is_whole_wherever_it_is_cut(data, body, again, cut):
    line = Line()
    for _ in range(2 if again else 1):
        response = line.ask()
        line.feed(data, cut)
        status, found = await whole(response)
        assert (status, found) == (int(data.rpartition(b"HTTP/1.")[2][2:5]), body)
        assert response.ended
        assert line.freed == (1 if again else 0)
        assert line.transport.aborted is not again


@settings(max_examples=200, deadline=None)
@given(sizes=st.lists(st.integers(1, 40), max_size=8), cuts=st.lists(st.integers(1, 30), min_size=1, max_size=20))
def test_any_chunks_in_any_split_give_the_same_body(sizes, cuts):
    async def run():
        line, body = Line(), b"".join(bytes([65 + at]) * size for at, size in enumerate(sizes))
        data, at = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", 0
        for size in sizes:
            data += b"%x\r\n%b\r\n" % (size, body[at : at + size])
            at += size
        data += b"0\r\n\r\n"
        response, at = line.ask(), 0
        for turn in range(len(data)):
            step = cuts[turn % len(cuts)]
            if at < len(data):
                line.feed(data[at : at + step])
            at += step
        assert await whole(response) == (200, body)
        assert line.freed == 1

    asyncio.run(run())


@pytest.mark.parametrize("cut", [None, 1])
async def test_a_body_that_nothing_frames_ends_with_the_connection(cut):
    line = Line()
    response = line.ask()
    line.feed(b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\n\r\nhello", cut)
    assert await response.read() == b"hello"
    assert not response.ended
    line.drop()
    assert await response.read() == b""
    assert response.ended
    assert line.freed == 0


BROKEN = {
    "not http": b"SSH-2.0-OpenSSH_9.6\r\n",
    "length and chunks": b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "two lengths": b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nhello",
    "a negative length": b"HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n",
    "a bad chunk size": b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\nhello\r\n",
    "a chunk that is too long": b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhelloX\r\n",
    "a header without a colon": b"HTTP/1.1 200 OK\r\nrubbish\r\n\r\n",
    "too many headers": b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 300 + b"\r\n",
    "a header without an end": b"HTTP/1.1 200 OK\r\na: " + b"b" * 70_000,
    "interim answers without an end": b"HTTP/1.1 102 Processing\r\n\r\n" * 5000,
    "another protocol": b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n",
    "an unknown coding": b"HTTP/1.1 200 OK\r\ncontent-encoding: br\r\ncontent-length: 5\r\n\r\nhello",
}


@pytest.mark.parametrize("pieces", [1, 3, 200])
@pytest.mark.parametrize("data", BROKEN.values(), ids=BROKEN)
async def test_what_is_not_http_fails_and_closes(data, pieces):
    cut = -(-len(data) // pieces)
    line = Line()
    response = line.ask()
    line.feed(data, cut)
    with pytest.raises(UpstreamUnavailable):
        await whole(response)
    assert line.transport.aborted
    assert line.freed == 0


@pytest.mark.parametrize("exc", [None, ConnectionResetError()])
@pytest.mark.parametrize(
    "data",
    [ANSWERS["length"][0][:-1], ANSWERS["chunked"][0][:-2], ANSWERS["gzip"][0][:-1]],
    ids=["length", "chunked", "gzip"],
)
async def test_a_cut_body_gives_what_was_there_and_then_fails(data, exc):
    line = Line()
    response = line.ask()
    line.feed(data)
    line.drop(exc)
    with pytest.raises(UpstreamUnavailable, match="broke its answer off"):
        await whole(response)
    assert not response.ended
    assert line.lost == 1


async def test_a_reset_is_no_end_of_a_body_that_nothing_frames():
    line = Line()
    response = line.ask()
    line.feed(b"HTTP/1.1 200 OK\r\n\r\nhel")
    line.drop(ConnectionResetError())
    with pytest.raises(UpstreamUnavailable):
        await whole(response)


async def test_only_a_death_before_any_byte_is_unanswered():
    for data, kind in (
        (b"", Unanswered),
        (b"HTTP/1.1 2", UpstreamUnavailable),
        (b"HTTP/1.1 100 Go\r\n\r\n", UpstreamUnavailable),
    ):
        line = Line()
        response = line.ask()
        line.feed(data)
        line.drop()
        with pytest.raises(UpstreamUnavailable) as caught:
            await response.begun()
        assert type(caught.value) is kind


async def test_bytes_that_nobody_asked_for_close_the_connection():
    line = Line()
    line.feed(ANSWERS["length"][0])
    assert line.transport.aborted


@pytest.mark.parametrize("more", [ANSWERS["length"][0], b"rubbish", b"\r\nx"], ids=["another", "rubbish", "a line"])
async def test_bytes_behind_an_answer_spoil_the_connection_and_not_the_answer(more):
    line = Line()
    response = line.ask()
    line.feed(ANSWERS["length"][0] + more)
    assert await whole(response) == (200, b"hello")
    assert line.freed == 0
    assert line.transport.aborted


@pytest.mark.parametrize("sizes", [(), (5,), (2, 3), (1, 1, 3)], ids=str)
async def test_the_body_of_what_comes_behind_an_answer_is_not_the_answers(sizes):
    line = Line()
    response = line.ask()
    body, chunks = b"hello", CHUNKED
    for size in sizes:
        chunks, body = chunks + b"%x\r\n%b\r\n" % (size, body[:size]), body[size:]
    line.feed(chunks + b"0\r\n\r\n" + OK + FIVE)
    assert await whole(response) == (200, b"hello" if sizes else b"")
    assert line.transport.aborted


async def test_an_idle_connection_holds_nothing_of_the_last_answer():
    line = Line()
    response = line.ask()
    line.feed(ANSWERS["chunked"][0])
    assert line.freed == 1
    assert not line.connection._pieces
    assert response.at_hand() == b"hello"


async def test_a_reader_that_gave_up_waiting_misses_nothing():
    line = Line()
    response = line.ask()
    line.feed(OK + b"content-length: 5\r\n\r\nhe")
    assert await response.read() == b"he"
    for wait in (response.read(), asyncio.wait_for(response.read(), 0.01)):
        waiting = asyncio.ensure_future(wait)
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
    line.feed(b"llo")
    assert await response.read() == b"llo"
    assert response.ended


@pytest.mark.parametrize("head_first", [False, True])
async def test_who_waits_gets_what_came_before_a_failure_in_the_same_read(head_first):
    line = Line()
    response = line.ask()
    if head_first:
        line.feed(CHUNKED + b"1\r\n>\r\n")
        assert await response.read() == b">"
    waiting = asyncio.ensure_future(whole_or_failure(response))
    await asyncio.sleep(0)
    line.feed((b"" if head_first else CHUNKED) + b"2\r\nhe\r\n3\r\nllo\r\nrubbish")
    assert await waiting == b"hello"


async def whole_or_failure(response):
    """What came before the body broke off."""
    await response.begun()
    found = await response.read()
    with pytest.raises(UpstreamUnavailable):
        await response.read()
    return found


async def test_who_gave_up_waiting_for_a_head_hears_nothing_of_its_failure():
    line = Line()
    response = line.ask()
    waiting = response.begun()
    waiting.cancel()
    line.drop()
    assert waiting.cancelled()
    with pytest.raises(UpstreamUnavailable):
        await response.begun()


async def test_a_reader_that_does_not_read_stops_the_engine():
    line = Line()
    response = line.ask()
    line.feed(b"HTTP/1.1 200 OK\r\ncontent-length: 9999999\r\n\r\n")
    for _ in range(5):
        line.feed(b"x" * 100_000)
    assert not line.transport.reading
    assert len(await response.read()) == 500_000
    assert line.transport.reading


async def test_a_connection_that_was_stopped_reads_again_for_its_next_request():
    line = Line()
    response = line.ask()
    line.feed(b"HTTP/1.1 200 OK\r\ncontent-length: 600000\r\n\r\n" + b"x" * 300_000)
    assert not line.transport.reading
    line.feed(b"x" * 300_000)  # what the kernel had handed over already
    assert line.freed == 1
    assert line.transport.reading
    assert len(await response.read()) == 600_000


class Taker:
    def __init__(self, response, accept=lambda _piece: True):
        self.response = response
        self.accept = accept
        self.pieces = []
        self.ends = []

    def take(self, piece):
        self.pieces.append(piece)
        return self.accept(piece)

    def end(self, failure):
        self.ends.append(failure)


async def test_a_sink_gets_each_read_at_once_and_the_end():
    line = Line()
    response = line.ask()
    line.feed(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n")
    sink = Taker(response)
    response.push_to(sink)
    assert sink.pieces == [b"a"]
    line.feed(b"1\r\nb\r\n1\r\nc\r\n")
    assert sink.pieces == [b"a", b"bc"]
    line.feed(b"1\r\nd\r\n0\r\n\r\n")
    assert (sink.pieces, sink.ends) == ([b"a", b"bc", b"d"], [None])
    assert line.freed == 1


async def test_a_sink_that_is_full_stops_the_engine_and_loses_nothing():
    line = Line()
    response = line.ask()
    line.feed(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\n")
    sink = Taker(response, accept=lambda piece: piece != b"a")
    response.push_to(sink)
    line.feed(b"a")
    assert not line.transport.reading
    line.feed(b"b")
    line.feed(b"cd")
    assert (sink.pieces, sink.ends) == ([b"a"], [])
    response.resume()
    assert (sink.pieces, sink.ends) == ([b"a", b"bcd"], [None])


async def test_a_sink_hears_of_a_cut_after_the_last_piece():
    line = Line()
    response = line.ask()
    line.feed(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\n")
    sink = Taker(response)
    response.push_to(sink)
    line.feed(b"ab")
    line.drop(ConnectionResetError())
    assert sink.pieces == [b"ab"]
    assert isinstance(sink.ends[0], UpstreamUnavailable)


async def test_a_sink_may_close_in_the_middle():
    line = Line()
    response = line.ask()
    line.feed(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\n")
    sink = Taker(response, accept=lambda _piece: response.close() is None)
    response.push_to(sink)
    line.feed(b"ab")
    assert line.transport.aborted
    line.drop()
    assert (sink.pieces, sink.ends) == ([b"ab"], [])


async def test_closing_early_closes_the_connection_and_closing_late_does_not():
    line = Line()
    response = line.ask()
    line.feed(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhe")
    response.close()
    assert line.transport.aborted
    line = Line()
    response = line.ask()
    line.feed(ANSWERS["length"][0])
    response.close()
    assert not line.transport.aborted


def test_repeated_headers_are_joined_and_names_lower():
    assert joined([(b"A", b"1"), (b"b", b"x"), (b"a", b"2")]) == {"a": "1, 2", "b": "x"}


@pytest.mark.parametrize(
    ("headers", "wanted"),
    [({}, False), ({"content-length": "1"}, True), ({"transfer-encoding": "gzip, Chunked"}, True),
     ({"transfer-encoding": "chunked, gzip"}, False)],
)  # fmt: skip
def test_the_final_coding_frames(headers, wanted):
    assert framed(headers) is wanted


@pytest.mark.parametrize(
    ("value", "wanted"),
    [("timeout=5, max=100", 4), ("timeout=0", 0), ("max=5", 60), ("timeout=x", 60), ("timeout=999", 60)],
)
def test_an_engine_says_for_how_long_it_keeps_a_connection(value, wanted):
    assert announced_idle_s(value) == wanted
