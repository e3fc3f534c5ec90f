"""Who calls, and whether they may: keys of the config, tokens of the cluster, and the interceptor that asks.

A node key (metadata `x-geniehive-node-key`) is for the streams of nodes and gateways, and for reads. Keys and
tokens of operators come as `x-api-key` or `authorization: Bearer`; `controlplane.methods` says which scope opens
what. Where neither the config has a node or admin key nor anybody ever made an administrator's token, everything
is open, which the config allows on loopback alone. A call is refused before its message is read, and without
telling whether the method exists.

Where the control plane speaks TLS, node agents and gateways are known by their certificates alone; people by theirs, or
by a key or token as before.
"""

from __future__ import annotations

import hmac
import inspect
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from typing import Any, NamedTuple, Protocol

import grpc
import grpc.aio

from controlplane.methods import A_GATEWAY, A_HOST, A_MEMBER, A_NODE, Need, need_of
from controlplane.refusals import Refusals
from geniehive.access import ADMIN, CALLER, EVERY, OPERATOR, held, is_over
from geniehive.dial import API_KEY, ERROR_CODE, NODE_KEY
from geniehive.errors import GenieHiveError, PermissionDenied, Unauthenticated, wire_of
from geniehive.identity import Identity, Kind
from geniehive.resources import AccessKey
from geniehive.tokens import LONGEST, KeyRing, bearer, sha256

ANONYMOUS = "anonymous"
Metadata = Mapping[str, str | bytes]
Context = grpc.aio.ServicerContext[Any, Any]

_HOW = f"metadata {API_KEY!r} or 'authorization: Bearer KEY'"
_NODE_KEYS = frozenset({A_NODE, A_HOST, A_GATEWAY})
_MEMBERS: Mapping[Kind, frozenset[str]] = {
    Kind.HOST: frozenset({A_MEMBER, A_NODE, A_HOST}),
    Kind.GATEWAY: frozenset({A_MEMBER, A_NODE, A_GATEWAY}),
    Kind.OPERATOR: held((OPERATOR,)) | {A_MEMBER},
    Kind.ADMIN: held((ADMIN,)) | {A_MEMBER},
}
_SEND = {
    Need.HOST: f"a node key in metadata {NODE_KEY!r}",
    Need.GATEWAY: f"a node key in metadata {NODE_KEY!r}",
    Need.MEMBER: "a certificate that this control plane issued",
    Need.READ: f"a node key in metadata {NODE_KEY!r}, or an admin key or a token with the scope read in {_HOW}",
    Need.OPERATOR: f"an admin key, or a token with the scope operator, in {_HOW}",
    Need.ADMIN: f"an admin key, or a token with the scope admin, in {_HOW}",
}
_SHOW = {
    Need.HOST: "the certificate of a host (geniehive node join)",
    Need.GATEWAY: "the certificate of a gateway (geniehive gateway join)",
    Need.MEMBER: "a certificate that this control plane issued (geniehive node join)",
    Need.READ: f"any certificate of this cluster, or an admin key or a token with the scope read in {_HOW}",
    Need.OPERATOR: f"the certificate of an operator (geniehive login), or an admin key or a token in {_HOW}",
    Need.ADMIN: f"the certificate of an admin (geniehive login), or an admin key or a token in {_HOW}",
}


class Peers(Protocol):
    """Who a peer is by its certificate: see `controlplane.server_tls`."""

    def identity(self, context: Mapping[str, Any]) -> Identity | None:
        """The peer of a gRPC auth context; None is nobody. Raises Unauthenticated."""
        ...


class Tokens(Protocol):
    """The tokens of the cluster, as they are now."""

    @property
    def admins(self) -> bool:
        """Whether there ever was an administrator's."""
        ...

    def by_hash(self, digest: bytes) -> AccessKey | None:
        """The token with a hash; None if it is not known or revoked."""
        ...


class _NoTokens:
    """Where there are none."""

    admins = False

    def by_hash(self, digest: bytes) -> AccessKey | None:  # noqa: ARG002 - the protocol's
        """None."""
        return None


class Caller(NamedTuple):
    """Who calls: a name for the audit log, and what it holds."""

    name: str = ANONYMOUS
    holds: frozenset[str] = frozenset()
    problem: str = "no_key"
    """Why there is no good key, as `Refusals` counts it; empty if there is one."""
    expires_at: int | None = None
    """End of the token's validity in Unix seconds."""


class Gatekeeper:
    """Knows the keys, by their hashes alone, and decides."""

    def __init__(
        self,
        node_keys: Iterable[str],
        admin_keys: Iterable[str],
        client_keys: Iterable[str] = (),
        *,
        tokens: Tokens | None = None,
        peers: Peers | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._node = KeyRing(node_keys, prefix="node")
        self._admin = KeyRing(admin_keys, prefix="admin")
        self._client = KeyRing(client_keys, prefix="client")
        self._tokens = tokens or _NoTokens()
        self._peers = peers
        self._now = now
        self.refusals = Refusals()

    @property
    def by_certificate(self) -> bool:
        """Whether peers have certificates."""
        return self._peers is not None

    def check(self, method: str, metadata: Metadata, identity: Identity | None = None) -> str:
        """The name of the caller's key, empty where none was needed. `identity` is that of its certificate.

        Raises:
            Unauthenticated: No key that is known here; the message says where to put which.
            PermissionDenied: A good key, for something else.
        """
        need = need_of(method)
        if self._is_open(need):
            return ""
        caller = self.caller(metadata, identity)
        if caller.holds & need.value:
            by_node_key = need in {Need.HOST, Need.GATEWAY} and identity is None
            return self._node.matches(metadata.get(NODE_KEY)) or "" if by_node_key else caller.name
        error = self._refusal(need, caller)
        wrong = "wrong_key" if identity is None else "wrong_certificate"
        self.refusals.note(caller.problem or wrong, "" if caller.problem else caller.name, method, error.message)
        raise error

    def caller(self, metadata: Metadata, identity: Identity | None = None) -> Caller:
        """Who sent this metadata: by the key of an operator, else by the certificate, else by that of a node."""
        caller = self._holder(metadata)
        if identity is not None:
            holds = _MEMBERS.get(identity.kind, frozenset())
            return Caller(str(identity), holds, "") if caller.problem else caller._replace(holds=caller.holds | holds)
        node = None if self.by_certificate else self._node.matches(metadata.get(NODE_KEY))
        if node is None:
            return caller if caller.problem != "no_key" or NODE_KEY not in metadata else Caller(problem="unknown_key")
        if caller.problem:
            return Caller(node, _NODE_KEYS, "")
        return caller._replace(holds=caller.holds | _NODE_KEYS)

    def of(self, context: Context) -> Caller:
        """Who made a call."""
        return self.caller(_metadata(context.invocation_metadata()), self.identity(context))

    def identity(self, context: Context) -> Identity | None:
        """Whose certificate the peer of a call has; None without TLS, and for nobody's. Raises Unauthenticated."""
        if self._peers is None:
            return None
        try:
            return self._peers.identity(context.auth_context())
        except Unauthenticated as error:
            self.refusals.note("bad_certificate", "", "", error.message)
            raise

    def check_again(self, method: str, context: Context) -> None:
        """Whether the caller of a stream may still have it. Raises as `check` does."""
        self.check(method, _metadata(context.invocation_metadata()), self.identity(context))

    def time_left(self, context: Context) -> float | None:
        """Seconds until the caller's token expires; None is no end."""
        expires_at = self.of(context).expires_at
        return None if expires_at is None else max(0.0, expires_at - self._now())

    def _holder(self, metadata: Metadata) -> Caller:
        key, token = metadata.get(API_KEY), _bearer(metadata)
        presented = key or token
        if not presented:
            return Caller(problem="unknown_key" if API_KEY in metadata or "authorization" in metadata else "no_key")
        if (key and token and key != token) or len(presented) > LONGEST:
            return Caller(problem="unknown_key")
        if name := self._admin.matches(presented):
            return Caller(name, EVERY, "")
        if name := self._client.matches(presented):
            return Caller(name, frozenset({CALLER}), "")  # for the gateway's HTTP alone
        digest = sha256(presented)
        found = self._tokens.by_hash(digest)
        if found is None or not hmac.compare_digest(found.secret_sha256, digest):
            return Caller(problem="unknown_key")
        if is_over(found, self._now()):
            return Caller(problem="expired_key")
        return Caller(found.name, held(found.scopes), "", found.expires_at)

    def _is_open(self, need: Need) -> bool:
        if need is Need.NOTHING or self.by_certificate:
            return need is Need.NOTHING
        if need in {Need.HOST, Need.GATEWAY} and not self._node:
            return True
        return not (self._node or self._admin or self._tokens.admins)

    def _refusal(self, need: Need, caller: Caller) -> GenieHiveError:
        if self.by_certificate:
            return self._refusal_by_certificate(need, caller)
        if need in {Need.OPERATOR, Need.ADMIN} and not self._admin and not self._tokens.admins:
            return PermissionDenied("this needs an admin key and none is configured: set auth.admin_api_keys")
        how = _SEND[need]
        match caller.problem:
            case "":
                return PermissionDenied(f"this key is for something else: send {how}")
            case "no_key":
                return Unauthenticated(f"no key: send {how}")
            case "expired_key":
                return Unauthenticated(f"the token has expired: make another (geniehive token create) and send {how}")
            case _:
                return Unauthenticated(f"the key is not known here: send {how}")

    def _refusal_by_certificate(self, need: Need, caller: Caller) -> GenieHiveError:
        how = _SHOW[need]
        match caller.problem:
            case "":
                return PermissionDenied(f"{caller.name} may not do this: it needs {how}")
            case "no_key":
                return Unauthenticated(f"this needs {how}")
            case "expired_key":
                return Unauthenticated(f"the token has expired: this needs {how}")
            case _:
                return Unauthenticated(f"the key is not known here: this needs {how}")


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
        if self._gatekeeper.by_certificate:  # which is known only once there is a call
            handler = await continuation(handler_call_details)
            return None if handler is None else _guarded(self._gatekeeper, handler_call_details.method, handler)
        try:
            self._gatekeeper.check(handler_call_details.method, _metadata(handler_call_details.invocation_metadata))
        except GenieHiveError as error:
            return _refuse(error, await continuation(handler_call_details))
        return await continuation(handler_call_details)


def _refuse(error: GenieHiveError, handler: grpc.RpcMethodHandler[Any, Any] | None) -> grpc.RpcMethodHandler[Any, Any]:
    """A handler that refuses; `handler` is the one that would have answered.

    The one message of a call that is no stream is taken off the wire, as bytes: a client of gRPC for Python that is
    still sending when the answer comes may report its own broken sending instead of the refusal.
    """

    async def refuse(_request: Any, context: Context) -> None:
        await context.abort(grpc.StatusCode[wire_of(error).grpc], error.message)

    if handler is not None and handler.request_streaming:
        return grpc.stream_stream_rpc_method_handler(refuse)
    return grpc.unary_unary_rpc_method_handler(refuse)


def _guarded(
    gatekeeper: Gatekeeper, method: str, handler: grpc.RpcMethodHandler[Any, Any]
) -> grpc.RpcMethodHandler[Any, Any]:
    """The handler behind the gatekeeper: a message is not even parsed before its sender may send it."""
    kind = "_".join(
        "stream" if streams else "unary" for streams in (handler.request_streaming, handler.response_streaming)
    )
    behavior, parse = getattr(handler, kind), None if handler.request_streaming else handler.request_deserializer

    async def admit(context: Context) -> None:
        try:
            gatekeeper.check_again(method, context)
        except GenieHiveError as error:
            wire = wire_of(error)
            await context.abort(grpc.StatusCode[wire.grpc], error.message, ((ERROR_CODE, wire.code),))

    async def answer(request: Any, context: Context) -> Any:
        await admit(context)
        return await behavior(parse(request) if parse else request, context)

    async def stream(request: Any, context: Context) -> AsyncIterator[Any]:
        await admit(context)
        async for message in behavior(parse(request) if parse else request, context):
            yield message

    made: grpc.RpcMethodHandler[Any, Any] = getattr(grpc, f"{kind}_rpc_method_handler")(
        stream if inspect.isasyncgenfunction(behavior) else answer,
        request_deserializer=None if parse else handler.request_deserializer,
        response_serializer=handler.response_serializer,
    )
    return made


def _metadata(pairs: Any) -> Metadata:
    return {pair[0]: pair[1] for pair in pairs or ()}


def _bearer(metadata: Metadata) -> str | None:
    value = metadata.get("authorization")
    return bearer(value) if isinstance(value, str) else None
