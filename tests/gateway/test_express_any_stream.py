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
        self._stops = stops

    def write(self, data):
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


async def passed(reads, *, rests=(), stops=(), drops=False, **scanner_args):
    """What becomes of these reads of an engine's socket: what the client has, and what is known at the end."""
    loop, kept = asyncio.get_running_loop(), []
    line, client = Line(), Client(frozenset(stops))
    response = line.ask()
    line.feed(STREAM_HEAD)
    await response.begun()
    request = SimpleNamespace(connection=client, http10=False, keep_alive=True, on_writable=None)
    alarm = Alarm(loop)
    exchange = SimpleNamespace(
        loop=loop,
        request=request,
        interrupted=False,
        deadline=lambda seconds: Deadline(alarm, time.monotonic() + seconds, None),
    )
    scanner = SseScanner(keep=kept.append, **scanner_args)
    stream = Stream(request, 200, {})
    client.written.clear()
    pump = Pump(exchange, stream, response, scanner, idle_timeout_s=PATIENT_S, grace_s=PATIENT_S)
    task = asyncio.ensure_future(pump.run(b""))
    await asyncio.sleep(0)

    def go_on():
        client.writing_paused = False
        if request.on_writable is not None:
            request.on_writable()

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
    task.cancel()  # the client goes, if it is not over
    (outcome,) = await asyncio.gather(task, return_exceptions=True)
    response.close()
    alarm.stop()
    line.drop()
    told = (scanner.told, scanner.events, scanner.bytes, scanner.content, scanner.finished, scanner.done, scanner.over)
    why = outcome.message if isinstance(outcome, UpstreamUnavailable) else repr(outcome)
    return dechunked(b"".join(client.written)), b"".join(kept), (*told, scanner.error), why


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
numbers = st.sets(st.integers(0, 30), max_size=12)


@settings(max_examples=300, deadline=None)
@given(
    reads=streams(),
    rewrite=st.sampled_from([None, strip_events]),
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
    "several choices": ([A] * 10, 0),
}


@pytest.mark.parametrize("name", COUNTED)
async def test_what_is_counted_is_the_same_and_the_lane_takes_what_it_may(name):
    events, wanted = COUNTED[name]
    choices = 2 if name == "several choices" else 1
    slow, fast, taken = await passed_both_ways([chunk(each) for each in events], choices=choices)
    assert fast == slow
    assert taken == wanted
