"""One connection too many, on the loop that daemons run on and on the standard one."""

import asyncio

import pytest
import uvloop

from gateway.server.refusal import Refusal


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def test_who_is_one_too_many_is_told_so_and_let_go(loop):
    async def refused():
        server = await asyncio.get_running_loop().create_server(lambda: Refusal(3), "127.0.0.1", 0)
        async with server, asyncio.timeout(10):
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            said = await reader.read()  # to its end
            writer.close()
            return said

    with asyncio.Runner(loop_factory=loop) as runner:
        head, _, body = runner.run(refused()).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 503 ")
    assert b"has 3 connections open" in body
