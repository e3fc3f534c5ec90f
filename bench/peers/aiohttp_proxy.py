"""The plainest proxy that aiohttp's server and client make: no auth, no routing, no metrics, no retries.

usage: aiohttp_proxy.py PORT UPSTREAM_PORT
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator

import aiohttp
import uvloop
from aiohttp import web


class Proxy:
    """Passes requests on as they are."""

    def __init__(self, upstream: str) -> None:
        self._upstream = upstream
        self._session: aiohttp.ClientSession | None = None

    async def session(self, _app: web.Application) -> AsyncIterator[None]:
        """Open the client with the server, and close it with it."""
        timeout = aiohttp.ClientTimeout(total=None)
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=timeout) as session:
            self._session = session
            yield

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """One request."""
        if self._session is None:
            raise web.HTTPServiceUnavailable
        headers = {"content-type": request.content_type}
        async with self._session.request(
            request.method, self._upstream + request.path, data=await request.read(), headers=headers
        ) as answer:
            if answer.content_type != "text/event-stream":
                return web.Response(status=answer.status, body=await answer.read(), content_type=answer.content_type)
            response = web.StreamResponse(headers={"content-type": "text/event-stream"})
            await response.prepare(request)
            async for piece in answer.content.iter_any():
                await response.write(piece)
            await response.write_eof()
            return response


def main() -> None:
    """Serve until terminated."""
    port, upstream = int(sys.argv[1]), int(sys.argv[2])
    proxy = Proxy(f"http://127.0.0.1:{upstream}")
    app = web.Application(client_max_size=2**31)
    app.cleanup_ctx.append(proxy.session)
    app.router.add_route("*", "/{tail:.*}", proxy.handle)
    web.run_app(app, host="127.0.0.1", port=port, loop=uvloop.new_event_loop(), access_log=None, print=None)


if __name__ == "__main__":
    main()
