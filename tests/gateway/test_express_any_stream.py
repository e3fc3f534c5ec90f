"""With the lane and without it: the same bytes, the same knowledge, for any stream in any pieces."""

from __future__ import annotations

import asyncio
import json
import time
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.answers import Stream
from gateway.deadline import Alarm, Deadline
from gateway.pump import Pump
from gateway.reasoning import strip_events
from gateway.sse import SseScanner
from geniehive.errors import UpstreamUnavailable
from tests.gateway.lane_spy import lanes
from tests.gateway.misbehaving import DONE, STREAM_HEAD, chunk
from tests.geniehive.relay.wire import Line
from tests.tools import require_lane

PATIENT_S = 600.0


@pytest.fixture(autouse=True)
def _built():
    require_lane()


class Client:
    """A client's connection: keeps what is written; stops taking behind writes of these numbers."""

    def __init__(self, stops):
        self.writing_paused = False
        self.transport = self
        self.written = []
        self.pressed = 0  # writes while it takes nothing
        self._stops = stops

    def write(self, data):
        self.pressed += self.writing_paused
        self.written.append(bytes(data))
        self.writing_paused = self.writing_paused or len(self.written) in self._stops

    def is_closing(self):
        return False


def dechunked(data):
    found = b""
    while data:
        size, _, data = data.partition(b"\r\n")
        found += data[: int(size, 16)]
        assert data[int(size, 16) :][:2] == b"\r\n"
        data = data[int(size, 16) + 2 :]
    return found


class Passing:
    """One stream on its way from an engine's connection to a client."""

    def __init__(self, line, client, **scanner_args):
        self._loop = loop = asyncio.get_running_loop()
        self._alarm = alarm = Alarm(loop)
        self._line = line
        self._client = client
        self.kept = []
        self.request = SimpleNamespace(connection=client, http10=False, keep_alive=True, on_writable=None)
        self.scanner = SseScanner(keep=self.kept.append, **scanner_args)
        self._exchange = SimpleNamespace(
            loop=loop,
            request=self.request,
            interrupted=False,
            deadline=lambda seconds: Deadline(alarm, time.monotonic() + seconds, None),
        )

    async def begun(self):
        """Its head is there, and what follows is passed on."""
        self._response = self._line.ask()
        self._line.feed(STREAM_HEAD)
        await self._response.begun()
        stream = Stream(self.request, 200, {})
        self._client.written.clear()
        pump = Pump(self._exchange, stream, self._response, self.scanner, idle_timeout_s=PATIENT_S, grace_s=PATIENT_S)
        self._task = self._loop.create_task(pump.run(b""))
        await asyncio.sleep(0)

    async def over(self):
        """How it ended; the client goes, if it has not."""
        self._task.cancel()
        (outcome,) = await asyncio.gather(self._task, return_exceptions=True)
        self._response.close()
        self._alarm.stop()
        return outcome


async def passed(reads, *, rests=(), stops=(), drops=False, **scanner_args):
    """What becomes of these reads of an engine's socket: what the client has, and what is known at the end."""
    line, client = Line(), Client(frozenset(stops))
    one = Passing(line, client, **scanner_args)
    await one.begun()

    def go_on():
        client.writing_paused = False
        if one.request.on_writable is not None:
            one.request.on_writable()

    for at, read in enumerate(reads):
        while not line.transport.reading and not line.transport.aborted:
            go_on()
            await asyncio.sleep(0)
        line.feed(read)
        if at in rests:
            await asyncio.sleep(0)
    while client.writing_paused:
        go_on()
    if drops and not line.transport.aborted:
        line.drop()
    await asyncio.sleep(0)
    outcome = await one.over()
    line.drop()
    scanner = one.scanner
    told = (scanner.told, scanner.events, scanner.bytes, scanner.content, scanner.finished, scanner.done, scanner.over)
    why = outcome.message if isinstance(outcome, UpstreamUnavailable) else repr(outcome)
    return dechunked(b"".join(client.written)), b"".join(one.kept), (*told, scanner.error), why, client.pressed


def chat(text="", *, key="content", finish=None, ascii_only=False, **more):
    delta = {key: text} if key else {}
    value = {"id": "c", "choices": [{"index": 0, "delta": delta, "finish_reason": finish}], **more}
    return b"data: " + json.dumps(value, ensure_ascii=ascii_only, separators=(",", ":")).encode() + b"\n\n"


texts = st.one_of(
    st.sampled_from(["a", "bc", " d", "", "\n", 'q"', "\\", "\u00e9", "\u4f60\u597d", "\U0001f600", "\x7f", "\u2028"]),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=12),
)
alike = st.builds(chat, texts)
USAGE = {"prompt_tokens": 3, "completion_tokens": 5}
TIMINGS = {"prompt_n": 3, "prompt_ms": 1, "predicted_n": 5, "predicted_ms": 2}
others = st.one_of(
    st.builds(chat, texts, ascii_only=st.just(True)),
    st.builds(chat, texts, key=st.sampled_from(["reasoning", "reasoning_content", "refusal"])),
    st.builds(chat, texts, usage=st.sampled_from([None, USAGE, {**USAGE, "completion_tokens": 6}])),
    st.builds(chat, texts, timings=st.sampled_from([TIMINGS, {**TIMINGS, "predicted_n": 7}])),
    st.builds(chat, texts, index=st.integers(0, 2)),
    st.builds(chat, st.just(""), key=st.just(""), finish=st.sampled_from(["stop", "length", "abort"])),
    st.builds(lambda text: b"event: message\n" + chat(text), texts),
    st.builds(lambda text: b"event: error\n" + chat(text), texts),
    st.builds(lambda text: chat(text).replace(b"\n", b"\r\n"), texts),
    st.builds(lambda one, two: chat(one).replace(b"\n", b"\r\n") + chat(two), texts, texts),
    st.builds(lambda text: chat(text).replace(b'"content":', b'"content": '), texts),
    st.builds(lambda text: b'data: {"type":"response.output_text.delta","text":"%b"}\n\n' % text.encode(), texts),
    st.builds(lambda text: b'data: {"choices":[{"text":"%b","index":0}]}\n\n' % text.encode(), texts),
    st.builds(lambda text: b': "content":"%b"\n\n' % text.encode(), st.sampled_from(["a", "b"])),
    st.sampled_from([
        b": keepalive\n\n",
        b": half\n",
        b"event: error\n",
        b"id: 7\n",
        b"data: {oops\n\n",
        b"data: {}\n\n",
        b'data: {"choices":"none","text":"a"}\n\n',
        b'data: {"choices":[],"usage":{"completion_tokens":7,"prompt_tokens":2}}\n\n',
        b'data: {"choices":[{"index":0,"delta":{"content":"a\xff"},"finish_reason":null}]}\n\n',
        b'data: {"error":{"message":"x"}}\n\n',
        b"\n",
        DONE,
    ]),
)  # fmt: skip


@st.composite
def streams(draw):
    """Reads of a stream: runs of events that are alike, with others between them."""
    blocks = []
    for _ in range(draw(st.integers(1, 4))):
        if draw(st.booleans()):
            blocks += draw(st.lists(alike, min_size=1, max_size=6))
        else:
            shape = draw(others)
            blocks += [shape] * draw(st.integers(1, 4)) + draw(st.lists(alike, max_size=3))
    framed, held = [], b""
    for block in blocks:
        how = draw(st.integers(0, 11))
        if how == 0:  # over two chunks
            cut = draw(st.integers(0, len(block) - 1))
            pieces, held = ([held + block[:cut]] if held + block[:cut] else []) + [block[cut:]], b""
        elif how == 1:  # together with the next
            pieces, held = [], held + block
        else:
            pieces, held = [held + block], b""
        framed += map(chunk, pieces)
    framed += [chunk(held)] if held else []
    framed += [b"0\r\n\r\n"] if draw(st.booleans()) else []
    reads = []
    for each in framed:
        how = draw(st.integers(0, 9))
        if how == 0 and len(each) > 1:
            cut = draw(st.integers(1, len(each) - 1))
            reads += [each[:cut], each[cut:]]
        elif how <= 2 and reads:
            reads[-1] += each
        else:
            reads.append(each)
    return reads


async def passed_both_ways(reads, **how):
    with lanes(used=False):
        slow = await passed(reads, **how)
    with lanes() as spies:
        return slow, await passed(reads, **how), sum(each.events for each in spies)


limits = st.one_of(st.just(2**40), st.integers(100, 1500))


def censored(block):
    """A rewrite that depends on texts, and leaves most events as they are."""
    return block.replace(b"bc", b"X")


numbers = st.sets(st.integers(0, 30), max_size=12)


@settings(max_examples=300, deadline=None)
@given(
    reads=streams(),
    rewrite=st.sampled_from([None, strip_events, censored]),
    limit=limits,
    choices=st.sampled_from([1, 1, 1, 2]),
    finishes=st.booleans(),
    rests=numbers,
    stops=numbers,
    drops=st.booleans(),
)
def test_any_stream_is_the_same_with_the_lane_and_without(
    reads, rewrite, limit, choices, finishes, rests, stops, drops
):
    how = {"rests": rests, "stops": stops, "drops": drops}
    scanner = {"rewrite": rewrite, "max_bytes": limit, "choices": choices, "finishes": finishes}
    slow, fast, _ = asyncio.run(passed_both_ways(reads, **how, **scanner))
    assert fast == slow


A = chat("a")
TIMED = chat("a", timings=TIMINGS)
TOLD = chat("a", usage=USAGE)
FINISH = chat(key="", finish="stop")
LATER = b'data: {"choices":[],"usage":{"completion_tokens":7,"prompt_tokens":2}}\n\n'
REMARK = b": " + b"x" * 500 + b"\n\n"
REMEMBERED = {  # what the lane could only get wrong if it compared with an event that is not the last
    "half a comment": ([A, A, A, b": half\n", A, A], {}),
    "a name that comes by itself": ([A, A, A, b"event: error\n", A, A], {}),
    "half an event": ([A, A, A, A[:9], A, A], {}),
    "behind the end": ([A, A, A, DONE, A], {}),
    "behind a failure": ([A, A, A, b"event: error\ndata: {}\n\n", A], {}),
    "times that count behind the finish": ([TIMED, TIMED, TIMED, FINISH, TIMED], {}),
    "usage that was told anew in between": ([TOLD, TOLD, TOLD, LATER, TOLD, TOLD], {}),
    "a limit that others have used up": ([A, A, A, REMARK, REMARK, A, A], {"max_bytes": 1000 + 4 * len(A)}),
    "a client that stops in between": ([A] * 12, {"stops": {3, 4, 7, 11}}),
    "an end while the client takes nothing": ([A] * 6, {"stops": {6}, "drops": True}),
}


@pytest.mark.parametrize(("events", "how"), REMEMBERED.values(), ids=REMEMBERED)
async def test_the_lane_compares_with_the_last_event_only(events, how):
    slow, fast, taken = await passed_both_ways([chunk(each) for each in events], **how)
    assert fast == slow
    assert taken


COUNTED = {
    "usual": ([A] * 10, 8),
    "escapes at first": ([chat("\n"), chat("a\u00e9", ascii_only=True), *[A] * 8], 8),
    "an empty text before the one that matters": ([A.replace(b'"content"', b'"content":"","text"')] * 10, 8),
    "comments that look like it": ([A, *[b': "content":"a"\n\n'] * 9], 0),
    "two events with ends of two kinds": ([A.replace(b"\n", b"\r\n") + A] * 10, 0),
    "comments in between": ([A, A, A, b": x\n\n"] * 30, 30),
    "several choices": ([A] * 10, 0),
}


@pytest.mark.parametrize("name", COUNTED)
async def test_what_is_counted_is_the_same_and_the_lane_takes_what_it_may(name):
    events, wanted = COUNTED[name]
    choices = 2 if name == "several choices" else 1
    slow, fast, taken = await passed_both_ways([chunk(each) for each in events], choices=choices)
    assert fast == slow
    assert taken == wanted


async def test_what_looks_like_a_chunk_inside_of_one_is_not_taken_for_it():
    outer = b"%x\r\n" % (len(A) + len(chunk(A)))
    reads = [*[chunk(A)] * 4, outer + A, chunk(A), b"\r\n", chunk(A), chunk(A)]
    slow, fast, taken = await passed_both_ways(reads)
    assert fast == slow
    assert taken


@pytest.mark.parametrize(("rewrite", "wanted"), [(strip_events, 3), (censored, 0)])
async def test_a_rewrite_that_depends_on_texts_gets_all_of_them(rewrite, wanted):
    reads = [chunk(chat(text)) for text in ("a", "a", "a", "bc", "a")]
    slow, fast, taken = await passed_both_ways(reads, rewrite=rewrite)
    assert fast == slow
    assert taken == wanted


UNFINISHED = b'data: {"choices":[{"index":0,"delta":5,"text":"abc","finish_reason":"stop"}]}\n\n'
CRLF = b'data: {"text":"a"}\r\n\r\n'
GO, MORE = [chunk(A)] * 4, [chunk(chat("e")), chunk(chat("f"))]
MEANING = {
    "a name of an event in a chunk of its own": [chunk(b"event: error\n")],
    "an id in a chunk of its own": [chunk(b"id: 7\n")],
    "a comment without its empty line": [chunk(b": ping\n")],
    "comments with a text": [chunk(b': "content": "x"\n\n')] * 3,
    "the end": [chunk(DONE)],
    "an error": [chunk(b'data: {"error":{"message":"x"}}\n\n')],
    "what stopped": [chunk(chat(key="", finish="abort"))],
    "events of an unknown shape": [chunk(UNFINISHED)] * 4,
    "two events of which one ends with CRLF": [chunk(CRLF + chat("b"))] * 3,
    "chunks inside of a chunk": [b"4\r\n4", b"4\r\n4\r\n4\r\n"],
    "a chunk with an extension": [b"%X;a=b\r\n%b\r\n" % (len(A), A)],
}


@pytest.mark.parametrize("between", MEANING.values(), ids=MEANING)
@pytest.mark.parametrize("before", [GO, []], ids=["behind others", "first"])
async def test_what_changes_the_meaning_of_the_next_event_changes_it_in_the_lane_too(before, between):
    slow, fast, _ = await passed_both_ways([*before, *between, *MORE], finishes=True)
    assert fast == slow


async def test_an_answer_is_no_longer_than_it_may_be_if_the_lane_takes_some_of_it():
    odd = chunk(chat("\u4f60" * 50, ascii_only=True))  # has \\u: not for the lane
    slow, fast, taken = await passed_both_ways([*GO, *[odd] * 7, *MORE * 10], max_bytes=4000)
    assert fast == slow
    assert taken


async def test_what_is_left_of_an_answer_does_not_count_what_passes_for_the_next_on_its_connection():
    line, slow = Line(), Client(frozenset())
    first = Passing(line, slow)
    await first.begun()
    for each in GO:
        line.feed(each)
    slow.writing_paused = True
    line.feed(chunk(chat("\u4f60", ascii_only=True)) + chunk(DONE[:-1]) + b"0\r\n\r\n")  # whole, but for its client
    size = first.scanner.bytes
    second = Passing(line, Client(frozenset()))
    await second.begun()
    for each in GO + MORE:
        line.feed(each)
    slow.writing_paused = False
    first.request.on_writable()
    assert first.scanner.bytes == size
    line.drop()
    await second.over()
    assert second.scanner.events == len(GO + MORE)
    await first.over()
