"""Who may call what: one table from methods to the keys that open them, and the interceptor that asks it.

A node key (metadata `x-geniehive-node-key`) opens the streams of nodes and gateways, and all reads; an
admin key (`x-api-key`, or `authorization: Bearer`) opens everything of operators. Health is always open.
Where no key of either kind is configured everything is open, which the config allows on loopback alone.
A call is refused before its message is read, and without telling whether the method exists.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from enum import Enum, auto
from typing import Any

import grpc
import grpc.aio

from geniehive.dial import API_KEY, NODE_KEY
from geniehive.errors import GenieHiveError, PermissionDenied, Unauthenticated, wire_of
from geniehive.tokens import KeyRing, bearer

_ADMIN_HOW = f"{API_KEY!r} or 'authorization: Bearer KEY'"


class Need(Enum):
    """What a method asks of its caller."""

    NOTHING = auto()
    NODE = auto()
    READ = auto()  # a node key or an admin key
    ADMIN = auto()


_SERVICES: Mapping[str, Need] = {
    "grpc.health.v1.Health": Need.NOTHING,
    "grpc.reflection.v1.ServerReflection": Need.READ,
    "grpc.reflection.v1alpha.ServerReflection": Need.READ,
    "geniehive.v1.NodeService": Need.NODE,
    "geniehive.v1.RoutingService": Need.NODE,
}
_READS = frozenset(
    f"/geniehive.v1.ClusterService/{method}"
    for method in (
        "GetCluster",
        "ListHosts",
        "GetHost",
        "ListServices",
        "GetService",
        "ListRoles",
        "GetRole",
        "ListCommands",
        "GetCommand",
        "ResolveRoute",
        "MatchRoutes",
        "WatchEvents",
    )
) | {"/geniehive.v1.BenchmarkService/ListSamples"}


def need_of(method: str) -> Need:
    """What a full method name ("/package.Service/Method") asks for; ADMIN for what the table does not name."""
    if method in _READS:
        return Need.READ
    return _SERVICES.get(method.strip("/").partition("/")[0], Need.ADMIN)


class Gatekeeper:
    """Knows the keys, by their hashes alone, and decides."""

    def __init__(self, node_keys: Iterable[str], admin_keys: Iterable[str]) -> None:
        self._node = KeyRing(node_keys, prefix="node")
        self._admin = KeyRing(admin_keys, prefix="admin")

    def check(self, method: str, metadata: Mapping[str, str | bytes]) -> str:
        """The name of the caller's key, empty where none was needed.

        Raises:
            Unauthenticated: No key that is known here; the message says where to put which.
            PermissionDenied: A good key, for something else.
        """
        need = need_of(method)
        if need is Need.NOTHING or not (self._node or self._admin) or (need is Need.NODE and not self._node):
            return ""
        node = self._node.matches(metadata.get(NODE_KEY))
        admin = self._admin.matches(metadata.get(API_KEY)) or self._admin.matches(_bearer(metadata))
        if admin and need is not Need.NODE:
            return admin
        if node and need is not Need.ADMIN:
            return node
        raise self._refusal(need, known=bool(node or admin), sent=_sent(metadata))

    def _refusal(self, need: Need, *, known: bool, sent: bool) -> GenieHiveError:
        if need is Need.ADMIN and not self._admin:
            return PermissionDenied("this needs an admin key and none is configured: set auth.admin_api_keys")
        how = {
            Need.NODE: f"a node key in metadata {NODE_KEY!r}",
            Need.READ: f"a node key in metadata {NODE_KEY!r}, or an admin key in {_ADMIN_HOW}",
            Need.ADMIN: f"an admin key in metadata {_ADMIN_HOW}",
        }[need]
        if known:
            return PermissionDenied(f"this key is for something else: send {how}")
        return Unauthenticated(f"the key is not known here: send {how}" if sent else f"no key: send {how}")


class AuthInterceptor(grpc.aio.ServerInterceptor):
    """Asks the gatekeeper about each call, unary or stream."""

    def __init__(self, gatekeeper: Gatekeeper) -> None:
        self._gatekeeper = gatekeeper

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """The real handler, or one that refuses."""
        metadata = {pair[0]: pair[1] for pair in handler_call_details.invocation_metadata or ()}
        try:
            self._gatekeeper.check(handler_call_details.method, metadata)
        except GenieHiveError as error:
            return _refuse(error, await continuation(handler_call_details))
        return await continuation(handler_call_details)


def _refuse(error: GenieHiveError, handler: grpc.RpcMethodHandler[Any, Any] | None) -> grpc.RpcMethodHandler[Any, Any]:
    """A handler that refuses; `handler` is the one that would have answered.

    The one message of a call that is no stream is taken off the wire, as bytes: a client of gRPC for Python that is
    still sending when the answer comes may report its own broken sending instead of the refusal.
    """

    async def refuse(_request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        await context.abort(grpc.StatusCode[wire_of(error).grpc], error.message)

    if handler is not None and handler.request_streaming:
        return grpc.stream_stream_rpc_method_handler(refuse)
    return grpc.unary_unary_rpc_method_handler(refuse)


def _bearer(metadata: Mapping[str, str | bytes]) -> str | None:
    value = metadata.get("authorization")
    return bearer(value) if isinstance(value, str) else None


def _sent(metadata: Mapping[str, str | bytes]) -> bool:
    return any(name in metadata for name in (NODE_KEY, API_KEY, "authorization"))
