"""`GET /v1/models` and `/v1/models/{id}`: the catalogue in OpenAI's list."""

from __future__ import annotations

from gateway import anthropic_models, catalogue, model_info, web
from gateway.anthropic_errors import VERSION_HEADER
from gateway.etag import tagged
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
            return tagged(exchange, anthropic_models.page(data, exchange.request.query))
        return tagged(exchange, {"object": "list", "data": data})

    async def info(self, exchange: Exchange) -> web.Response:
        """GET /v1/model/info, for clients of LiteLLM's proxy; `?litellm_model_id=` for one."""
        data = listed(catalogue.models(self._view.current(), self._in_flight.counts), exchange.principal)
        wanted = exchange.request.query.get("litellm_model_id", "")
        return tagged(exchange, model_info.model_info(data, wanted))

    async def one(self, exchange: Exchange) -> web.Response:
        """GET /v1/models/{id}; ids may have slashes."""
        table, name = self._view.current(), exchange.tail
        check_name(exchange.principal, name, table)  # first: whether a name that it may not say exists is not told
        found = look(catalogue.model(table, name, self._in_flight.counts), exchange.principal)
        return tagged(exchange, anthropic_models.shown(found) if VERSION_HEADER in exchange.request.headers else found)
