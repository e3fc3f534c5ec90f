"""`GET /v1/models` and `/v1/models/{id}`: the catalogue in OpenAI's list."""

from __future__ import annotations

import msgspec
from aiohttp import web

from gateway import catalogue
from gateway.exchange import Exchange
from gateway.inflight import InFlight
from gateway.permits import check_name, listed, look
from gateway.view import RoutingView


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
        table, name = self._view.current(), exchange.tail
        check_name(exchange.principal, name, table)  # first: whether a name that it may not say exists is not told
        return _json(look(catalogue.model(table, name, self._in_flight.counts), exchange.principal))


def _json(value: object) -> web.Response:
    return web.Response(body=msgspec.json.encode(value), content_type="application/json")
