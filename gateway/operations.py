"""What operators and their machines ask: alive, ready, metrics, and who this is."""

from __future__ import annotations

import msgspec

from gateway import web
from gateway.exchange import Exchange
from gateway.metrics import CONTENT_TYPE, Metrics
from gateway.middleware import Front, shutting_down
from gateway.view import RoutingView


class Operations:
    """The handlers."""

    def __init__(self, view: RoutingView, metrics: Metrics, version: str) -> None:
        self._view = view
        self._metrics = metrics
        self._version = version
        self.front: Front | None = None
        """Set once there is one; a front that drains is not ready."""

    async def root(self, _exchange: Exchange) -> web.Response:
        """GET /: the name of the program, for clients that knock first."""
        return _json({"name": "geniehive", "version": self._version, "api": "/v1"})

    async def healthz(self, _exchange: Exchange) -> web.Response:
        """GET /healthz: the process answers."""
        return _json({"status": "ok"})

    async def readyz(self, _exchange: Exchange) -> web.Response:
        """GET /readyz: there is a picture of the cluster to route by, and the process is not about to end."""
        if self.front is not None and self.front.draining:
            raise shutting_down()
        self._view.current()
        return _json({"status": "ready", "stale": self._view.stale})

    async def metrics(self, _exchange: Exchange) -> web.Response:
        """GET /metrics, for Prometheus."""
        return web.Response(body=self._metrics.exposition(), headers={"content-type": CONTENT_TYPE})


def _json(value: object) -> web.Response:
    return web.Response(body=msgspec.json.encode(value), content_type="application/json")
