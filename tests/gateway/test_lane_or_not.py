"""A stream is the same with the compiled lane and without: what the client gets, is kept, is counted, and its end.

The same reads go through an engine's connection and a pump twice. The cases are those in which they once differed.
"""

from __future__ import annotations

import asyncio
import json
import random
import socket
from contextlib import nullcontext
from types import SimpleNamespace

import pytest

from gateway.answers import Stream
from gateway.pump import Pump
from gateway.reasoning import strip_events
from gateway.sse import SseScanner
from geniehive.relay import connection
from geniehive.relay.lane import COMPILED
from geniehive.relay.outbox import Outbox
from geniehive.relay.request import Origin
from tests.gateway.harness import gateway, until
from tests.geniehive.relay.wire import Transport

pytestmark = pytest.mark.skipif(not COMPILED, reason="the lane was not built")

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
DONE = b"data: [DONE]\n\n"


def event(data):
    return b"data: " + (data if isinstance(data, bytes) else json.dumps(data).encode()) + b"\n\n"


def says(text, **more):
    return event({"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}], **more})


def chunk(data):
    return b"%x\r\n%b\r\n" % (len(data), data)


class Client(Transport):
    """Takes all."""


class Clock:
    """A deadline that is never over."""

    def reschedule(self, due):
        pass


class Run:
    """One stream on its way. Its own lane is `line.lane`."""

    def __init__(self, monkeypatch, *, lane, line=None, **options):
        if not lane:
            monkeypatch.setattr(connection, "lane_to", lambda _slow: None)
        self.loop = loop = asyncio.get_running_loop()
        self.line = line or connection.Connection(
            loop, Origin("h", 80, False), lambda _c: None, lambda _c: None, Outbox(loop)
        )
        monkeypatch.undo()
        if line is None:
            self.line.connection_made(Transport())
        upstream = self.line.send(b"GET / HTTP/1.1\r\n\r\n", b"")
        self.line.data_received(HEAD)
        self.client = SimpleNamespace(transport=Client(), writing_paused=False, write=lambda _data: None)
        request = SimpleNamespace(http10=False, keep_alive=True, connection=self.client, on_writable=None)
        exchange = SimpleNamespace(
            loop=loop, request=request, interrupted=False, deadline=lambda _s: nullcontext(Clock())
        )
        self.request = request
        self.kept = []
        self.scanner = SseScanner(keep=self.kept.append, **options)
        stream = Stream(request, 200, {})
        self.pump = Pump(exchange, stream, upstream, self.scanner, idle_timeout_s=60, grace_s=60)
        self.task = loop.create_task(self.pump.run(b""))

    async def feed(self, *reads):
        await asyncio.sleep(0)
        for read in reads:
            self.line.data_received(read)

    async def found(self):
        """What came of it, once the engine is gone."""
        if not self.task.done():
            self.line.connection_lost(None)
        failure = await self.task
        sent, scanner = b"".join(self.client.transport.sent), self.scanner
        counts = scanner.events, scanner.bytes, scanner.finished, scanner.done, scanner.error, scanner.told
        return unframed(sent), b"".join(self.kept), counts, str(failure)


def unframed(data):
    body = b""
    while data:
        size, _, data = data.partition(b"\r\n")
        body += data[: int(size, 16)]
        assert data[int(size, 16) :][:2] == b"\r\n"
        data = data[int(size, 16) + 2 :]
    return body


GO = [chunk(says("a")), chunk(says("b")), chunk(says("c")), chunk(says("d"))]
MORE = [chunk(says("e")), chunk(says("f"))]
UNFINISHED = event(b'{"choices":[{"index":0,"delta":5,"text":"abc","finish_reason":"stop"}]}')
SAME = {
    "a name of an event in a chunk of its own": [*GO, chunk(b"event: error\n"), *MORE],
    "an id in a chunk of its own": [*GO, chunk(b"id: 7\n"), *MORE],
    "a comment without its empty line": [*GO, chunk(b": ping\n"), *MORE],
    "a comment with a text": [*GO, *[chunk(b': "content": "x"\n\n')] * 3, *MORE],
    "behind the end": [*GO, chunk(DONE), *MORE],
    "behind an error": [*GO, chunk(event({"error": {"message": "x"}})), *MORE],
    "behind what stopped": [*GO, chunk(event({"choices": [{"index": 0, "finish_reason": "abort"}]})), *MORE],
    "first events of an unknown shape": [chunk(UNFINISHED)] * 4,
    "two events of which one ends with CRLF": [*GO, *[chunk(b'data: {"text":"a"}\r\n\r\n' + says("b"))] * 3],
    "chunks inside of a chunk": [*GO, b"4\r\n4", b"4\r\n4\r\n4\r\n", *MORE],
}


@pytest.mark.parametrize("reads", SAME.values(), ids=SAME)
async def test_what_changes_the_meaning_of_the_next_event_changes_it_in_the_lane_too(reads, monkeypatch):
    found = []
    for lane in (True, False):
        run = Run(monkeypatch, lane=lane, finishes=True)
        await run.feed(*reads)
        found.append(await run.found())
    assert found[0] == found[1]


async def test_an_answer_is_no_longer_than_it_may_be_if_the_lane_takes_some_of_it(monkeypatch):
    odd = chunk(says("\u4f60" * 50))  # has \u: not for the lane
    found = []
    for lane in (True, False):
        run = Run(monkeypatch, lane=lane, max_bytes=4000)
        await run.feed(*GO, *[odd] * 7, *MORE * 10)
        found.append(await run.found())
    assert found[0] == found[1]


async def test_what_is_left_of_an_answer_does_not_count_what_passes_for_the_next_on_its_connection(monkeypatch):
    first = Run(monkeypatch, lane=True)
    await first.feed(*GO)
    first.client.writing_paused = True
    await first.feed(chunk(says("\u4f60")) + chunk(DONE[:-1]) + b"0\r\n\r\n")  # whole, but for its client
    size = first.scanner.bytes
    second = Run(monkeypatch, lane=True, line=first.line)
    await second.feed(*GO, *MORE)
    first.client.writing_paused = False
    first.request.on_writable()
    assert first.scanner.bytes == size
    await second.found()
    assert second.scanner.events == len(GO + MORE)
    await first.task


PARTS = [
    *[chunk(says(text)) for text in ("hi", "a b", 'a "q"', "a\nb", "", "x" * 300)] * 4,
    chunk(says("a") + says("b")),
    chunk(says("x", usage={"completion_tokens": 3})),
    chunk(event({"choices": [{"index": 0, "delta": {"reasoning": "r"}}]})),
    chunk(event({"choices": [{"index": 0, "delta": {"content": "x"}, "finish_reason": "stop"}]})),
    chunk(event(b'{"bad')),
    chunk(b": ping\n\n"),
    chunk(b"event: error\n"),
    chunk(says("split")[:20]),
    chunk(says("split")[20:]),
    chunk(DONE),
    b"%X;a=b\r\n%b\r\n" % (len(says("ext")), says("ext")),
]


@pytest.mark.parametrize("seed", range(100))
async def test_any_stream_is_the_same_with_the_lane_and_without(seed, monkeypatch):
    chance = random.Random(seed)
    reads = GO[:2]
    for _ in range(30):
        part = chance.choice(PARTS)
        cut = chance.randrange(len(part)) if chance.random() < 0.1 else 0
        reads = [*reads, part[:cut], part[cut:]] if cut else [*reads, part]
    if chance.random() < 0.5:
        reads.append(b"0\r\n\r\n")
    options = {
        "finishes": chance.random() < 0.5,
        "choices": chance.choice([1, 1, 2]),
        "rewrite": chance.choice([None, strip_events]),
        "max_bytes": chance.choice([1 << 40, 2000]),
    }
    found = []
    for lane in (True, False):
        run = Run(monkeypatch, lane=lane, **options)
        await run.feed(*reads)
        found.append(await run.found())
    assert found[0] == found[1]


async def test_an_engine_does_not_go_on_for_a_client_that_says_no_more_and_does_not_read():
    gone = asyncio.Event()

    async def endless(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(HEAD)
        try:
            while not writer.is_closing():
                writer.write(chunk(says("x" * 2000)))
                await writer.drain()
                await asyncio.sleep(0.001)
        except ConnectionError:
            pass
        finally:
            gone.set()

    loop = asyncio.get_running_loop()
    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": "hi"}], "stream": True}).encode()
    head = "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
    head += f"content-length: {len(body)}"
    ask = head.encode() + b"\r\n\r\n" + body
    engine = await asyncio.start_server(endless, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{engine.sockets[0].getsockname()[1]}"
    async with gateway(url) as gw:
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
            client.setblocking(False)
            await loop.sock_connect(client, ("127.0.0.1", gw.port))
            await loop.sock_sendall(client, ask)
            await until(lambda: gw.front._open)
            transport = next(iter(gw.front._open)).request.transport
            transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2048)
            await until(lambda: transport.get_write_buffer_size() > 1000)
            client.shutdown(socket.SHUT_WR)
            await asyncio.wait_for(gone.wait(), 20)
    engine.close()
