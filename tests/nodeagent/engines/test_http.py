"""The client for engines trusts nothing: not the size, not the time, not the shape."""

import asyncio
import gzip

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from geniehive.errors import UpstreamTimeout, UpstreamUnavailable
from nodeagent.engines import Http, engine_session
from nodeagent.engines.http import Reply, base_url
from tests.ports import free_port


async def ask(handler, **options):
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handler)
    server = TestServer(app, host="127.0.0.1")
    await server.start_server()
    try:
        async with engine_session() as session:
            return await Http(session, f"http://127.0.0.1:{server.port}/v1/", **options).get("/x")
    finally:
        await server.close()


async def test_a_body_over_the_cap_is_not_read_to_its_end():
    async def handler(_request):
        return web.Response(body=b"x" * 5000)

    with pytest.raises(UpstreamUnavailable, match="more than 1000 bytes"):
        await ask(handler, max_body_bytes=1000)


async def test_the_cap_is_on_what_comes_out_of_compression():
    async def handler(_request):
        return web.Response(body=gzip.compress(b"0" * 10_000_000), headers={"Content-Encoding": "gzip"})

    with pytest.raises(UpstreamUnavailable, match="more than"):
        await ask(handler, max_body_bytes=100_000)


async def test_silence_is_a_timeout():
    async def handler(_request):
        await asyncio.sleep(5)

    with pytest.raises(UpstreamTimeout, match=r"no answer in 0\.1 s"):
        await ask(handler, timeout_s=0.1)


async def test_nobody_there_is_refused():
    async with engine_session() as session:
        with pytest.raises(UpstreamUnavailable, match="is the engine running"):
            await Http(session, f"http://127.0.0.1:{free_port()}").get("/")


@pytest.mark.parametrize("endpoint", ["not a url", "ftp://127.0.0.1", "http://"])
async def test_an_endpoint_that_is_none_is_unavailable(endpoint):
    async with engine_session() as session:
        with pytest.raises(UpstreamUnavailable):
            await Http(session, endpoint).get("/")


async def test_the_key_goes_in_its_header_and_cookies_go_nowhere():
    seen = []

    async def handler(request):
        seen.append(dict(request.headers))
        response = web.Response(text="{}")
        response.set_cookie("a", "b")
        return response

    reply = await ask(handler, api_key="secret")
    assert reply.data == {}
    assert seen[0]["Authorization"] == "Bearer secret"
    assert "Cookie" not in seen[0]


async def test_an_answer_that_is_no_http_is_unavailable():
    async def answer(_reader, writer):
        writer.write(b"SSH-2.0-OpenSSH_9.6\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server, engine_session() as session:
        with pytest.raises(UpstreamUnavailable, match="did not answer in HTTP"):
            await Http(session, f"http://127.0.0.1:{port}").get("/")


@pytest.mark.parametrize(
    ("data", "expected"),
    [({"error": "plain"}, "plain"), ({"error": {"message": "deep\r\n\x1b[31mred"}}, "deep [31mred"),
     ({"detail": "d"}, "d"), ([], "status 500"), (None, "status 500"), ({"error": "x" * 999}, "x" * 200)],
)  # fmt: skip
def test_complaints_are_one_short_line(data, expected):
    assert Reply(status=500, content_type="", body=b"", data=data).complaint == expected


@pytest.mark.parametrize("text", ["http://a:1", "http://a:1/", "http://a:1/v1", " http://a:1/v1/ "])
def test_a_base_url_has_no_slash_and_no_v1(text):
    assert base_url(text) == "http://a:1"
