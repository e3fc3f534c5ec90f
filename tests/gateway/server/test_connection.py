"""Requests on a raw socket: what is a request, where it ends, and what becomes of the connection."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager

import pytest

from gateway.answers import Whole
from gateway.http import refusal_of
from gateway.server.body import BodyError
from gateway.server.server import Server
from geniehive.relay.outbox import Outbox
from tests.gateway.harness import raw, until
from tests.geniehive.relay.wire import Patient

END = b"GET /end HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"


class Served:
    """What the server hands over; the answer to a request says what it was."""

    def __init__(self):
        self.seen = []
        self.reads = True
        self.cancelled = asyncio.Event()
        self.hangs = False
        self.hanging = asyncio.get_running_loop().create_future()

    def go_on(self):
        self.hangs = False
        self.hanging.set_result(None)

    async def __call__(self, request):
        self.seen.append(request)
        if self.hangs:
            try:
                await self.hanging
            except asyncio.CancelledError:
                self.cancelled.set()
                raise
        body = b""
        try:
            while self.reads and (piece := await request.body.read()):
                body += piece
        except BodyError:
            Whole(400, b"", "text/plain").send(request, "", keep_alive=False)
            return False
        said = f"{request.method} {request.path} {len(body)}"
        Whole(200, said.encode(), "text/plain").send(request, "", keep_alive=request.keep_alive)
        return request.keep_alive


@pytest.fixture(autouse=True, params=[Outbox, Patient], ids=["", "held"])
def outbox(request, monkeypatch):
    """Everything holds for answers that go out at once as for those that wait for others."""
    monkeypatch.setattr("gateway.server.server.Outbox", request.param)


@asynccontextmanager
async def server(**limits):
    """A server that answers with what it understood; its `served` and `port`."""
    served, loop = Served(), asyncio.get_running_loop()
    async with asyncio.TaskGroup() as tasks:
        limits = {"header_timeout_s": 5.0, "max_connections": 100} | limits
        made = Server(served, refusal_of, lambda work: tasks.create_task(work()), **limits)
        listener = await loop.create_server(made, "127.0.0.1", 0)
        made.served, made.port = served, listener.sockets[0].getsockname()[1]
        try:
            yield made
        finally:
            listener.close()
            await made.shutdown(1.0)


async def answers(port, data):
    """The bodies that come back for bytes, up to the end of the connection; of a refusal its status."""
    return bodies(await raw(port, data))


def bodies(read):
    found = []
    for each in read.split(b"HTTP/1.1 ")[1:]:
        status, body = each[:3].decode(), each.partition(b"\r\n\r\n")[2].decode()
        found.append(body if status == "200" else status)
    return found


POST = b"POST /p HTTP/1.1\r\nhost: x\r\n"
FRAMED = {
    "no body": (b"GET /g HTTP/1.1\r\nhost: x\r\n\r\n", "GET /g 0"),
    "a length": (POST + b"content-length: 5\r\n\r\nhello", "POST /p 5"),
    "chunks": (POST + b"transfer-encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n", "POST /p 5"),
    "a chunk with an extension": (POST + b"transfer-encoding: chunked\r\n\r\n3;a=b\r\nabc\r\n0\r\n\r\n", "POST /p 3"),
    "trailers": (POST + b"transfer-encoding: chunked\r\n\r\n1\r\na\r\n0\r\nx: y\r\n\r\n", "POST /p 1"),
    "empty lines before": (b"\r\n\r\nGET /g HTTP/1.1\r\nhost: x\r\n\r\n", "GET /g 0"),
    "a body that looks like a request": (POST + b"content-length: %d\r\n\r\n" % len(END) + END, f"POST /p {len(END)}"),
    "a target with a host": (b"GET http://x/g?a=b HTTP/1.1\r\nhost: x\r\n\r\n", "GET /g 0"),
    "a query": (b"GET /g?a=/x HTTP/1.1\r\nhost: x\r\n\r\n", "GET /g 0"),
    "an upgrade that is ignored": (
        b"GET /g HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: h2c\r\n\r\n", "GET /g 0"),
    "an upgrade with a length": (
        POST + b"connection: upgrade\r\nupgrade: h2c\r\ncontent-length: 5\r\n\r\nhello", "POST /p 5"),
    "an upgrade with chunks": (
        POST + b"connection: upgrade\r\nupgrade: h2c\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n",
        "POST /p 2"),
}  # fmt: skip


@pytest.mark.parametrize(("sent", "understood"), FRAMED.values(), ids=FRAMED)
async def test_a_request_ends_where_it_says_and_the_next_begins_there(sent, understood):
    async with server() as made:
        assert await answers(made.port, sent + sent + END) == [understood, understood, "GET /end 0"]


@pytest.mark.parametrize("sent", [sent for sent, _ in FRAMED.values()], ids=FRAMED)
async def test_pieces_of_any_size_make_the_same_requests(sent):
    async with server() as made:
        reader, writer = await asyncio.open_connection("127.0.0.1", made.port)
        whole = await answers(made.port, sent + END)
        for at in range(len(sent + END)):
            writer.write((sent + END)[at : at + 1])
            await asyncio.sleep(0)
        assert [
            each.partition(b"\r\n\r\n")[2].decode() for each in (await reader.read()).split(b"HTTP/1.1 ")[1:]
        ] == whole
        writer.close()


REFUSED = {
    "length and chunks": POST + b"content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "two lengths": POST + b"content-length: 5\r\ncontent-length: 5\r\n\r\nhello",
    "a length with a sign": POST + b"content-length: +5\r\n\r\nhello",
    "an empty length": POST + b"content-length:\r\n\r\n",
    "a space before the colon": POST + b"content-length : 5\r\n\r\nhello",
    "a folded header": POST + b"a: b\r\n c\r\n\r\n",
    "bare line feeds": b"GET /g HTTP/1.1\nhost: x\n\n",
    "a carriage return inside": POST + b"a: b\rc\r\n\r\n",
    "no version": b"GET /g\r\n\r\n",
    "another version": b"GET /g HTTP/2.0\r\nhost: x\r\n\r\n",
    "HTTP/2's preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "an unknown method": b"FROB / HTTP/1.1\r\nhost: x\r\n\r\n",
    "bytes in the path": b"GET /\xc3\xa4 HTTP/1.1\r\nhost: x\r\n\r\n",
    "chunks named twice": POST + b"transfer-encoding: chunked\r\ntransfer-encoding: gzip\r\n\r\n0\r\n\r\n",
}


@pytest.mark.parametrize("sent", REFUSED.values(), ids=REFUSED)
async def test_what_is_no_request_is_400_and_the_last(sent):
    async with server() as made:
        assert await answers(made.port, sent + END) == ["400"]
        assert made.served.seen == []


@pytest.mark.parametrize("coding", [b"gzip", b"chunked, gzip", b"identity"])
async def test_a_body_whose_end_nobody_can_tell_reaches_nobody_as_whole(coding):
    async with server() as made:
        await raw(made.port, POST + b"transfer-encoding: " + coding + b"\r\n\r\nhello" + END)
        assert all(request.path != "/end" for request in made.served.seen)


async def test_answers_to_what_came_before_are_not_lost():
    async with server() as made:
        assert await answers(made.port, FRAMED["a length"][0] + b"nonsense\r\n\r\n") == ["POST /p 5", "400"]


LARGE = {
    "a huge header": b"GET / HTTP/1.1\r\nhost: x\r\na: " + b"y" * 100_000 + b"\r\n\r\n",
    "a huge header that does not end": b"GET / HTTP/1.1\r\nhost: x\r\na: " + b"y" * 100_000,
    "a huge path": b"GET /" + b"y" * 20_000 + b" HTTP/1.1\r\nhost: x\r\n\r\n",
    "many headers": b"GET / HTTP/1.1\r\nhost: x\r\n" + b"".join(b"a%d: y\r\n" % n for n in range(200)) + b"\r\n",
    "one header many times": b"GET / HTTP/1.1\r\nhost: x\r\n" + b"a: y\r\n" * 200 + b"\r\n",
}  # fmt: skip


async def test_endless_trailers_end_the_connection():
    async with server() as made:
        head = POST + b"transfer-encoding: chunked\r\n\r\n1\r\na\r\n0\r\n"
        found = await raw(made.port, head + b"".join(b"a%d: y\r\n" % n for n in range(20_000)))
        assert found.startswith(b"HTTP/1.1 400 ")


@pytest.mark.parametrize("sent", LARGE.values(), ids=LARGE)
async def test_a_head_that_is_too_large_is_refused(sent):
    async with server() as made:
        found = await raw(made.port, sent)
        assert found.startswith(b"HTTP/1.1 431 ")
        assert json.loads(found.partition(b"\r\n\r\n")[2])["error"]["message"]


async def test_a_head_in_small_pieces_is_bounded_too():
    async with server() as made:
        reader, writer = await asyncio.open_connection("127.0.0.1", made.port)
        writer.write(b"GET / HTTP/1.1\r\n")
        for _ in range(140):
            writer.write(b"a: y\r\n")
            await asyncio.sleep(0.001)
        assert (await reader.read()).startswith(b"HTTP/1.1 431 ")
        writer.close()


async def test_a_large_body_with_many_line_ends_is_no_large_head():
    async with server() as made:
        body = b"\r\n" * 50_000
        assert await answers(made.port, POST + b"content-length: %d\r\n\r\n" % len(body) + body + END) == [
            f"POST /p {len(body)}",
            "GET /end 0",
        ]


async def test_a_reader_that_waits_makes_the_client_wait():
    async with server() as made:
        made.served.hangs = True
        _, writer = await asyncio.open_connection("127.0.0.1", made.port)
        writer.write(POST + b"content-length: 100000000\r\n\r\n")
        for _ in range(40):
            writer.write(b"x" * 1_000_000)
        await until(lambda: made.served.seen)
        await asyncio.sleep(0.1)
        assert made.served.seen[0].body._size < 2_000_000
        writer.transport.abort()


async def test_many_requests_at_once_do_not_pile_up():
    async with server() as made:
        found = await answers(made.port, FRAMED["no body"][0] * 500 + END)
        assert found == ["GET /g 0"] * 500 + ["GET /end 0"]


async def test_the_rest_of_a_body_that_nobody_read_is_read_before_the_next():
    async with server() as made:
        made.served.reads = False
        found = await answers(made.port, POST + b"content-length: 300000\r\n\r\n" + b"x" * 300_000 + END)
        assert found == ["POST /p 0", "GET /end 0"]


async def test_a_client_that_waits_for_a_word_and_gets_none_is_closed_at_once():
    async with server() as made:
        made.served.reads = False
        found = await raw(made.port, POST + b"expect: 100-continue\r\ncontent-length: 5\r\n\r\n", seconds=2)
        assert found.startswith(b"HTTP/1.1 200 ")


async def test_head_has_the_length_and_no_body():
    async with server() as made:
        found = await raw(made.port, b"HEAD /g HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        assert b"content-length: 9\r\n" in found
        assert found.endswith(b"\r\n\r\n")


async def test_http_1_0_closes_unless_it_asks_not_to():
    async with server() as made:
        assert (await raw(made.port, b"GET /g HTTP/1.0\r\n\r\n")).startswith(b"HTTP/1.0 200 ")
        kept = b"GET /g HTTP/1.0\r\nconnection: keep-alive\r\n\r\n"
        found = await raw(made.port, kept + b"GET /h HTTP/1.0\r\n\r\n")
        assert found.count(b"HTTP/1.0 200 ") == 2


@pytest.mark.parametrize("said", ["", "connection: keep-alive", "proxy-connection: keep-alive", "connection: close"])
async def test_only_two_versions_are_spoken_and_each_is_told_apart(said):
    async with server() as made:
        for version in [f"{major}.{minor}" for major in range(4) for minor in range(10)]:
            made.served.seen.clear()
            lines = [f"GET /g HTTP/{version}", "host: x", *([said] if said else []), "", ""]
            found = await raw(made.port, "\r\n".join(lines).encode(), until_close=False)
            if version in {"1.0", "1.1"}:
                assert found.startswith(f"HTTP/{version} 200 ".encode())
                assert [request.http10 for request in made.served.seen] == [version == "1.0"]
            else:
                assert found.startswith(b"HTTP/1.1 400 ")
                assert not made.served.seen


async def test_connect_is_answered_and_nothing_else_listened_to():
    async with server() as made:
        assert await answers(made.port, b"CONNECT a:443 HTTP/1.1\r\nhost: a\r\n\r\nhello" + END) == ["CONNECT a:443 0"]


async def test_a_client_that_leaves_ends_what_is_done_for_it():
    async with server() as made:
        made.served.hangs = True
        _, writer = await asyncio.open_connection("127.0.0.1", made.port)
        writer.write(FRAMED["no body"][0])
        await until(lambda: made.served.seen)
        writer.close()
        await asyncio.wait_for(made.served.cancelled.wait(), 20)
        await until(lambda: not made.connections)


async def test_a_header_that_was_sent_twice_counts_once_and_names_have_no_case():
    async with server() as made:
        await raw(made.port, b"GET / HTTP/1.1\r\nX-A: 1\r\nX-A: 2\r\nconnection: close\r\n\r\n")
        headers = made.served.seen[0].headers
        assert (headers.get("x-a"), headers["X-A"], "X-a" in headers, headers.get("y"), len(headers)) == (
            "1", "1", True, None, 2,
        )  # fmt: skip
        assert sorted(headers) == ["connection", "x-a"]


async def test_a_query_is_decoded_and_the_first_value_counts():
    async with server() as made:
        await raw(made.port, b"GET /a?x=%20y&x=2&z= HTTP/1.1\r\nconnection: close\r\n\r\n")
        assert made.served.seen[0].query == {"x": " y", "z": ""}


async def test_a_server_that_stops_closes_who_waits_and_lets_others_end():
    async with server() as made:
        idle = await asyncio.open_connection("127.0.0.1", made.port)
        idle[1].write(FRAMED["no body"][0])
        await idle[0].readuntil(b"GET /g 0")
        slow = await asyncio.open_connection("127.0.0.1", made.port)
        slow[1].write(POST + b"content-length: 2\r\n\r\na")
        await until(lambda: len(made.served.seen) == 2)
        stopping = asyncio.ensure_future(made.shutdown(60.0))
        assert await idle[0].read() == b""
        slow[1].write(b"b")
        assert b"POST /p 2" in await slow[0].read()
        await asyncio.wait_for(stopping, 20)
        idle[1].close()
        slow[1].close()


async def test_an_idle_connection_is_closed_after_a_while(monkeypatch):
    monkeypatch.setattr("gateway.server.server._SWEEP_S", 0.05)
    monkeypatch.setattr("gateway.server.server._KEPT_S", 0.1)
    async with server() as made:
        reader, writer = await asyncio.open_connection("127.0.0.1", made.port)
        writer.write(FRAMED["no body"][0])
        async with asyncio.timeout(20):
            assert (await reader.read()).endswith(b"GET /g 0")
        writer.close()


async def test_trailers_are_no_headers_of_the_next_request():
    async with server() as made:
        await raw(made.port, POST + b"transfer-encoding: chunked\r\n\r\n1\r\na\r\n0\r\nx-api-key: y\r\n\r\n" + END)
        assert [sorted(request.headers) for request in made.served.seen] == [
            ["host", "transfer-encoding"],
            ["connection", "host"],
        ]


BEHIND = {
    "more": (lambda connection: connection.write(b"more"), b"answer more"),
    "another answer": (lambda connection: connection.answer(b"more"), b"answer more"),
    "its closing": (lambda connection: connection.close(), b"answer "),
    "the client's last word": (lambda connection: connection.eof_received(), b"answer "),
    "the server's end": (lambda connection: connection.close_when_idle(), b"answer "),
}


@pytest.mark.parametrize(("then", "read"), BEHIND.values(), ids=BEHIND)
async def test_nothing_overtakes_an_answer_that_waits_for_others(then, read):
    async with server() as made:
        reader, writer = await asyncio.open_connection("127.0.0.1", made.port)
        await until(lambda: made.connections)
        (connection,) = made.connections
        connection.answer(b"answer ")
        then(connection)
        connection.close()
        assert await reader.read() == read
        writer.close()


async def test_requests_that_come_together_are_a_round():
    async with server() as made:
        clients = [await asyncio.open_connection("127.0.0.1", made.port) for _ in range(8)]
        await until(lambda: len(made.connections) == 8)
        held = []
        made.outbox.hold = held.append
        for connection in tuple(made.connections):
            connection.data_received(b"GET /g HTTP/1.1\r\nhost: x\r\n\r\n")
        await until(lambda: len(made.served.seen) == 8)
        assert len(held) >= 7  # all but the first, which does not know of the others
        for each in held:
            each.flush()
        for reader, writer in clients:
            assert (await reader.readuntil(b"/g 0")).startswith(b"HTTP/1.1 200 ")
            writer.close()


async def test_very_many_requests_of_which_the_last_comes_in_pieces_are_all_answered():
    sent = FRAMED["a length"][0]
    async with server() as made:
        made.served.hangs = True
        reader, writer = await asyncio.open_connection("127.0.0.1", made.port)
        writer.write(sent)
        await until(lambda: made.served.seen)
        (connection,) = made.connections
        writer.write(sent * 17 + sent[:-2])
        await until(lambda: connection._held)
        made.served.go_on()
        writer.write(sent[-2:] + END)
        async with asyncio.timeout(10):
            assert bodies(await reader.read()) == ["POST /p 5"] * 19 + ["GET /end 0"]
        writer.close()


@pytest.mark.parametrize("again", [b"X-A", b"x-a"])
async def test_of_a_header_that_is_sent_twice_the_first_counts(again):
    async with server() as made:
        await raw(made.port, b"GET /g HTTP/1.1\r\nhost: x\r\nX-A: 1\r\n" + again + b": 2\r\nconnection: close\r\n\r\n")
        (request,) = made.served.seen
        assert request.headers["X-A"] == "1"
