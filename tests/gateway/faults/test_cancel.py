"""A client that leaves: the engine sees it at once, in every phase, and its place is free."""

from __future__ import annotations

import asyncio
import json
import socket
from contextlib import asynccontextmanager

import pytest

from tests.gateway.harness import gateway, until
from tests.gateway.misbehaving import HANG, STREAM_HEAD, answer, chunk, delta, upstream

CHAT = "/v1/chat/completions"
SOON_S = 20.0  # no timeout of the gateways here is as short: what happens by then was not left to one
JSON_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 30000000\r\n\r\n"
ROLE = chunk(delta("", role="assistant"))
LARGE = b'{"a":"' + b"x" * (9 * 2**20)  # more than is held: it is passed on while it comes

PHASES = {
    "plain, waiting for headers": (False, (HANG,)),
    "plain, inside of the headers": (False, (b"HTTP/1.1 200 OK\r\n", HANG)),
    "plain, waiting for the body": (False, (JSON_HEAD, HANG)),
    "plain, in the middle of the body": (False, (JSON_HEAD + b'{"a":', HANG)),
    "plain, while a large body passes": (False, (JSON_HEAD + LARGE, HANG)),
    "streaming, waiting for headers": (True, (HANG,)),
    "streaming, waiting for the first event": (True, (STREAM_HEAD, HANG)),
    "streaming, waiting for the first content": (True, (STREAM_HEAD, ROLE, HANG)),
    "streaming, between two events": (True, (STREAM_HEAD, ROLE, chunk(delta("hello")), HANG)),
    "streaming, inside of an event": (True, (STREAM_HEAD, chunk(delta("hello")), chunk(b'data: {"a'), HANG)),
    "streaming, behind the finish": (True, (STREAM_HEAD, chunk(delta(finish="stop")), HANG)),
    "streaming, while events come fast": (True, (STREAM_HEAD, *[chunk(delta("hello")), 0.005] * 2000, HANG)),
}


def request(path=CHAT, *, close=False, **fields):
    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": "hi"}], **fields}).encode()
    kind = b"connection: close\r\n" if close else b""
    head = b"POST %b HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n%bcontent-length: %d\r\n\r\n"
    return head % (path.encode(), kind, len(body)) + body


@asynccontextmanager
async def left_alone(gw, up):
    """Inside, a client leaves; afterwards the engine must know it, and nothing may be left."""
    tasks = len(asyncio.all_tasks())
    yield
    async with asyncio.timeout(SOON_S):
        await up.gone.wait()
        await until(lambda: gw.in_flight.counts == {} and gw.front.open_requests == 0)
    await until(lambda: len(asyncio.all_tasks()) <= tasks)


def reset(writer):
    """Leave as a process that is killed with unread data does."""
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    writer.transport.abort()


@pytest.mark.parametrize("how", ["closes", "resets"])
@pytest.mark.parametrize(("streamed", "script"), PHASES.values(), ids=PHASES)
async def test_the_engine_knows_at_once_that_the_client_left(streamed, script, how):
    async with upstream(script) as up, gateway(up.url, idle_timeout_s=30, first_byte_timeout_s=30) as gw:
        _, writer = await asyncio.open_connection("127.0.0.1", gw.port)
        async with left_alone(gw, up):
            writer.write(request(stream=streamed))
            await up.arrived.wait()
            assert gw.in_flight.counts == {"h1/s": 1}
            await asyncio.sleep(0.02)  # into the phase; wherever it is by then must do
            if how == "closes":
                writer.close()
            else:
                reset(writer)


async def test_a_client_that_leaves_while_it_gets_comments_frees_the_engine():
    async with upstream((HANG,)) as up, gateway(up.url, keepalive_comment_s=0.05) as gw:
        reader, writer = await asyncio.open_connection("127.0.0.1", gw.port)
        async with left_alone(gw, up):
            writer.write(request(stream=True))
            await reader.readuntil(b": keepalive")
            writer.close()


async def test_a_client_that_leaves_during_the_second_attempt_frees_the_second_engine():
    async with upstream((answer(500),)) as bad, upstream((HANG,)) as up, gateway(bad.url, up.url) as gw:
        _, writer = await asyncio.open_connection("127.0.0.1", gw.port)
        async with left_alone(gw, up):
            writer.write(request())
            await up.arrived.wait()
            writer.close()


async def test_a_client_that_leaves_while_a_busy_engine_is_waited_for_asks_it_no_more():
    async with upstream((answer(429, retry_after="2"),)) as up, gateway(up.url) as gw:
        _, writer = await asyncio.open_connection("127.0.0.1", gw.port)
        writer.write(request())
        await up.arrived.wait()
        writer.close()
        async with asyncio.timeout(SOON_S):
            await until(lambda: gw.front.open_requests == 0)
        assert len(up.seen) == 1


async def test_a_client_that_leaves_in_the_middle_of_an_upload_frees_the_engine():
    head = (
        b"POST /v1/audio/transcriptions HTTP/1.1\r\nhost: x\r\ncontent-type: multipart/form-data; boundary=b\r\n"
        b"content-length: 900000\r\n\r\n--b\r\ncontent-disposition: form-data; name=model\r\n\r\nm\r\n"
        b"--b\r\ncontent-disposition: form-data; name=file; filename=a.wav\r\n\r\n"
    )
    async with upstream((HANG,)) as up, gateway(up.url) as gw:
        _, writer = await asyncio.open_connection("127.0.0.1", gw.port)
        writer.write(head + b"x" * 500_000)
        await until(lambda: up.received > 100_000)
        assert gw.in_flight.counts == {"h1/s": 1}
        writer.close()
        async with asyncio.timeout(SOON_S):
            await until(lambda: gw.in_flight.counts == {} and gw.front.open_requests == 0)
            await up.gone.wait()


async def test_a_hundred_clients_that_leave_at_once_leave_nothing():
    async with upstream((STREAM_HEAD, chunk(delta("hello")), HANG)) as up, gateway(up.url) as gw:
        tasks = len(asyncio.all_tasks())
        writers = []
        for _ in range(100):
            _, writer = await asyncio.open_connection("127.0.0.1", gw.port)
            writer.write(request(stream=True))
            writers.append(writer)
        await until(lambda: gw.in_flight.counts == {"h1/s": 100})
        for writer in writers:
            writer.close()
        async with asyncio.timeout(SOON_S):
            await until(lambda: gw.in_flight.counts == {} and gw.front.open_requests == 0)
        await until(lambda: len(asyncio.all_tasks()) <= tasks)
        await until(lambda: gw.server.connections == set() or len(gw.server.connections) == 0)
