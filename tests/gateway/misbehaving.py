"""An upstream that does what its script says, on raw sockets, and sees everything that reaches it.

A script is a tuple of steps for one request: bytes to send, seconds or an event to wait for, or one of RESET,
HANG and CLOSE. Scripts are used one a request, the last one for ever after. `KEEP` ends a script without closing.
"""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import time
from contextlib import asynccontextmanager
from enum import Enum


class Step(Enum):
    RESET = "reset"
    HANG = "hang"
    CLOSE = "close"
    KEEP = "keep"
    UNREAD = "unread"  # first step only: do not read the request's body


RESET, HANG, CLOSE, KEEP, UNREAD = Step.RESET, Step.HANG, Step.CLOSE, Step.KEEP, Step.UNREAD


class Seen:
    """One request as it arrived."""

    def __init__(self, line, headers, body):
        self.at = time.monotonic()
        self.line = line
        self.headers = headers
        self.body = body

    @property
    def json(self):
        return json.loads(self.body)

    @property
    def path(self):
        return self.line.split(" ")[1]


class Upstream:
    def __init__(self, scripts):
        self.scripts = list(scripts)
        self.seen = []
        self.gone = asyncio.Event()  # a peer closed while a script hung
        self.arrived = asyncio.Event()
        self.hanging = 0  # scripts that have come to their HANG
        self.connections = 0
        self.received = 0  # body bytes, counted as they come
        self.url = ""

    def next_script(self):
        return self.scripts.pop(0) if len(self.scripts) > 1 else self.scripts[0]

    async def serve(self, reader, writer):
        self.connections += 1
        try:
            while await self.one(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError):
            self.gone.set()
        finally:
            writer.close()

    async def one(self, reader, writer):
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError:
            return False
        line, *rest = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value for name, _, value in (each.partition(": ") for each in rest if each)}
        script = self.next_script()
        body = b""
        if script[:1] == (UNREAD,):
            script = script[1:]
        else:
            body = await self.body(reader, headers)
        self.seen.append(Seen(line, headers, body))
        self.arrived.set()
        return await self.play(script, reader, writer)

    async def body(self, reader, headers):
        if headers.get("transfer-encoding") == "chunked":
            pieces = []
            while size := int(await reader.readuntil(b"\n"), 16):
                pieces.append(await reader.readexactly(size))
                self.received += size
                await reader.readexactly(2)
            await reader.readexactly(2)
            return b"".join(pieces)
        return await reader.readexactly(int(headers.get("content-length", 0)))

    async def play(self, script, reader, writer):
        for step in script:
            if isinstance(step, bytes):
                writer.write(step)
                await writer.drain()
            elif isinstance(step, int | float):
                await asyncio.sleep(step)
            elif isinstance(step, asyncio.Event):
                await step.wait()
            elif step is RESET:
                writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                writer.transport.abort()
                return False
            elif step is HANG:
                self.hanging += 1
                if await reader.read(1) == b"":
                    self.gone.set()
                return False
            elif step is CLOSE:
                return False
            elif step is KEEP:
                return True
        return False


@asynccontextmanager
async def upstream(*scripts):
    """A server with these scripts; its `url` is what a service's endpoint is."""
    one = Upstream(scripts)
    tasks = set()

    def accept(reader, writer):
        task = asyncio.ensure_future(one.serve(reader, writer))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    server = await asyncio.start_server(accept, "127.0.0.1", 0, limit=2**20)
    one.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield one
    finally:
        server.close()
        for task in tuple(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def answer(status=200, body=b"{}", content_type="application/json", **headers):
    """A whole answer; header names with underscores for dashes."""
    if not isinstance(body, bytes):
        body = json.dumps(body).encode()
    lines = [f"HTTP/1.1 {status} X", f"content-type: {content_type}", f"content-length: {len(body)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def completion(text="hello", model="engine-name"):
    """A chat completion without a stream."""
    return answer(
        body={
            "id": "c1",
            "object": "chat.completion",
            "created": 1,
            "model": model,
            "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5},
        }
    )


STREAM_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
LAST_CHUNK = b"0\r\n\r\n"
DONE = b"data: [DONE]\n\n"


def chunk(data):
    """One HTTP chunk."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def event(value):
    """One server-sent event."""
    return b"data: " + json.dumps(value, separators=(",", ":")).encode() + b"\n\n"


def delta(text=None, *, role=None, finish=None):
    """One event of a chat stream."""
    piece = {}
    if role is not None:
        piece["role"] = role
    if text is not None:
        piece["content"] = text
    return event(
        {
            "id": "c1",
            "object": "chat.completion.chunk",
            "created": 1,
            "model": "engine-name",
            "choices": [{"index": 0, "delta": piece, "finish_reason": finish}],
        }
    )


def stream(*texts, finish="stop", done=True, end=LAST_CHUNK):
    """A whole chat stream as steps."""
    steps = [STREAM_HEAD, chunk(delta("", role="assistant"))]
    steps += [chunk(delta(text)) for text in texts]
    if finish:
        steps.append(chunk(delta(finish=finish)))
    if done:
        steps.append(chunk(DONE))
    return (*steps, end) if end else tuple(steps)
