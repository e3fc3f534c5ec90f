"""`/v1/cluster/…` for operators and administrators: orders to hosts and engines, tokens, the audit log.

The control plane does it all, and decides whether the caller may: it gets the caller's own key beside the gateway's,
so what is done is written down under the caller's name.
"""

from __future__ import annotations

import time
from typing import Any, Final

import grpc.aio
import msgspec

from gateway import web
from gateway.auth import presented
from gateway.control_errors import refused
from gateway.exchange import Exchange
from gateway.intake import read_json
from gateway.order_bodies import OrderBody, parse_order, parse_token
from gateway.plain import Json, plain
from geniehive import codec, dial
from geniehive.command_codec import command_from_pb
from geniehive.config import GatewayConfig
from geniehive.errors import InvalidRequest
from geniehive.resources import AccessKey
from geniehive.v1 import access_service_pb2 as access_pb
from geniehive.v1 import access_service_pb2_grpc as access_rpc
from geniehive.v1 import cluster_service_pb2 as cluster_pb
from geniehive.v1 import cluster_service_pb2_grpc as cluster_rpc

_ANSWER_WITHIN_S: Final = 10.0
_MOST: Final = 1000
_LONGEST: Final = 512


class ClusterOrders:
    """The handlers. `channel` leads to the control plane, with `node_key` as the gateway's own credential."""

    def __init__(self, channel: grpc.aio.Channel, node_key: str, limits: GatewayConfig) -> None:
        self._cluster = cluster_rpc.ClusterServiceStub(channel)
        self._access = access_rpc.AccessServiceStub(channel)
        self._node_key = node_key
        self._limits = limits

    # --- orders --------------------------------------------------------------------------------

    async def commands(self, exchange: Exchange) -> web.Response:
        """GET /v1/cluster/commands[?host_id=…&limit=…]: orders, newest first."""
        given = exchange.request.query
        query = cluster_pb.ListCommandsRequest(
            host_id=given.get("host_id", "")[:_LONGEST], limit=number(given.get("limit"), "limit", _MOST)
        )
        answer = await self._call(exchange, self._cluster.ListCommands, query)
        return _json({"object": "list", "data": [plain(command_from_pb(each)) for each in answer.commands]})

    async def command(self, exchange: Exchange) -> web.Response:
        """GET /v1/cluster/commands/{command_id}."""
        query = cluster_pb.GetCommandRequest(command_id=exchange.tail[:_LONGEST])
        answer = await self._call(exchange, self._cluster.GetCommand, query, "command_id")
        return _json(plain(command_from_pb(answer.command)))

    async def order(self, exchange: Exchange) -> web.Response:
        """POST /v1/cluster/commands: load, unload, probe, drain, resume. Answers the command, or the host."""
        body = parse_order(await self._body(exchange))
        if body.kind in {"drain", "resume"}:
            return _json(plain(await self._about_host(exchange, body)))
        return _json(plain(command_from_pb(await self._about_service(exchange, body))), 202)

    async def _about_host(self, exchange: Exchange, body: OrderBody) -> Any:
        if body.kind == "drain":
            drain = cluster_pb.DrainHostRequest(host_id=body.host_id)
            answer = await self._call(exchange, self._cluster.DrainHost, drain, "host_id")
        else:
            resume = cluster_pb.ResumeHostRequest(host_id=body.host_id)
            answer = await self._call(exchange, self._cluster.ResumeHost, resume, "host_id")
        return codec.host_from_pb(answer.host)

    async def _about_service(self, exchange: Exchange, body: OrderBody) -> Any:
        about = {"service_id": body.service_id, "command_id": body.command_id}
        match body.kind:
            case "load":
                load = cluster_pb.LoadModelRequest(**about, asset_id=body.model, context_size=body.context_size)
                answer = await self._call(exchange, self._cluster.LoadModel, load)
            case "unload":
                unload = cluster_pb.UnloadModelRequest(**about, asset_id=body.model)
                answer = await self._call(exchange, self._cluster.UnloadModel, unload)
            case _:
                probe = cluster_pb.ProbeServiceRequest(**about)
                answer = await self._call(exchange, self._cluster.ProbeService, probe)
        return answer.command

    async def forget(self, exchange: Exchange) -> web.Response:
        """DELETE /v1/cluster/hosts/{host_id}: forget a host that is not up."""
        query = cluster_pb.ForgetHostRequest(host_id=exchange.tail[:_LONGEST])
        await self._call(exchange, self._cluster.ForgetHost, query, "host_id")
        return _json({"object": "host", "host_id": exchange.tail, "deleted": True})

    # --- tokens --------------------------------------------------------------------------------

    async def tokens(self, exchange: Exchange) -> web.Response:
        """GET /v1/cluster/tokens[?revoked=true]: tokens, by name, without their secrets."""
        everything = exchange.request.query.get("revoked", "") in {"true", "1"}
        answer = await self._call(
            exchange, self._access.ListTokens, access_pb.ListTokensRequest(include_revoked=everything)
        )
        return _json({"object": "list", "data": [shown(codec.key_from_pb(each)) for each in answer.keys]})

    async def make_token(self, exchange: Exchange) -> web.Response:
        """POST /v1/cluster/tokens: the answer has the secret, and nothing else ever has."""
        key = parse_token(await self._body(exchange), time.time())
        answer = await self._call(
            exchange, self._access.CreateToken, access_pb.CreateTokenRequest(key=codec.key_to_pb(key))
        )
        made = {"object": "token", "secret": answer.secret, "key": shown(codec.key_from_pb(answer.key))}
        return _json(made, 201)

    async def revoke_token(self, exchange: Exchange) -> web.Response:
        """DELETE /v1/cluster/tokens/{name}: it and the streams that it opened end."""
        query = access_pb.RevokeTokenRequest(name=exchange.tail[:_LONGEST])
        await self._call(exchange, self._access.RevokeToken, query, "name")
        return _json({"object": "token", "name": exchange.tail, "deleted": True})

    async def audit(self, exchange: Exchange) -> web.Response:
        """GET /v1/cluster/audit[?limit=…&before=…&actor=…&action=…]: who did what, newest first."""
        given = exchange.request.query
        query = access_pb.ListAuditEntriesRequest(
            limit=number(given.get("limit"), "limit", _MOST),
            before_entry_id=number(given.get("before"), "before", 2**62),
            actor=given.get("actor", "")[:_LONGEST],
            action=given.get("action", "")[:_LONGEST],
        )
        answer = await self._call(exchange, self._access.ListAuditEntries, query)
        return _json({"object": "list", "data": [plain(codec.audit_from_pb(each)) for each in answer.entries]})

    # --- helpers -------------------------------------------------------------------------------

    async def _call(self, exchange: Exchange, method: Any, query: Any, param: str | None = None) -> Any:
        """Ask the control plane in the caller's name."""
        metadata = dial.metadata(node_key=self._node_key, admin_key=presented(exchange.request.headers))
        try:
            return await method(query, metadata=metadata, timeout=_ANSWER_WITHIN_S)
        except grpc.aio.AioRpcError as error:
            raise refused(error, param=param) from error

    async def _body(self, exchange: Exchange) -> bytes:
        return await read_json(exchange, cap=self._limits.max_body_bytes, timeout_s=self._limits.body_timeout_s)


def shown(key: AccessKey) -> Json:
    """A token as JSON, without its hash."""
    found = plain(key)
    del found["secret_sha256"]
    return found


def number(word: str | None, param: str, most: int) -> int:
    """A whole number of a query, 0 where it is not given. Raises InvalidRequest."""
    if word is None:
        return 0
    if not word.isascii() or not word.isdigit() or len(word) > 19 or not 1 <= int(word) <= most:
        raise InvalidRequest(f"{param}: a whole number from 1 to {most}", param=param)
    return int(word)


def _json(value: Json, status: int = 200) -> web.Response:
    # What has a secret in it, and what is true for a moment only, belongs in no cache.
    return web.Response(
        body=msgspec.json.encode(value),
        status=status,
        content_type="application/json",
        headers={"cache-control": "no-store"},
    )
