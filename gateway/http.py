"""The HTTP edge: routes in one table, and how what is no request is answered. The server is `gateway.server`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from urllib.parse import unquote

from gateway import web
from gateway.answers import whole
from gateway.errors import error_response
from gateway.exchange import Exchange, request_ids
from gateway.server.connection import Refused
from geniehive.access import NEEDED
from geniehive.errors import HeadersTooLarge, InvalidRequest, MethodNotAllowed, NotFound
from geniehive.inert import INERT_HEADERS
from geniehive.resources import Operation

Handler = Callable[[Exchange], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class Route:
    """A way in. A `path` that ends in "/" takes a name behind it; `scope` "" needs no key, and has to be said."""

    path: str
    method: str
    handler: Handler
    operation: Operation | None = None
    scope: str = "unset"


class RouteTable:
    """Every route; paths are compared as they were sent, so no encoding can lead around one.

    A route that does not say who may ask is a ValueError.
    """

    def __init__(self, routes: Iterable[Route]) -> None:
        self.routes = tuple(routes)
        for route in self.routes:
            if route.scope not in NEEDED:
                raise ValueError(f"{route.method} {route.path} has no scope of geniehive.access: say who may ask")
        self._by_path: dict[str, dict[str, Route]] = {}
        for route in self.routes:
            self._by_path.setdefault(route.path, {})[route.method] = route
        self._named = tuple(path for path in self._by_path if path.endswith("/") and path != "/")
        self._plain = {path: methods for path, methods in self._by_path.items() if path not in self._named}

    def find(self, method: str, path: str) -> tuple[Route, str]:
        """The route, and the name behind its path, decoded. Raises NotFound or MethodNotAllowed."""
        methods, tail = self._plain.get(path), ""
        if methods is None:
            methods, tail = self._named_route(path)
        route = methods.get(method) or (methods.get("GET") if method == "HEAD" else None)
        if route is None:
            raise MethodNotAllowed(f"{printable_path(path)} takes {allowed(methods)}, not {method[:32]}")
        return route, tail

    def allow(self, path: str) -> str:
        """The value of the `Allow` header for a path that exists."""
        methods = self._by_path.get(path)
        return allowed(methods if methods is not None else self._named_route(path)[0])

    def _named_route(self, path: str) -> tuple[dict[str, Route], str]:
        for prefix in self._named:
            if path.startswith(prefix) and len(path) > len(prefix):
                return self._by_path[prefix], unquote(path[len(prefix) :])
        if path.startswith("/api/"):  # of Ollama's API, what changes an Ollama: pull, push, create, copy, delete, blobs
            raise NotFound(
                f"a GenieHive gateway has no {printable_path(path)}: models are added on the hosts, "
                "with the engine's own tools; GET /api/tags lists what there is"
            )
        raise NotFound(f"there is no route {printable_path(path)}; the API is under /v1")


def allowed(methods: Iterable[str]) -> str:
    """Methods as the `Allow` header lists them."""
    names = set(methods)
    return ", ".join(sorted(names | {"HEAD"} if "GET" in names else names))


def printable_path(path: str) -> str:
    """A path for an error message: short, without control characters."""
    return ascii(path[:200])[1:-1]


def refusal_of(refused: Refused) -> bytes:
    """The whole answer to what is no request; nothing follows it on its connection."""
    error = HeadersTooLarge(str(refused)) if refused.too_large else InvalidRequest(str(refused))
    headers = {"server": "geniehive", **INERT_HEADERS, "x-request-id": next(request_ids())}
    return whole(error_response(error, headers=headers)).sent_last()
