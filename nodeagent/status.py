"""The node's own page on its loopback port: is it well, what does it know, and its numbers.

`/healthz` is 200 while the agent runs, connected or not: a control plane that is away is no reason to restart an agent.
"""

from __future__ import annotations

import errno
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import msgspec
from aiohttp import web

from geniehive import __version__
from geniehive.errors import ConfigError
from geniehive.inert import INERT_HEADERS
from nodeagent.agent import AgentView
from nodeagent.node_metrics import NodeMetrics

SERVER = f"geniehive-node/{__version__}"


class StatusPage:
    """The handlers. `view` is read at each request."""

    def __init__(self, view: Callable[[], AgentView], metrics: NodeMetrics) -> None:
        self._view = view
        self._metrics = metrics

    def application(self) -> web.Application:
        """The routes."""
        application = web.Application(middlewares=[_in_json])
        application.router.add_get("/healthz", self.healthz)
        application.router.add_get("/v1/node/inventory", self.inventory)
        application.router.add_get("/metrics", self.metrics)
        return application

    async def healthz(self, request: web.Request) -> web.Response:
        """The agent runs; and where it stands with the control plane."""
        del request
        view = self._view()
        return _json({"status": "ok", "component": "geniehive-node", "control_plane": view.state.value})

    async def inventory(self, request: web.Request) -> web.Response:
        """Host, services, measurements: what the control plane is told."""
        del request
        view = self._view()
        session = {
            "state": view.state.value,
            "session_id": view.session_id,
            "heartbeat_interval_s": view.heartbeat_interval_s,
            "heartbeats_sent": view.heartbeats_sent,
        }
        observed = {"host": view.host.observed, "services": {one.service_id: one.observed for one in view.services}}
        return _json({"host": view.host, "services": view.services, "observed": observed, "control_plane": session})

    async def metrics(self, request: web.Request) -> web.Response:
        """For Prometheus."""
        del request
        return web.Response(body=self._metrics.text(), headers={"Content-Type": self._metrics.content_type})


@asynccontextmanager
async def serving(page: StatusPage, host: str, port: int) -> AsyncIterator[str]:
    """Serve the page; its URL. Raises ConfigError, with the fix, if the port cannot be had."""
    runner = web.AppRunner(page.application(), access_log=None, handle_signals=False, shutdown_timeout=1.0)
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port)
        try:
            await site.start()
        except OSError as error:
            raise ConfigError(_refusal(host, port, error)) from error
        bound = runner.addresses[0][1]
        yield f"http://{f'[{host}]' if ':' in host else host}:{bound}"
    finally:
        await runner.cleanup()


def _refusal(host: str, port: int, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"port {port} on {host} is in use: stop what listens there, or choose another node.status_port"
    return f"cannot listen on {host} port {port} ({error.strerror or error}): change node.status_host or status_port"


Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@web.middleware
async def _in_json(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Errors of the router in JSON, with the routes that there are."""
    try:
        response = await handler(request)
    except web.HTTPException as error:
        routes = "GET /healthz, /v1/node/inventory, /metrics"
        allow = {"Allow": error.headers["Allow"]} if "Allow" in error.headers else {}
        response = _json({"error": {"message": f"{error.reason}; there are {routes}"}}, status=error.status)
        response.headers.update(allow)
    response.headers.update({"Server": SERVER, **INERT_HEADERS})
    return response


def _json(data: Any, status: int = 200) -> web.Response:
    return web.Response(body=msgspec.json.encode(data), content_type="application/json", status=status)
