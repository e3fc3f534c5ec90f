"""Streams that go from socket to socket: order, framing, clients that do not read, and what is left behind."""

from __future__ import annotations

import asyncio
import json
import socket

import httpx

from tests.gateway.harness import gateway, raw, until
from tests.gateway.misbehaving import (
    DONE,
    HANG,
    KEEP,
    LAST_CHUNK,
    STREAM_HEAD,
    chunk,
    completion,
    delta,
    stream,
    upstream,
)

CHAT = "/v1/chat/completions"
ASK = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "stream": True}


def request(version="1.1", *, more=b"", **body):
    content = json.dumps({**ASK, **body}).encode()
    head = (
        f"POST {CHAT} HTTP/{version}\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {len(content)}\r\n"
    )
    return head.encode() + more + b"\r\n" + content


async def test_a_stream_cut_at_every_byte_arrives_as_it_was():
    wanted = b"".join([delta("", role="assistant"), delta("h\u00e9"), delta(finish="stop"), DONE])
    pieces = [chunk(wanted[at : at + 1]) for at in range(len(wanted))]
    async with (
        upstream((STREAM_HEAD, *pieces, LAST_CHUNK, KEEP)) as up,
        gateway(up.url) as gw,
        httpx.AsyncClient() as http,
    ):
        found = await http.post(gw.url + CHAT, json=ASK)
        assert found.content == wanted
        assert found.headers["content-type"] == "text/event-stream"
        assert found.headers["date"]


async def test_a_client_of_http_1_0_gets_a_stream_without_chunks_to_the_end_of_the_connection():
    async with upstream((*stream("hello"), KEEP)) as up, gateway(up.url) as gw:
        head, _, body = (await raw(gw.port, request("1.0"))).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.0 200")
        assert b"transfer-encoding" not in head
        assert body.endswith(DONE)
        assert body.startswith(b"data: ")


async def test_close_and_keep_alive_are_said_where_they_are_not_the_default():
    async with upstream((completion(), KEEP)) as up, gateway(up.url) as gw:
        head = await raw(gw.port, request(stream=False, more=b"connection: close\r\n"))
        assert b"\r\nconnection: close\r\n" in head
        head = await raw(gw.port, request("1.0", stream=False, more=b"connection: keep-alive\r\n"), until_close=False)
        assert b"\r\nconnection: keep-alive\r\n" in head


async def test_a_client_that_does_not_read_stops_the_engine_and_gets_everything_later():
    text, count = "x" * 10_000, 3000
    async with upstream((*stream(*([text] * count)), KEEP)) as up, gateway(up.url) as gw:
        reader, writer = await asyncio.open_connection("127.0.0.1", gw.port, limit=4096)
        writer.write(request(more=b"connection: close\r\n"))
        await reader.readuntil(b"\r\n\r\n")
        relay = next(iter(gw.front._open))
        await until(lambda: relay.request.connection.writing_paused)
        await asyncio.sleep(0.1)  # whatever else would come then
        assert relay.request.connection.writing_paused
        assert relay.request.transport.get_write_buffer_size() < 4_000_000
        found = await asyncio.wait_for(reader.read(), 20)
        assert found.count(text.encode()) == count
        assert DONE in found
        writer.close()


async def test_a_client_that_never_reads_is_closed_and_the_engine_freed():
    async with (
        upstream((*stream(*(["x" * 10_000] * 3000)), HANG)) as up,
        gateway(up.url, idle_timeout_s=0.3) as gw,
    ):
        _, writer = await asyncio.open_connection("127.0.0.1", gw.port, limit=4096)
        writer.write(request())
        await up.arrived.wait()
        await until(lambda: gw.in_flight.counts == {} and gw.front.open_requests == 0)
        writer.close()


async def test_the_engine_sees_at_once_that_a_stream_is_not_wanted_any_more():
    async with upstream((STREAM_HEAD, chunk(delta("hello")), HANG)) as up, gateway(up.url) as gw:
        tasks = len(asyncio.all_tasks())
        reader, writer = await asyncio.open_connection("127.0.0.1", gw.port)
        writer.write(request())
        await reader.readuntil(b"hello")
        writer.close()
        async with asyncio.timeout(20):
            await up.gone.wait()
        await until(lambda: gw.in_flight.counts == {} and len(asyncio.all_tasks()) <= tasks)


async def test_a_hundred_streams_at_once_all_come_whole_and_leave_nothing():
    async with upstream((*stream(*"abcdef"), KEEP)) as up, gateway(up.url) as gw:
        tasks = len(asyncio.all_tasks())
        async with httpx.AsyncClient(timeout=20, limits=httpx.Limits(max_connections=100)) as http:
            found = await asyncio.gather(*(http.post(gw.url + CHAT, json=ASK) for _ in range(100)))
        assert {each.content for each in found} == {found[0].content}
        assert found[0].content.endswith(DONE)
        await until(lambda: gw.front.open_requests == 0 and gw.in_flight.counts == {})
        await until(lambda: len(asyncio.all_tasks()) <= tasks + up.connections)


async def test_events_that_come_together_go_on_together_and_in_order():
    texts = [str(number) for number in range(200)]
    whole = b"".join(chunk(delta(text)) for text in texts)
    script = (STREAM_HEAD, whole, chunk(delta(finish="stop")), chunk(DONE), LAST_CHUNK, KEEP)
    async with upstream(script) as up, gateway(up.url) as gw, httpx.AsyncClient() as http:
        found = await http.post(gw.url + CHAT, json=ASK)
        events = [json.loads(each[6:]) for each in found.text.split("\n\n")[:200]]
        assert [each["choices"][0]["delta"]["content"] for each in events] == texts


async def test_an_engine_does_not_go_on_for_a_client_that_says_no_more_and_does_not_read():
    gone, loop = asyncio.Event(), asyncio.get_running_loop()

    async def endless(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(STREAM_HEAD)
        try:
            while not writer.is_closing():
                writer.write(chunk(delta("x" * 2000)))
                await writer.drain()
                await asyncio.sleep(0.001)
        except ConnectionError:
            pass
        finally:
            gone.set()

    engine = await asyncio.start_server(endless, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{engine.sockets[0].getsockname()[1]}"
    async with gateway(url) as gw:
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
            client.setblocking(False)
            await loop.sock_connect(client, ("127.0.0.1", gw.port))
            await loop.sock_sendall(client, request())
            await until(lambda: gw.front._open)
            transport = next(iter(gw.front._open)).request.transport
            transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2048)
            await until(lambda: transport.get_write_buffer_size() > 1000)
            client.shutdown(socket.SHUT_WR)
            await asyncio.wait_for(gone.wait(), 20)
    engine.close()
