"""The one table of routes: everything that the gateway answers, with what it is for and who may ask."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from gateway import web
from gateway.agents import Agents
from gateway.auth import ADMIN, CALLER, INFERENCE, OPERATOR, PUBLIC, READ
from gateway.cluster import ClusterViews
from gateway.cluster_orders import ClusterOrders
from gateway.exchange import Exchange
from gateway.http import Handler, Route, RouteTable
from gateway.ollama.facade import Facade
from gateway.openai.audio import Audio
from gateway.openai.generate import Generate
from gateway.openai.media import Media
from gateway.openai.models import Models
from gateway.operations import Operations
from gateway.request_views import RequestViews
from gateway.server.request import Request
from geniehive.resources import Operation

_GENERATED = (
    ("/v1/chat/completions", Operation.CHAT),
    ("/v1/completions", Operation.COMPLETION),
    ("/v1/embeddings", Operation.EMBEDDINGS),
)
_HEARD = (
    ("/v1/audio/transcriptions", Operation.TRANSCRIPTION),
    ("/v1/audio/translations", Operation.TRANSLATION),
)


@dataclass(frozen=True, kw_only=True)
class Desks:
    """Whoever answers, one for each group of routes."""

    generate: Generate
    agents: Agents
    audio: Audio
    media: Media
    ollama: Facade
    models: Models
    cluster: ClusterViews
    requests: RequestViews
    operations: Operations


def route_table(desks: Desks) -> RouteTable:
    """Every route."""
    operations, models, agents, requests = desks.operations, desks.models, desks.agents, desks.requests
    return RouteTable(
        (
            *desks.media.routes(),
            *desks.ollama.routes(),
            Route("/", "GET", operations.root, scope=PUBLIC),
            Route("/healthz", "GET", operations.healthz, scope=PUBLIC),
            Route("/readyz", "GET", operations.readyz, scope=PUBLIC),
            Route("/metrics", "GET", operations.metrics, scope=READ),
            Route("/v1/models", "GET", models.all, scope=CALLER),
            Route("/v1/models/", "GET", models.one, scope=CALLER),
            Route("/v1/model/info", "GET", models.info, scope=CALLER),
            Route("/model/info", "GET", models.info, scope=CALLER),
            *(Route(path, "POST", desks.generate.handler(each, path), each, INFERENCE) for path, each in _GENERATED),
            *(Route(path, "POST", desks.audio.handler(each), each, INFERENCE) for path, each in _HEARD),
            Route("/v1/responses", "POST", agents.responses, Operation.CHAT, INFERENCE),
            Route("/v1/responses/", "GET", agents.response, scope=INFERENCE),
            Route("/v1/responses/", "DELETE", agents.forget, scope=INFERENCE),
            Route("/v1/messages", "POST", agents.messages, Operation.CHAT, INFERENCE),
            Route("/v1/messages/count_tokens", "POST", agents.count_tokens, Operation.CHAT, INFERENCE),
            Route("/v1/cluster/requests", "GET", requests.all, scope=CALLER),
            Route("/v1/cluster/requests/", "GET", requests.one, scope=CALLER),
            *_cluster(desks.cluster),
            *_orders(desks.cluster.orders),
        )
    )


def _cluster(views: ClusterViews) -> tuple[Route, ...]:
    listed = (
        ("hosts", "host_id", views.hosts),
        ("services", "service_id", views.services),
        ("roles", "role_id", views.roles),
    )
    plain = (
        ("health", views.health),
        ("routes/resolve", views.resolve),
        ("benchmarks", views.benchmarks),
    )
    return (
        *(Route(f"/v1/cluster/{noun}", "GET", _of_request(view), scope=READ) for noun, _, view in listed),
        *(Route(f"/v1/cluster/{noun}/", "GET", _of_request(view, key), scope=READ) for noun, key, view in listed),
        *(Route(f"/v1/cluster/{noun}", "GET", _of_request(view), scope=READ) for noun, view in plain),
        Route("/v1/cluster/events", "GET", views.events, scope=READ),
        Route("/v1/cluster/routes/match", "POST", views.match, scope=READ),
        Route("/v1/cluster/benchmarks", "POST", views.ingest, scope=OPERATOR),
    )


def _orders(orders: ClusterOrders) -> tuple[Route, ...]:
    return (
        Route("/v1/cluster/commands", "GET", orders.commands, scope=READ),
        Route("/v1/cluster/commands/", "GET", orders.command, scope=READ),
        Route("/v1/cluster/commands", "POST", orders.order, scope=OPERATOR),
        Route("/v1/cluster/hosts/", "DELETE", orders.forget, scope=ADMIN),
        Route("/v1/cluster/tokens", "GET", orders.tokens, scope=ADMIN),
        Route("/v1/cluster/tokens", "POST", orders.make_token, scope=ADMIN),
        Route("/v1/cluster/tokens/", "DELETE", orders.revoke_token, scope=ADMIN),
        Route("/v1/cluster/audit", "GET", orders.audit, scope=ADMIN),
    )


def _of_request(view: Callable[[Request], Awaitable[web.StreamResponse]], key: str = "") -> Handler:
    """A handler that knows requests only; the name in the path becomes its match_info under `key`."""

    async def handle(exchange: Exchange) -> web.StreamResponse:
        if key:
            exchange.request.name(key, exchange.tail)
        return await view(exchange.request)

    return handle
