"""`GET /v1/models` and `/v1/models/{id}`: the catalogue in OpenAI's list."""

from __future__ import annotations

import msgspec
from aiohttp import web

from gateway import anthropic_models, catalogue
from gateway.anthropic_errors import VERSION_HEADER
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
        """GET /v1/models: what the caller may ask for; in Anthropic's shape for its clients."""
        data = listed(catalogue.models(self._view.current(), self._in_flight.counts), exchange.principal)
        if VERSION_HEADER in exchange.request.headers:
            return _json(anthropic_models.page(data, exchange.request.rel_url.query))
        return _json({"object": "list", "data": data})

    async def one(self, exchange: Exchange) -> web.Response:
        """GET /v1/models/{id}; ids may have slashes."""
        table, name = self._view.current(), exchange.tail
        check_name(exchange.principal, name, table)  # first: whether a name that it may not say exists is not told
        found = look(catalogue.model(table, name, self._in_flight.counts), exchange.principal)
        return _json(anthropic_models.shown(found) if VERSION_HEADER in exchange.request.headers else found)


def _json(value: object) -> web.Response:
    return web.Response(body=msgspec.json.encode(value), content_type="application/json")
