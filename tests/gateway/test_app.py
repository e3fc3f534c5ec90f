"""The gateway as a process: ports, workers, shutdown, and memory while a large file passes."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import signal
import socket
import sys

import httpx
import msgspec
import psutil
import pytest

import gateway.app
from gateway.run import run
from gateway.tuning import OWN_FILES
from geniehive.config import Config, GatewayConfig
from geniehive.errors import ConfigError
from tests.gateway.harness import until

MB = 2**20


@contextlib.asynccontextmanager
async def running(**settings):
    """`run` in this process; yields its URL."""
    stop, found = asyncio.Event(), asyncio.get_running_loop().create_future()
    config = Config(gateway=GatewayConfig(**{"port": 0, **settings}))
    config = msgspec.structs.replace(
        config, control_plane=msgspec.structs.replace(config.control_plane, address="127.0.0.1:1")
    )
    task = asyncio.ensure_future(run(config, stop=stop, ready=found.set_result))
    await asyncio.wait([task, found], timeout=30, return_when=asyncio.FIRST_COMPLETED)
    if task.done():
        await task
    try:
        yield found.result()
    finally:
        stop.set()
        async with asyncio.timeout(20):
            await task


async def test_it_is_alive_without_a_control_plane_and_ends_when_told():
    async with running() as url, httpx.AsyncClient() as http:
        assert (await http.get(url + "/healthz")).status_code == 200
        assert (await http.get(url + "/readyz")).status_code == 503
    with pytest.raises(httpx.ConnectError):
        httpx.get(url + "/healthz")


async def test_no_more_clients_than_there_are_files_for_are_let_in_and_others_are_told(monkeypatch):
    monkeypatch.setattr(gateway.app, "open_files", lambda: OWN_FILES + 4)
    async with running() as url, contextlib.AsyncExitStack() as stack:
        host, port = url.removeprefix("http://").split(":")
        for _ in range(2):
            reader, writer = await asyncio.open_connection(host, int(port))
            stack.callback(writer.close)
            writer.write(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n")
            await reader.readuntil(b"ok")
        reader, writer = await asyncio.open_connection(host, int(port))
        stack.callback(writer.close)
        assert (await reader.read()).startswith(b"HTTP/1.1 503 ")


@pytest.mark.parametrize("workers", [1, 2])
async def test_a_port_in_use_is_one_clear_line(workers):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"port {port} on 127.0.0.1 is in use; .*gateway.port"):
            async with running(port=port, workers=workers):
                pass


async def test_a_host_that_is_not_here_is_one_clear_line():
    with pytest.raises(ConfigError, match=r"gateway\.host"):
        async with running(host="203.0.113.7"):
            pass
    with pytest.raises(ConfigError, match=r"gateway\.host"):
        async with running(host="no.such.host.invalid"):
            pass


def children():
    found = []
    for each in psutil.Process().children():
        with contextlib.suppress(psutil.Error):
            if "gateway.worker" in each.cmdline():
                found.append(each)
    return found


async def test_two_workers_share_a_port_and_one_that_dies_is_started_again():
    async with running(workers=2) as url, httpx.AsyncClient() as http:
        first = children()
        assert len(first) == 2
        os.kill(first[0].pid, signal.SIGKILL)
        await until(lambda: len(children()) == 2 and first[0].pid not in {each.pid for each in children()}, 20)
        for _ in range(20):
            with contextlib.suppress(httpx.TransportError):
                assert (await http.get(url + "/healthz")).status_code == 200
                break
            await asyncio.sleep(0.1)
    assert children() == []


GATEWAY = """
import asyncio, sys
from tests.gateway.harness import gateway
async def main():
    async with gateway(sys.argv[1]) as gw:
        print(gw.url, flush=True)
        await asyncio.to_thread(sys.stdin.read)
asyncio.run(main())
"""


@contextlib.asynccontextmanager
async def gateway_process(upstream_url):
    """A gateway of its own process, so that its memory is its own; yields URL and process."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", GATEWAY, upstream_url, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    try:
        async with asyncio.timeout(20):
            url = (await process.stdout.readline()).decode().strip()
        yield url, psutil.Process(process.pid)
    finally:
        process.stdin.close()
        try:
            async with asyncio.timeout(20):
                await process.wait()
        except TimeoutError:
            process.kill()


@contextlib.asynccontextmanager
async def hashing_engine():
    """An engine that keeps nothing of a form but the hash and the size of what follows its first MB."""
    seen = {"size": 0, "hash": hashlib.sha256(), "headers": b""}

    async def serve(reader, writer):
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            seen["headers"] = await reader.readuntil(b"\r\n\r\n")
            while size := int(await reader.readline(), 16):
                data = await reader.readexactly(size + 2)
                seen["size"] += size
                seen["hash"].update(data[:-2])
            await reader.readexactly(2)
            writer.write(
                b'HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 13\r\n\r\n{"text":"ok"}'
            )
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, limit=4 * MB)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", seen


@pytest.mark.parametrize("model_first", [True, False], ids=["model first", "file first"])
async def test_200_mb_pass_without_the_memory_growing(model_first):
    block = os.urandom(MB)
    model = b'--B\r\nContent-Disposition: form-data; name="model"\r\n\r\nm\r\n'
    head = b'--B\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'

    async def body():
        if model_first:
            yield model
        yield head
        for _ in range(200):
            yield block
        yield b"\r\n"
        if not model_first:
            yield model
        yield b"--B--\r\n"

    async with hashing_engine() as (engine, seen), gateway_process(engine) as (url, process):
        async with httpx.AsyncClient(timeout=60) as http:
            kind = {"content-type": "multipart/form-data; boundary=B"}
            small = await http.post(
                url + "/v1/audio/transcriptions", content=head + b"x\r\n" + model + b"--B--\r\n", headers=kind
            )
            assert small.status_code == 200  # so that what is loaded once is loaded
            before, peak = process.memory_info().rss, 0
            seen.update(size=0, hash=hashlib.sha256())
            upload = asyncio.ensure_future(http.post(url + "/v1/audio/transcriptions", content=body(), headers=kind))
            while not upload.done():
                peak = max(peak, process.memory_info().rss)
                await asyncio.wait([upload], timeout=0.02)
            assert (await upload).json() == {"text": "ok"}
        assert 200 * MB < seen["size"] < 200 * MB + 2000
        assert peak - before < 12 * MB, f"{(peak - before) / MB:.1f} MB"
