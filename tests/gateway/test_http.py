"""What clients send wrong: each gets an error in OpenAI's shape, and nothing of it reaches an engine."""

from __future__ import annotations

import asyncio
import gzip
import json
import time

import httpx
import pytest

from tests.gateway.harness import gateway, raw, until
from tests.gateway.misbehaving import KEEP, completion, stream, upstream

ASK = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
BODY = json.dumps(ASK).encode()
CHAT = "/v1/chat/completions"
JSON = {"content-type": "application/json"}
SHAPE = {"message", "type", "param", "code"}


def deep(levels):
    return b'{"model":"m","x":' + b"[" * levels + b"]" * levels + b"}"


BAD_BODIES = {
    "not json": b"{",
    "empty": b"",
    "a scalar": b"1",
    "a list": b"[]",
    "null": b"null",
    "words after": BODY + b"x",
    "nested 65 deep": deep(64),
    "nested 100000 deep": deep(100_000),
    "an integer of 5000 digits": b'{"model":"m","x":' + b"9" * 5000 + b"}",
    "an integer of 40 digits": b'{"model":"m","x":[{"y":' + b"9" * 40 + b"}]}",
    "NaN": b'{"model":"m","x":NaN}',
    "Infinity": b'{"model":"m","x":-Infinity}',
    "1e999": b'{"model":"m","x":1e999}',
    "a lone surrogate": b'{"model":"m","x":"\\ud800"}',
    "invalid utf-8": b'{"model":"m","x":"\xff"}',
    "a byte order mark": b"\xef\xbb\xbf" + BODY,
    "model twice": b'{"model":"m","messages":[],"model":"other"}',
    "model twice, once escaped": b'{"model":"m","\\u006dodel":"other"}',
    "model missing": b"{}",
    "model null": b'{"model":null}',
    "model a number": b'{"model":7}',
    "model empty": b'{"model":""}',
    "stream a word": b'{"model":"m","stream":"yes"}',
}


@pytest.mark.parametrize("body", BAD_BODIES.values(), ids=BAD_BODIES)
async def test_a_bad_body_is_400(body):
    async with upstream((completion(), KEEP)) as up, gateway(up.url) as gw, httpx.AsyncClient() as http:
        found = await http.post(gw.url + CHAT, content=body, headers=JSON)
        assert found.status_code == 400
        assert set(found.json()["error"]) == SHAPE
        assert found.headers["x-should-retry"] == "false"
        assert found.headers["x-request-id"]
        assert up.seen == []
        assert (await http.post(gw.url + CHAT, json=ASK)).status_code == 200


async def test_a_connection_over_the_cap_is_503_and_those_within_it_go_on():
    ask = b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n"
    async with gateway("http://127.0.0.1:1", max_connections=2) as gw:
        kept = [await asyncio.open_connection("127.0.0.1", gw.port) for _ in range(2)]
        await until(lambda: len(gw.server.connections) == 2)
        for sent in (ask, b"x" * 100_000):
            head, _, body = (await raw(gw.port, sent)).partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 503 ")
            assert b"\r\nretry-after: 1\r\n" in head
            assert b"\r\nconnection: close" in head
            assert set(json.loads(body)["error"]) == SHAPE
        for reader, writer in kept:
            writer.write(ask)
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
        kept[0][1].close()
        await until(lambda: len(gw.server.connections) == 1)
        assert (await raw(gw.port, ask, until_close=False)).startswith(b"HTTP/1.1 200 ")
        kept[1][1].close()


async def test_nonsense_in_what_only_the_engine_reads_goes_on():
    async with upstream((*stream("hi"), KEEP)) as up, gateway(up.url) as gw, httpx.AsyncClient() as http:
        odd = {**ASK, "stream": True, "n": [1], "stream_options": "x"}
        assert (await http.post(gw.url + CHAT, json=odd)).status_code == 200
        assert up.seen[0].json == odd


async def test_http_0_9_is_refused_in_http_1_1():
    async with gateway("http://127.0.0.1:1") as gw:
        for line in (b"GET /healthz HTTP/0.9", b"GET / HTTP/0.9"):
            assert (await raw(gw.port, line + b"\r\nhost: x\r\n\r\n")).startswith(b"HTTP/1.1 400 ")


async def test_a_request_before_there_is_a_picture_is_told_what_readyz_tells():
    async with gateway("http://127.0.0.1:1", snapshotted=False) as gw, httpx.AsyncClient() as http:
        asked, ready = await http.post(gw.url + CHAT, json=ASK), await http.get(gw.url + "/readyz")
        assert asked.status_code == ready.status_code == 503
        assert asked.json() == ready.json()
        assert asked.headers["retry-after"] == ready.headers["retry-after"]


async def test_a_lone_surrogate_is_called_what_it_is():
    async with gateway("http://127.0.0.1:1") as gw, httpx.AsyncClient() as http:
        for body, said in (
            (BAD_BODIES["a lone surrogate"], "surrogate"),
            (b'{"model":"m","x":"\\ud83d\\ude00', "truncated"),
        ):
            found = await http.post(gw.url + CHAT, content=body, headers=JSON)
            assert said in found.json()["error"]["message"]


async def test_depth_64_is_taken():
    async with upstream((completion(), KEEP)) as up, gateway(up.url) as gw, httpx.AsyncClient() as http:
        assert (await http.post(gw.url + CHAT, content=deep(63), headers=JSON)).status_code == 200


@pytest.mark.parametrize(
    "kind", [None, "", "text/plain", "application/x-www-form-urlencoded", "application/json; charset=latin-1"]
)
async def test_a_wrong_content_type_is_415(kind):
    async with gateway("http://127.0.0.1:1") as gw, httpx.AsyncClient() as http:
        found = await http.post(gw.url + CHAT, content=BODY, headers={} if kind is None else {"content-type": kind})
        assert found.status_code == 415
        assert set(found.json()["error"]) == SHAPE


@pytest.mark.parametrize(
    "kind", ["application/json", "Application/JSON; charset=UTF-8", 'application/json;charset="utf-8"']
)
async def test_a_right_content_type_is_taken(kind):
    async with upstream((completion(), KEEP)) as up, gateway(up.url) as gw, httpx.AsyncClient() as http:
        assert (await http.post(gw.url + CHAT, content=BODY, headers={"content-type": kind})).status_code == 200


async def test_a_body_over_the_cap_is_413_by_its_length_alone():
    async with gateway("http://127.0.0.1:1", max_body_bytes=1000) as gw:
        head = f"POST {CHAT} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 1001\r\n\r\n"
        found = await raw(gw.port, head.encode(), until_close=False)
        assert found.startswith(b"HTTP/1.1 413")


@pytest.mark.parametrize(
    "framed", [b"content-length: 1001\r\n\r\n%b", b"transfer-encoding: chunked\r\n\r\n3e9\r\n%b\r\n0\r\n\r\n"]
)
async def test_a_body_over_the_cap_that_came_with_its_head_is_413(framed):
    async with gateway("http://127.0.0.1:1", max_body_bytes=1000) as gw:
        head = f"POST {CHAT} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n".encode()
        found = await raw(gw.port, head + framed % (BODY + b" " * (1001 - len(BODY))), until_close=False)
        assert found.startswith(b"HTTP/1.1 413")


async def test_a_chunked_body_over_the_cap_is_413():
    async def body():
        for _ in range(100):
            yield b" " * 100

    async with gateway("http://127.0.0.1:1", max_body_bytes=1000) as gw, httpx.AsyncClient() as http:
        found = await http.post(gw.url + CHAT, content=body(), headers=JSON)
        assert found.status_code == 413


async def test_gzip_is_taken_and_bombs_and_rubbish_are_not():
    async with (
        upstream((completion(), KEEP)) as up,
        gateway(up.url, max_body_bytes=100_000) as gw,
        httpx.AsyncClient() as http,
    ):

        async def post(body, encoding="gzip"):
            return await http.post(gw.url + CHAT, content=body, headers={**JSON, "content-encoding": encoding})

        assert (await post(gzip.compress(BODY))).status_code == 200
        assert up.seen[0].json == ASK
        assert "content-encoding" not in up.seen[0].headers
        assert (await post(gzip.compress(b" " * 50_000_000))).status_code == 413
        assert (await post(b"rubbish")).status_code == 400
        assert (await post(gzip.compress(BODY)[:-4])).status_code == 400
        assert (await post(BODY, "br")).status_code == 415


BAD_HTTP = {
    "not http": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    "no version": b"GET /\r\n\r\n",
    "length and chunks": (
        b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n"
    ),
    "two lengths": b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nhello",
    "a negative length": b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: -5\r\n\r\n",
    "a header without a name": b"GET / HTTP/1.1\r\nhost: x\r\n: y\r\n\r\n",
    "a control character": b"GET / HTTP/1.1\r\nhost: x\r\na: \x00\r\n\r\n",
    "a huge header": b"GET / HTTP/1.1\r\nhost: x\r\na: " + b"y" * 100_000 + b"\r\n\r\n",
    "a huge url": b"GET /" + b"y" * 100_000 + b" HTTP/1.1\r\nhost: x\r\n\r\n",
    "thousands of headers": b"GET / HTTP/1.1\r\nhost: x\r\n" + b"a: y\r\n" * 5000 + b"\r\n",
}


@pytest.mark.parametrize("data", BAD_HTTP.values(), ids=BAD_HTTP)
async def test_what_the_parser_refuses_is_answered_in_openais_shape_and_closed(data):
    async with gateway("http://127.0.0.1:1") as gw:
        found = await raw(gw.port, data)
        head, _, body = found.partition(b"\r\n\r\n")
        assert head.split(b" ")[1] in {b"400", b"431"}, head
        assert set(json.loads(body)["error"]) == SHAPE


@pytest.mark.parametrize("broken", [b"zz\r\nhello\r\n0\r\n\r\n", b"5\r\nhelloX\r\n"])
async def test_broken_chunks_are_400_and_reach_no_engine(broken):
    async with upstream((completion(), KEEP)) as up, gateway(up.url) as gw:
        head = b"POST %b HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n"
        found = await raw(gw.port, head % CHAT.encode() + broken)
        assert found.split(b" ")[1] == b"400"
        assert set(json.loads(found.partition(b"\r\n\r\n")[2])["error"]) == SHAPE
        assert up.seen == []


@pytest.mark.parametrize(
    "path",
    ["/nope", "/v1", "/v1/", "//v1/models", "/v1//models", "/v1/%6dodels", "/v1/../v1/models", "/v1/%2e%2e/healthz",
     "/v1%2fmodels", "/api/nothing", "/api", "/v1/chat/completions/", "/V1/models", "/v1/cluster/hosts/"],
)  # fmt: skip
async def test_an_unknown_route_is_404(path):
    async with gateway("http://127.0.0.1:1") as gw:
        found = await raw(gw.port, f"GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".encode())
        assert found.startswith(b"HTTP/1.1 404"), found
        assert set(json.loads(found.partition(b"\r\n\r\n")[2])["error"]) == SHAPE


async def test_a_wrong_method_is_405_with_allow():
    async with gateway("http://127.0.0.1:1") as gw, httpx.AsyncClient() as http:
        found = await http.get(gw.url + CHAT)
        assert found.status_code == 405
        assert found.headers["allow"] == "POST"
        assert set(found.json()["error"]) == SHAPE
        found = await http.delete(gw.url + "/v1/models/m")
        assert found.headers["allow"] == "GET, HEAD"


async def test_head_is_get_without_a_body():
    async with gateway("http://127.0.0.1:1") as gw, httpx.AsyncClient() as http:
        for path in ("/", "/healthz", "/v1/models"):
            found = await http.head(gw.url + path)
            assert (found.status_code, found.content) == (200, b"")


async def test_a_query_does_not_change_the_route():
    async with upstream((completion(), KEEP)) as up, gateway(up.url) as gw, httpx.AsyncClient() as http:
        assert (await http.post(gw.url + CHAT + "?beta=true", json=ASK)).status_code == 200


async def test_a_failure_of_ours_is_500_without_its_inside(monkeypatch):
    async with gateway("http://127.0.0.1:1") as gw, httpx.AsyncClient() as http:
        monkeypatch.setattr("gateway.openai.generate.parse", lambda raw: 1 / 0)
        found = await http.post(gw.url + CHAT, json=ASK)
        assert found.status_code == 500
        assert set(found.json()["error"]) == SHAPE
        assert "division" not in found.text
        assert "Traceback" not in found.text


async def test_keys_are_asked_for_before_the_body_is_read():
    async with upstream((completion(), KEEP)) as up, gateway(up.url, keys=("good",)) as gw:
        head = f"POST {CHAT} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 99\r\n\r\n"
        assert (await raw(gw.port, head.encode(), until_close=False)).startswith(b"HTTP/1.1 401")
        async with httpx.AsyncClient() as http:
            for headers in ({"x-api-key": "bad"}, {"authorization": "Bearer bad"}, {"authorization": "Basic good"}):
                found = await http.post(gw.url + CHAT, json=ASK, headers=headers)
                assert found.status_code == 401
                assert set(found.json()["error"]) == SHAPE
            assert (await http.get(gw.url + "/v1/models?api_key=good")).status_code == 401
            assert (await http.get(gw.url + "/healthz")).status_code == 200
            assert up.seen == []
            for headers in ({"x-api-key": "good"}, {"authorization": "Bearer good"}):
                assert (await http.post(gw.url + CHAT, json=ASK, headers=headers)).status_code == 200


async def test_before_the_first_snapshot_it_is_alive_and_not_ready():
    async with gateway(snapshotted=False) as gw, httpx.AsyncClient() as http:
        assert (await http.get(gw.url + "/healthz")).status_code == 200
        assert (await http.get(gw.url + "/readyz")).status_code == 503
        found = await http.post(gw.url + CHAT, json=ASK)
        assert found.status_code == 503
        assert found.headers["retry-after"]


async def test_slow_headers_are_closed():
    async with gateway("http://127.0.0.1:1", header_timeout_s=0.3) as gw:
        for first in (b"", b"GET /healthz HTT"):
            began = time.monotonic()
            await raw(gw.port, first)
            assert time.monotonic() - began > 0.2


async def test_slow_headers_of_a_later_request_are_closed_too():
    async with gateway("http://127.0.0.1:1", header_timeout_s=0.3) as gw:
        reader, writer = await asyncio.open_connection("127.0.0.1", gw.port)
        writer.write(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n")
        await reader.readuntil(b"}")
        writer.write(b"GET /healthz HTT")
        async with asyncio.timeout(20):
            assert await reader.read() == b""
        writer.close()


async def test_an_idle_connection_outlives_the_header_timeout():
    async with gateway("http://127.0.0.1:1", header_timeout_s=0.4) as gw:
        reader, writer = await asyncio.open_connection("127.0.0.1", gw.port)
        for _ in range(2):
            writer.write(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n")
            assert (await reader.readuntil(b"}")).startswith(b"HTTP/1.1 200")
            await asyncio.sleep(0.6)
        writer.close()


async def test_a_long_answer_outlives_the_header_timeout():
    async with (
        upstream((0.6, completion(), KEEP)) as up,
        gateway(up.url, header_timeout_s=0.4) as gw,
        httpx.AsyncClient() as http,
    ):
        assert (await http.post(gw.url + CHAT, json=ASK)).status_code == 200


@pytest.mark.parametrize("trickle", [False, True])
async def test_a_body_that_stalls_or_trickles_is_408(trickle):
    async with gateway("http://127.0.0.1:1", body_timeout_s=0.4) as gw:
        reader, writer = await asyncio.open_connection("127.0.0.1", gw.port)
        head = f"POST {CHAT} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 9999\r\n\r\n"
        writer.write(head.encode())
        answer = asyncio.ensure_future(reader.readuntil(b"\r\n\r\n"))
        while trickle and not answer.done():
            writer.write(b" ")
            await asyncio.sleep(0.05)
        assert (await answer).startswith(b"HTTP/1.1 408")
        writer.close()


async def test_expect_100_continue_is_answered_before_the_body():
    async with upstream((completion(), KEEP)) as up, gateway(up.url) as gw:
        reader, writer = await asyncio.open_connection("127.0.0.1", gw.port)
        head = f"POST {CHAT} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\nexpect: 100-continue\r\n"
        writer.write(f"{head}content-length: {len(BODY)}\r\n\r\n".encode())
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(BODY)
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
        writer.close()


async def test_pipelined_requests_are_answered_in_order():
    one = b"POST %b HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b"
    async with upstream((completion(), KEEP)) as up, gateway(up.url) as gw:
        last = b"GET /nope HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
        found = await raw(gw.port, one % (CHAT.encode(), len(BODY), BODY) * 2 + last)
        assert [each[:3] for each in found.split(b"HTTP/1.1 ")[1:]] == [b"200", b"200", b"404"]


async def test_cluster_routes_take_ids_with_slashes():
    async with gateway("http://127.0.0.1:1") as gw, httpx.AsyncClient() as http:
        for path in ("hosts", "services", "roles", "health", "hosts/h1", "services/h1/s", "services/h1%2Fs"):
            found = await http.get(f"{gw.url}/v1/cluster/{path}")
            assert found.status_code == 200, path
        assert (await http.get(f"{gw.url}/v1/cluster/services/h2/s")).status_code == 404
        assert (await http.get(f"{gw.url}/v1/cluster/routes/resolve?model=m")).status_code == 200


async def test_metrics_count_requests_and_attempts():
    async with upstream((*stream("hi"), KEEP)) as up, gateway(up.url) as gw, httpx.AsyncClient() as http:
        await http.post(gw.url + CHAT, json={**ASK, "stream": True})
        await http.get(gw.url + "/nope")
        text = (await http.get(gw.url + "/metrics")).text
        assert 'geniehive_gateway_requests_total{operation="chat",status="200"} 1.0' in text
        assert 'geniehive_gateway_requests_total{operation="none",status="404"} 1.0' in text
        assert 'geniehive_gateway_attempts_total{outcome="ok",service="h1/s"} 1.0' in text
        assert 'geniehive_gateway_ttft_seconds_count{operation="chat"} 1.0' in text
