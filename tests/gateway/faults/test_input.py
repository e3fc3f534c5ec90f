"""What clients send wrong, beyond the tests of each module: docs/faults.md says which number is proven where."""

from __future__ import annotations

import json
import re

import httpx
import pytest

from geniehive.config import GatewayConfig
from tests.gateway.harness import gateway, raw
from tests.gateway.misbehaving import KEEP, completion, upstream

CHAT = "/v1/chat/completions"
BODY = b'{"model":"m","messages":[{"role":"user","content":"hi"}]}'
SHAPE = {"message", "type", "param", "code"}
POST = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
HIDDEN = (
    b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}"
)

SMUGGLED = {
    "a length and chunks": POST + b"content-length: 4\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n" + HIDDEN,
    "chunks and a length": POST + b"transfer-encoding: chunked\r\ncontent-length: 4\r\n\r\n0\r\n\r\n" + HIDDEN,
    "two lengths": POST + b"content-length: 2\r\ncontent-length: 60\r\n\r\n{}" + HIDDEN,
    "a list of lengths": POST + b"content-length: 2, 60\r\n\r\n{}" + HIDDEN,
    "a length with a sign": POST + b"content-length: +2\r\n\r\n{}" + HIDDEN,
    "chunked in disguise": POST + b"transfer-encoding: xchunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n" + HIDDEN,
    "chunked twice": POST + b"transfer-encoding: chunked\r\ntransfer-encoding: identity\r\n\r\n0\r\n\r\n" + HIDDEN,
    "a space before the colon": POST + b"content-length : 2\r\n\r\n{}" + HIDDEN,
    "a folded header": POST + b"x: y\r\n content-length: 99\r\ncontent-length: 2\r\n\r\n{}" + HIDDEN,
    "a chunk size that overflows": POST + b"transfer-encoding: chunked\r\n\r\nffffffffffffffffff\r\n{}" + HIDDEN,
    "a chunk size below zero": POST + b"transfer-encoding: chunked\r\n\r\n-2\r\n{}\r\n0\r\n\r\n" + HIDDEN,
}


@pytest.mark.parametrize("data", SMUGGLED.values(), ids=SMUGGLED)
async def test_unclear_framing_is_400_and_closed_and_what_hides_behind_it_is_never_seen(data):
    async with upstream((completion(), KEEP)) as up, gateway(up.url) as gw:
        found = await raw(gw.port, data)
        assert found.startswith((b"HTTP/1.1 400 ", b"HTTP/1.0 400 "))
        assert len(re.findall(rb"HTTP/1\.[01] \d{3} ", found)) == 1
        assert json.loads(found.partition(b"\r\n\r\n")[2])["error"].keys() == SHAPE
        assert up.connections == 0
        good = POST + b"connection: close\r\ncontent-length: %d\r\n\r\n%b" % (len(BODY), BODY)
        assert (await raw(gw.port, good)).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("kind", ["application/json; charset=bogus", "application/json; charset=utf-16", "image/png"])
async def test_a_charset_that_json_does_not_have_is_415(kind):
    async with upstream((completion(), KEEP)) as up, gateway(up.url) as gw, httpx.AsyncClient() as http:
        found = await http.post(gw.url + CHAT, content=BODY, headers={"content-type": kind})
        assert found.status_code == 415
        assert found.json()["error"].keys() == SHAPE
        assert up.seen == []


@pytest.mark.parametrize(
    "path",
    ["/v1/chat/completions/../completions", "/v1/chat%2fcompletions", "//v1/chat/completions", "/v1/./chat/completions",
     "/v1/chat/completions;x", "/v1/chat/completions%00", "/api/pull", "/api/delete", "/slots/0", "/models/unload"],
)  # fmt: skip
async def test_a_path_that_only_looks_like_a_route_reaches_no_engine(path):
    async with upstream((completion(), KEEP)) as up, gateway(up.url) as gw:
        head = f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\nconnection: close\r\n"
        found = await raw(gw.port, f"{head}content-length: {len(BODY)}\r\n\r\n".encode() + BODY)
        assert found.startswith((b"HTTP/1.1 404 ", b"HTTP/1.1 405 "))
        assert up.connections == 0


async def test_hop_by_hop_and_underscored_headers_stay_here():
    more = (
        b"connection: keep-alive, x-hop\r\nx-hop: 1\r\nkeep-alive: timeout=9\r\nte: trailers\r\ntrailer: x\r\n"
        b"upgrade: h2c\r\nproxy-authorization: Basic eA==\r\nx_forwarded_for: 1\r\ncontent_length: 9\r\n"
    )
    async with upstream((completion(), KEEP)) as up, gateway(up.url) as gw:
        data = POST + more + b"content-length: %d\r\n\r\n%b" % (len(BODY), BODY)
        assert (await raw(gw.port, data, until_close=False)).startswith(b"HTTP/1.1 200 ")
        (seen,) = up.seen
        assert seen.headers.keys() <= {
            "host", "content-type", "content-length", "accept", "accept-encoding", "user-agent", "x-request-id",
        }  # fmt: skip


def test_the_times_that_clients_and_engines_get_are_those_that_are_promised():
    limits = GatewayConfig()
    assert (limits.header_timeout_s, limits.body_timeout_s, limits.connect_timeout_s) == (10, 30, 5)
