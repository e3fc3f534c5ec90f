"""Any worker tells of a request that another one served."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import stat

import grpc.aio
import httpx
import msgspec
import psutil
import pytest

from gateway.receipts import Page, Query
from gateway.run import run
from gateway.siblings import Siblings
from geniehive import codec
from geniehive.config import Config, GatewayConfig
from geniehive.v1 import routing_service_pb2 as pb
from geniehive.v1 import routing_service_pb2_grpc as rpc
from tests.gateway.harness import service, snapshot, until
from tests.gateway.misbehaving import KEEP, completion, upstream
from tests.gateway.test_app import children
from tests.gateway.test_receipts import REQUESTS, ask, get


@contextlib.asynccontextmanager
async def listening(*siblings):
    """Each answers with its place as the number that it keeps."""
    async with contextlib.AsyncExitStack() as stack:
        for kept, each in enumerate(siblings, 1):
            await stack.enter_async_context(each.listening(lambda _query, kept=kept: Page(kept=kept, receipts=[])))
        yield


async def test_everybody_but_oneself_is_asked(tmp_path):
    one, two, three = (Siblings(tmp_path / f"{n}.sock") for n in (1, 2, 3))
    async with listening(one, two, three):
        assert [page.kept for page in await one.ask(Query())] == [2, 3]
        assert [page.kept for page in await three.ask(Query())] == [1, 2]
    assert list(tmp_path.parent.glob(f"{tmp_path.name}/*")) == []


async def test_a_dead_sibling_is_told_from_none(tmp_path):
    one, dead = Siblings(tmp_path / "1.sock"), tmp_path / "2.sock"
    server = await asyncio.start_unix_server(lambda reader, writer: writer.close(), dead)
    async with listening(one):
        assert await one.ask(Query()) == [None]
        server.close()
        dead.touch()
        assert await one.ask(Query()) == [None]
        async with listening(Siblings(dead)):  # its successor takes the place
            assert [page.kept for page in await one.ask(Query())] == [1]


async def test_alone_there_is_nobody_to_ask():
    alone = Siblings()
    async with listening(alone):
        assert await alone.ask(Query()) == []


@pytest.mark.parametrize("nonsense", [b"", b"\n", b"x" * 100_000 + b"\n", b'{"limit":"x"}\n'])
async def test_nonsense_on_the_socket_harms_nobody(tmp_path, nonsense):
    one, two = Siblings(tmp_path / "1.sock"), Siblings(tmp_path / "2.sock")
    async with listening(one, two):
        reader, writer = await asyncio.open_unix_connection(tmp_path / "2.sock")
        writer.write(nonsense)
        writer.write_eof()
        with contextlib.suppress(ConnectionError):
            assert await reader.read() == b""
        writer.close()
        assert [page.kept for page in await one.ask(Query())] == [2]


class ControlPlane(rpc.RoutingServiceServicer):
    """Gives every gateway the same picture."""

    def __init__(self, shape):
        self.update = pb.RoutingUpdate(epoch=1, revision=1, snapshot=codec.snapshot_to_pb(shape))

    async def Watch(self, requests, context):
        yield self.update
        await asyncio.Event().wait()


@contextlib.asynccontextmanager
async def gateway_of_two(shape):
    server = grpc.aio.server()
    rpc.add_RoutingServiceServicer_to_server(ControlPlane(shape), server)
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    config = Config(gateway=GatewayConfig(port=0, workers=2))
    dialled = msgspec.structs.replace(config.control_plane, address=address)
    stop, found = asyncio.Event(), asyncio.get_running_loop().create_future()
    config = msgspec.structs.replace(config, control_plane=dialled)
    task = asyncio.ensure_future(run(config, stop=stop, ready=found.set_result))
    try:
        await asyncio.wait([task, found], timeout=30, return_when=asyncio.FIRST_COMPLETED)
        yield type("Gateway", (), {"url": found.result()})
    finally:
        stop.set()
        async with asyncio.timeout(20):
            await task
        await server.stop(None)


def sockets():
    """Of the workers, by their command lines."""
    found = {}
    for each in children():
        with contextlib.suppress(psutil.Error, IndexError):  # it may end meanwhile
            found[each.pid] = each.cmdline()[-1]
    return found


async def ready(gw):
    """Wait until a good many new connections in a row find a worker that has its picture."""
    seen = 0
    async with asyncio.timeout(60):
        while seen < 12:
            seen = seen + 1 if (await get(gw, "/readyz")).status_code == 200 else 0
            await asyncio.sleep(0.01)


async def test_with_two_workers_each_tells_of_the_requests_of_both():
    async with upstream((completion(), KEEP)) as one, gateway_of_two(snapshot([service(1, one.url)])) as gw:
        await ready(gw)
        asked = [(await ask(gw)).headers["x-request-id"] for _ in range(16)]  # a connection each: the kernel spreads
        for request_id in asked:
            for _ in range(2):
                found = await get(gw, f"{REQUESTS}/{request_id}")
                assert found.status_code == 200, found.text
                assert found.json()["candidates"]
        listed = (await get(gw)).json()
        assert sorted(each["request_id"] for each in listed["data"]) == sorted(asked)
        assert [each["at_ms"] for each in listed["data"]] == sorted((e["at_ms"] for e in listed["data"]), reverse=True)
        assert (listed["kept"], listed["silent_workers"]) == (16, 0)
        assert len((await get(gw, limit=5)).json()["data"]) == 5
        folder = os.path.dirname(next(iter(sockets().values())))  # noqa: PTH120 - a string of a command line
        assert stat.S_IMODE(os.stat(folder).st_mode) == 0o700  # noqa: PTH116 - see above
    assert not os.path.exists(folder)  # noqa: PTH110 - see above


async def test_a_worker_that_was_killed_takes_its_receipts_along_and_its_successor_answers_again():
    async with upstream((completion(), KEEP)) as one, gateway_of_two(snapshot([service(1, one.url)])) as gw:
        await ready(gw)
        killed = next(iter(sockets()))
        os.kill(killed, signal.SIGKILL)
        await until(lambda: len(sockets()) == 2 and killed not in sockets(), 60)
        async with asyncio.timeout(60):
            while True:
                with contextlib.suppress(httpx.TransportError):
                    if (await get(gw)).json().get("silent_workers") == 0:  # a new one has no picture at first
                        break
                await asyncio.sleep(0.05)
        await ready(gw)
        assert (await get(gw, f"{REQUESTS}/nope")).status_code == 404
