"""`GET /v1/models` and `/v1/models/{id}`: the catalogue in OpenAI's list."""

from __future__ import annotations

import msgspec
from aiohttp import web

from gateway import catalogue
from gateway.exchange import Exchange
from gateway.inflight import InFlight
from gateway.permits import listed, sees
from gateway.view import RoutingView
from geniehive.errors import PermissionDenied


class Models:
    """The handlers."""

    def __init__(self, view: RoutingView, in_flight: InFlight) -> None:
        self._view = view
        self._in_flight = in_flight

    async def all(self, exchange: Exchange) -> web.Response:
        """GET /v1/models: what the caller may ask for."""
        data = catalogue.models(self._view.current(), self._in_flight.counts)
        return _json({"object": "list", "data": listed(data, exchange.principal)})

    async def one(self, exchange: Exchange) -> web.Response:
        """GET /v1/models/{id}; ids may have slashes."""
        found = catalogue.model(self._view.current(), exchange.tail, self._in_flight.counts)
        if not sees(found, exchange.principal):
            raise PermissionDenied(f"this key may not ask for {exchange.tail[:200]!r}", param="model")
        return _json(found)


def _json(value: object) -> web.Response:
    return web.Response(body=msgspec.json.encode(value), content_type="application/json")
