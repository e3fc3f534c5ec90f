"""The door, against real sockets: reuse, replays, timeouts, uploads, and nothing left behind."""

from __future__ import annotations

import asyncio
import gzip
import os
import socket
import ssl
from contextlib import asynccontextmanager, suppress

import psutil
import pytest

from geniehive.errors import UpstreamUnavailable
from geniehive.relay.failures import Refused, Unanswered
from geniehive.relay.request import UpstreamRequest
from geniehive.relay.upstream import Upstream
from tests.gateway.misbehaving import (
    CLOSE,
    HANG,
    KEEP,
    LAST_CHUNK,
    RESET,
    STREAM_HEAD,
    UNREAD,
    answer,
    chunk,
    upstream,
)
from tests.geniehive.relay.wire import whole
from tests.ports import free_port


@asynccontextmanager
async def relay(**options):
    """An Upstream; when it ends no connection of it is left, and no task but this one."""
    async with Upstream(connect_timeout_s=options.pop("connect_timeout_s", 20), **options) as one:
        yield one
        pool = one._pool
    assert pool.open == 0
    assert pool.idle == 0


def post(one, body=b"{}", path="/x", **headers):
    return UpstreamRequest("POST", one.url + path, {"content-type": "application/json", **headers}, body)


async def until(condition):
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.002)


async def test_a_connection_is_used_again():
    async with upstream((answer(body=b"one"), KEEP)) as up, relay() as out:
        for _ in range(5):
            response = await out.open(post(up))
            assert await whole(response) == (200, b"one")
            response.close()
        assert up.connections == 1
        assert out.connections == (1, 1)
        assert up.seen[0].path == "/x"
        assert up.seen[0].headers["host"] == up.url.removeprefix("http://")


async def test_requests_at_once_take_a_connection_each():
    async with upstream((0.05, answer(), KEEP)) as up, relay() as out:
        responses = await asyncio.gather(*(out.open(post(up)) for _ in range(8)))
        assert [each.status for each in responses] == [200] * 8
        assert up.connections == 8
        assert out.connections == (8, 8)


async def test_a_waiting_connection_that_its_engine_closes_leaves_the_pool():
    async with upstream((answer(), CLOSE)) as up, relay() as out:
        await whole(await out.open(post(up)))
        await until(lambda: out.connections == (0, 0))
        assert (await out.open(post(up))).status == 200
        assert up.connections == 2


@pytest.mark.parametrize("death", [RESET, CLOSE])
async def test_a_used_connection_that_dies_unanswered_is_replaced_once(death):
    async with upstream((answer(), KEEP), (death,), (answer(body=b"again"), KEEP)) as up, relay() as out:
        await whole(await out.open(post(up)))
        assert await whole(await out.open(post(up))) == (200, b"again")
        assert len(up.seen) == 3
    async with upstream((answer(), KEEP), (death,)) as up, relay() as out:
        await whole(await out.open(post(up)))
        with pytest.raises(Unanswered):
            await out.open(post(up))
        assert len(up.seen) == 3


async def test_a_new_connection_that_dies_is_not_replaced():
    async with upstream((RESET,), (answer(), KEEP)) as up, relay() as out:
        with pytest.raises(Unanswered):
            await out.open(post(up))
        assert len(up.seen) == 1


async def test_an_engine_that_fails_at_its_work_is_not_asked_twice(monkeypatch):
    monkeypatch.setattr("geniehive.relay.upstream._STALE_S", 0.05)
    async with upstream((answer(), KEEP), (0.2, RESET)) as up, relay() as out:
        await whole(await out.open(post(up)))
        with pytest.raises(Unanswered):
            await out.open(post(up))
        assert len(up.seen) == 2


async def test_a_connection_is_not_used_after_the_time_that_its_engine_gave():
    async with upstream((answer(keep_alive="timeout=1"), KEEP)) as up, relay() as out:
        await whole(await out.open(post(up)))
        await whole(await out.open(post(up)))
        assert up.connections == 2


async def test_what_waits_too_long_is_closed(monkeypatch):
    monkeypatch.setattr("geniehive.relay.pool._SWEEP_S", 0.05)
    async with upstream((answer(keep_alive="timeout=1"), KEEP)) as up, relay() as out:
        await whole(await out.open(post(up)))
        await until(lambda: out.connections == (0, 0))


@pytest.mark.parametrize("url", ["http://127.0.0.1:{port}", "http://[::1]:{port}", "https://127.0.0.1:{port}"])
async def test_a_closed_port_is_refused(url):
    async with relay() as out:
        with pytest.raises(Refused):
            await out.open(UpstreamRequest("POST", url.format(port=free_port()), {}, b""))


async def test_a_name_that_does_not_resolve_is_refused():
    async with relay() as out:
        with pytest.raises(Refused, match="resolve"):
            await out.open(UpstreamRequest("POST", "http://no-such-host.invalid/", {}, b""))


async def test_connecting_that_takes_too_long_is_refused():
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        port = full.getsockname()[1]
        async with relay(connect_timeout_s=0.2) as out:
            fillers = [socket.socket() for _ in range(4)]
            for each in fillers:
                each.setblocking(False)
                each.connect_ex(("127.0.0.1", port))
            with pytest.raises(Refused, match="too long"):
                await out.open(UpstreamRequest("POST", f"http://127.0.0.1:{port}/", {}, b""))
            for each in fillers:
                each.close()


async def test_a_name_is_looked_up_once_and_the_address_that_answers_comes_first():
    async with upstream((answer(), KEEP)) as up, relay() as out:
        port = up.url.rpartition(":")[2]
        asked = []

        async def look_up(host, port, **_more):
            asked.append(host)
            return [(socket.AF_INET, 1, 6, "", ("127.0.0.9", 1)), (socket.AF_INET, 1, 6, "", ("127.0.0.1", port))]

        out._dialer._loop = Loop(out._dialer._loop, look_up)
        for _ in range(2):
            response = await out.open(UpstreamRequest("POST", f"http://engine.example:{port}/", {}, b""))
            response.close()
            await until(lambda: out.connections[0] == out.connections[1])
            for each in tuple(out._pool._all):
                each.abort()
            await until(lambda: out.connections == (0, 0))
        assert asked == ["engine.example"]
        assert out._dialer._names["engine.example", int(port)][1] == ["127.0.0.1", "127.0.0.9"]


class Loop:
    def __init__(self, loop, look_up):
        self._real = loop
        self.getaddrinfo = look_up

    def __getattr__(self, name):
        return getattr(self._real, name)


async def test_redirects_are_not_followed_and_cookies_not_kept():
    first = answer(302, b"", location="http://127.0.0.1:1/", set_cookie="a=b")
    async with upstream((first, KEEP), (answer(), KEEP)) as up, relay() as out:
        assert (await whole(await out.open(post(up))))[0] == 302
        await whole(await out.open(post(up)))
        assert "cookie" not in up.seen[1].headers


@pytest.mark.parametrize("new", [False, True], ids=["waiting", "new"])
async def test_who_leaves_with_a_whole_answer_leaves_its_connection_to_the_next(new):
    may_answer, freed = asyncio.Event(), asyncio.Event()
    first = [] if new else [(answer(body=b"warm"), KEEP)]
    async with (
        upstream(*first, (may_answer, answer(body=b"one"), KEEP), (answer(body=b"two"), KEEP)) as up,
        relay() as out,
    ):
        if not new:
            await whole(await out.open(post(up)))
        leaving = asyncio.ensure_future(out.open(post(up)))
        await until(lambda: len(up.seen) == len(first) + 1)
        (connection,) = out._pool._all
        told = connection._freed
        connection._freed = lambda one: (told(one), freed.set())

        async def next_one():
            await freed.wait()  # in the round in which the answer came: who leaves has not been told of it
            leaving.cancel()
            return await whole(await out.open(post(up)))

        coming = asyncio.ensure_future(next_one())
        await asyncio.sleep(0)
        may_answer.set()
        async with asyncio.timeout(10):
            assert await coming == (200, b"two")
        assert out.connections == (1, 1)


@pytest.mark.parametrize("step", [(HANG,), (STREAM_HEAD, chunk(b"data: 1\n\n"), HANG)], ids=["headers", "stream"])
async def test_the_engine_sees_a_cancel_at_once(step):
    async with upstream(step) as up, relay() as out:

        async def ask():
            response = await out.open(post(up))
            try:
                await whole(response)
            finally:
                response.close()

        task = asyncio.ensure_future(ask())
        await up.arrived.wait()
        await until(lambda: up.hanging)
        task.cancel()
        await asyncio.wait([task])
        async with asyncio.timeout(20):
            await up.gone.wait()
        await until(lambda: out.connections == (0, 0))


async def test_a_cancel_while_the_head_is_awaited_closes_by_itself():
    async with upstream((HANG,)) as up, relay() as out:
        task = asyncio.ensure_future(out.open(post(up)))
        await up.arrived.wait()
        task.cancel()
        async with asyncio.timeout(20):
            await up.gone.wait()
        await until(lambda: out.connections == (0, 0))


async def pieces(count, size=1000, gate=None):
    for _ in range(count):
        if gate is not None:
            await gate.wait()
        yield b"x" * size


async def test_a_streamed_body_is_chunked_or_has_its_length():
    async with upstream((answer(), KEEP)) as up, relay() as out:
        await whole(await out.open(post(up, pieces(3))))
        await whole(await out.open(post(up, pieces(3), **{"content-length": "3000"})))
        assert [len(each.body) for each in up.seen] == [3000, 3000]
        assert up.seen[0].headers["transfer-encoding"] == "chunked"
        assert "transfer-encoding" not in up.seen[1].headers
        await until(lambda: out.connections == (2, 2))


@pytest.mark.parametrize("length", ["2999", "3001"])
async def test_a_streamed_body_of_another_length_than_announced_fails(length):
    async with upstream((answer(), KEEP)) as up, relay() as out:
        with pytest.raises(UpstreamUnavailable):
            await out.open(post(up, pieces(3), **{"content-length": length}))
        await until(lambda: out.connections == (0, 0))


async def test_a_body_that_breaks_off_is_never_taken_as_whole():
    async def broken():
        yield b"x" * 1000
        raise ValueError("the client is gone")

    async with upstream((answer(), KEEP)) as up, relay() as out:
        with pytest.raises(UpstreamUnavailable, match="broke off"):
            await out.open(post(up, broken()))
        await until(lambda: out.connections == (0, 0))
        assert up.seen == []


async def test_an_engine_that_refuses_early_is_heard_before_all_is_sent():
    gate = asyncio.Event()
    async with upstream((UNREAD, answer(413, b"too large"), HANG)) as up, relay() as out:
        body = pieces(10, gate=gate)
        response = await asyncio.wait_for(out.open(post(up, body)), 20)
        assert await whole(response) == (413, b"too large")
        await until(lambda: out.connections == (0, 0))


async def test_a_cancelled_upload_closes_its_connection():
    gate = asyncio.Event()
    async with upstream((UNREAD, HANG)) as up, relay() as out:
        task = asyncio.ensure_future(out.open(post(up, pieces(10, gate=gate))))
        await up.arrived.wait()
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        await until(lambda: out.connections == (0, 0))


async def test_an_upload_waits_for_an_engine_that_does_not_read():
    sent = 0

    async def body():
        nonlocal sent
        for _ in range(1000):
            sent += 100_000
            yield b"x" * 100_000

    async with upstream((UNREAD, 0.3, answer(507), CLOSE)) as up, relay() as out:
        response = await out.open(post(up, body()))
        assert response.status == 507
        assert sent < 20_000_000
        response.close()


async def test_200_megabytes_go_up_in_flat_memory():
    size, count = 1024 * 1024, 200
    process, most = psutil.Process(os.getpid()), 0

    async def body():
        nonlocal most
        for _ in range(count):
            yield b"x" * size
            most = max(most, process.memory_info().rss)

    async def swallow(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        left = size * count
        while left:
            left -= len(await reader.read(256 * 1024))
        writer.write(answer())
        writer.close()

    server = await asyncio.start_server(swallow, "127.0.0.1", 0)
    async with server, relay() as out:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
        before = process.memory_info().rss
        request = UpstreamRequest("POST", url, {"content-length": str(size * count)}, body())
        assert (await whole(await out.open(request)))[0] == 200
        assert most - before < 40 * 1024 * 1024


async def test_a_large_answer_waits_for_its_reader():
    async with (
        upstream((b"HTTP/1.1 200 OK\r\ncontent-length: 50000000\r\n\r\n", b"x" * 50_000_000, KEEP)) as up,
        relay() as out,
    ):
        response = await out.open(post(up))
        await asyncio.sleep(0.3)
        assert response._size < 2_000_000
        assert len((await whole(response))[1]) == 50_000_000
        await until(lambda: out.connections == (1, 1))


async def test_gzip_from_an_engine_is_expanded():
    packed = gzip.compress(b"hello" * 1000)
    async with upstream((answer(body=packed, content_encoding="gzip"), KEEP)) as up, relay() as out:
        assert await whole(await out.open(post(up))) == (200, b"hello" * 1000)


async def test_a_chunked_stream_comes_as_it_is_sent():
    async with upstream((STREAM_HEAD, chunk(b"one"), 0.05, chunk(b"two"), LAST_CHUNK, KEEP)) as up, relay() as out:
        response = await out.open(post(up))
        assert response.content_type == "text/event-stream"
        assert [await response.read() for _ in range(3)] == [b"one", b"two", b""]
        assert response.ended


async def test_bad_requests_fail_without_a_connection():
    async with upstream((answer(), KEEP)) as up, relay() as out:
        for request in (
            UpstreamRequest("POST", "file:///etc/passwd", {}, b""),
            UpstreamRequest("POST", up.url, {"a": "b\r\nc: d"}, b""),
            UpstreamRequest("POST", up.url, {"content-length": "-1"}, pieces(1)),
        ):
            with pytest.raises(UpstreamUnavailable):
                await out.open(request)
        assert up.connections == 0


async def test_tls_engines_are_checked_and_asked(tls):
    server_side, client_side = tls

    async def serve(reader, writer):
        while await reader.readuntil(b"\r\n\r\n"):
            writer.write(answer(body=b"secret"))

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=server_side)
    url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    request = UpstreamRequest("GET", url, {}, b"")
    async with relay(tls=client_side) as out:
        for _ in range(2):
            assert await whole(await out.open(request)) == (200, b"secret")
        assert out.connections == (1, 1)
    async with relay() as out:
        with pytest.raises(Refused, match="certificate"):
            await out.open(request)
    server.close()


@pytest.fixture
def tls(tmp_path):
    """Contexts of a server for 127.0.0.1 and of a client that trusts it."""
    import datetime as dt
    import ipaddress

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "engine")])
    now = dt.datetime.now(dt.UTC)
    address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    made = x509.CertificateBuilder(name, name, key.public_key(), 1, now, now + dt.timedelta(hours=1))
    made = made.add_extension(address, critical=False)
    made = made.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    pem = made.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path = tmp_path / "engine.pem"
    path.write_bytes(pem + secret)
    server_side = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_side.load_cert_chain(path)
    return server_side, ssl.create_default_context(cadata=pem.decode())


async def test_nothing_is_left_of_a_hundred_exchanges_of_all_kinds():
    scripts = [(answer(), KEEP), (RESET,), (STREAM_HEAD, chunk(b"x"), RESET), (b"rubbish\r\n", CLOSE), (HANG,)]
    process, tasks = psutil.Process(), len(asyncio.all_tasks())
    async with upstream(*(scripts * 20)) as up, relay() as out:
        before = len(process.net_connections("tcp"))

        async def exchange():
            with suppress(UpstreamUnavailable):
                response = await out.open(post(up))
                try:
                    await whole(response)
                finally:
                    response.close()

        for _ in range(100):
            hung, task = up.hanging, asyncio.ensure_future(exchange())
            await until(lambda task=task, hung=hung: task.done() or up.hanging > hung)
            task.cancel()
            await asyncio.wait([task])
        await until(lambda: out.connections[0] <= 1)  # one may wait for its next request
        await out._pool.close()
        await until(lambda: len(process.net_connections("tcp")) <= before)
        assert len(up.seen) >= 100
        assert up.hanging
    await until(lambda: len(asyncio.all_tasks()) <= tasks)
