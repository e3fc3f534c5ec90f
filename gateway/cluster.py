"""`/v1/cluster/…`: the cluster as this gateway sees it, for dashboards and scripts.

Hosts, services, roles, health and routes come from the worker's own snapshot, so they are there when
the control plane is not; every answer says whether the snapshot is stale. Benchmarks and events are
the control plane's, asked for over gRPC.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import grpc
import grpc.aio
import msgspec

from gateway import web
from gateway.auth import presented
from gateway.cluster_bodies import named, parse_match, shown
from gateway.cluster_orders import ClusterOrders
from gateway.control_errors import refused, unreachable
from gateway.errors import error_event
from gateway.exchange import Exchange
from gateway.inflight import InFlight
from gateway.intake import read_json
from gateway.plain import Json, plain
from gateway.relay import commit
from gateway.server.request import Request
from gateway.view import RoutingView
from geniehive import codec, dial
from geniehive.benchmarks.report import samples_in
from geniehive.config import Config
from geniehive.errors import InvalidRequest, NotFound, NotReady, Unauthenticated
from geniehive.resources import BenchmarkSample, HealthStatus, LeaseState, Operation
from geniehive.routing.ledger import Ask
from geniehive.routing.match import match
from geniehive.routing.resolve import resolve
from geniehive.routing.score import explain, measured
from geniehive.routing.strategy import depth, order
from geniehive.routing.table import RoutingTable
from geniehive.v1 import benchmark_service_pb2 as benchmark_pb
from geniehive.v1 import benchmark_service_pb2_grpc as benchmark_rpc
from geniehive.v1 import cluster_service_pb2 as cluster_pb
from geniehive.v1 import cluster_service_pb2_grpc as cluster_rpc

_ANSWER_WITHIN_S: Final = 5.0
_FOREVER_S: Final = 1e8
_CONTROL_PLANE_GONE: Final = b'event: error\ndata: {"message":"the control plane went away: connect again"}\n\n'
_DEFAULTS: Final = Config()


class ClusterViews:
    """The handlers. `channel` leads to the control plane, with `node_key` as credential."""

    def __init__(
        self,
        view: RoutingView,
        in_flight: InFlight,
        channel: grpc.aio.Channel,
        node_key: str,
        config: Config = _DEFAULTS,
    ) -> None:
        self._view = view
        self._in_flight = in_flight
        self._cluster = cluster_rpc.ClusterServiceStub(channel)
        self._benchmarks = benchmark_rpc.BenchmarkServiceStub(channel)
        self._node_key = node_key
        self._limits = config.gateway
        self._weights = config.routing.weights
        self.orders = ClusterOrders(channel, node_key, config.gateway)

    async def hosts(self, request: Request) -> web.Response:
        """GET /v1/cluster/hosts[/{host_id}]."""
        return self._listed(request, "host_id", self._view.current().snapshot.hosts)

    async def services(self, request: Request) -> web.Response:
        """GET /v1/cluster/services[/{service_id}]."""
        return self._listed(request, "service_id", self._view.current().snapshot.services)

    async def roles(self, request: Request) -> web.Response:
        """GET /v1/cluster/roles[/{role_id}]."""
        return self._listed(request, "role_id", self._view.current().shape.roles)

    def _listed(self, request: Request, key: str, things: dict[str, Any]) -> web.Response:
        """One thing by the id in the path, else all by id."""
        if (wanted := request.match_info.get(key)) is None:
            return self._answer({"object": "list", "data": [plain(things[name]) for name in sorted(things)]})
        if wanted not in things:
            raise NotFound(f"no {key.removesuffix('_id')} {wanted!r}; there are: {_some(things)}", param=key)
        return self._answer(plain(things[wanted]))

    async def health(self, _request: Request) -> web.Response:
        """GET /v1/cluster/health: the cluster in a few numbers."""
        table = self._view.current()
        services = table.shape.services.values()
        up = [host for host in table.shape.hosts.values() if host.lease is LeaseState.UP]
        healthy = [service for service in services if service.health.status is HealthStatus.HEALTHY]
        return self._answer(
            {
                "status": "stale" if self._view.stale else "ok",
                "epoch": table.shape.epoch,
                "revision": table.shape.revision,
                "hosts": {"up": len(up), "total": len(table.shape.hosts)},
                "services": {"healthy": len(healthy), "total": len(services)},
                "roles": len(table.shape.roles),
                "in_flight": self._in_flight.total,
            }
        )

    async def resolve(self, request: Request) -> web.Response:
        """GET /v1/cluster/routes/resolve?model=…[&operation=…]: what a name leads to now."""
        name = request.query.get("model")
        if not name:
            raise InvalidRequest("which model? GET /v1/cluster/routes/resolve?model=NAME", param="model")
        operation = _operation(request.query.get("operation"))
        return self._answer(self._resolved(self._view.current(), name, operation))

    def _resolved(self, table: RoutingTable, name: str, operation: Operation | None) -> Json:
        found = resolve(table, name, operation)
        counts = self._in_flight.counts
        return {
            "model": name,
            "match": found.match,
            "operation": found.operation.value,
            "strategy": found.strategy,
            "role_id": found.role.role_id if found.role else None,
            "candidates": [
                named(each)
                | {
                    "tier": list(each.tier),
                    "in_flight": depth(table.observed[each.service.service_id], counts.get(each.service.service_id, 0)),
                    "reasons": explain(each),
                    "signals": measured(table, each, counts.get(each.service.service_id, 0)),
                }
                for each in order(
                    table, found, counts, 0, ask=Ask(self._in_flight.now()), ledger=self._in_flight.ledger
                )
            ],
            "dropped": [each._asdict() for each in found.dropped],
        }

    async def match(self, exchange: Exchange) -> web.Response:
        """POST /v1/cluster/routes/match: roles, and services where asked for, that suit a task, best first."""
        wanted, limit = parse_match(await self._body(exchange))
        found = match(self._view.current(), wanted, self._weights, self._in_flight.counts)
        return self._answer({"object": "list", "data": [shown(each) for each in found[:limit]]})

    async def ingest(self, exchange: Exchange) -> web.Response:
        """POST /v1/cluster/benchmarks: the samples of a report are stored, all or none.

        The control plane decides whether the caller may: it gets the caller's own key, never the gateway's alone.
        """
        samples = samples_in(await self._body(exchange))
        query = benchmark_pb.IngestSamplesRequest(samples=_encoded(samples))
        try:
            answer = await self._benchmarks.IngestSamples(
                query, metadata=self._keys(exchange.request), timeout=_ANSWER_WITHIN_S
            )
        except grpc.aio.AioRpcError as error:
            raise refused(error, param="samples") from error
        return self._answer({"object": "list", "sample_ids": list(answer.sample_ids)})

    def _keys(self, request: Request) -> tuple[tuple[str, str], ...]:
        """The gateway's key and the caller's: where the gateway has none of its own, the caller's has to do."""
        return dial.metadata(node_key=self._node_key, admin_key=presented(request.headers))

    async def _body(self, exchange: Exchange) -> bytes:
        return await read_json(exchange, cap=self._limits.max_body_bytes, timeout_s=self._limits.body_timeout_s)

    async def benchmarks(self, request: Request) -> web.Response:
        """GET /v1/cluster/benchmarks[?service_id=…&workload=…&limit=…]: samples, newest first."""
        query = benchmark_pb.ListSamplesRequest(
            service_id=request.query.get("service_id", ""),
            workload=request.query.get("workload", ""),
            limit=_limit(request.query.get("limit")),
        )
        try:
            answer = await self._benchmarks.ListSamples(query, metadata=self._keys(request), timeout=_ANSWER_WITHIN_S)
        except grpc.aio.AioRpcError as error:
            raise unreachable(error) from error
        return self._answer({"object": "list", "data": [plain(codec.sample_from_pb(each)) for each in answer.samples]})

    async def events(self, exchange: Exchange) -> web.StreamResponse:
        """GET /v1/cluster/events[?host_id=…]: what happens, as server-sent events, until the client leaves."""
        query = cluster_pb.WatchEventsRequest(host_id=exchange.request.query.get("host_id", ""))
        call = self._cluster.WatchEvents(query, metadata=self._keys(exchange.request))
        try:
            with exchange.deadline(_FOREVER_S):
                await call.wait_for_connection()
                response = commit(exchange)
                async for event in call:
                    await response.write(_sse(event))
        except TimeoutError:  # it was interrupted: its key was revoked, it took too long, or the gateway stops
            why = exchange.interruption or NotReady("the stream has ended: connect again")
            if exchange.response is None:
                raise why from None
            response = exchange.response
            await response.write(b"event: error\n" + error_event(why))
        except grpc.aio.AioRpcError as error:
            if exchange.response is None:
                raise unreachable(error) from error
            response = exchange.response
            if error.code() is grpc.StatusCode.UNAUTHENTICATED:  # it knows of a revocation before this gateway does
                over = exchange.interruption or Unauthenticated("this token was revoked, or has expired")
                await response.write(b"event: error\n" + error_event(over))
            else:
                await response.write(_CONTROL_PLANE_GONE)
        finally:
            call.cancel()
        await response.write_eof()
        return response

    def _answer(self, body: Json) -> web.Response:
        body["stale"] = self._view.stale
        return web.Response(body=msgspec.json.encode(body), content_type="application/json")


def _sse(event: cluster_pb.WatchEventsResponse) -> bytes:
    data = {
        "at_ms": event.at_ms,
        "kind": event.kind,
        "host_id": event.host_id,
        "service_id": event.service_id,
        "message": event.message,
        "revision": event.revision,
    }
    return b"event: %b\ndata: %b\n\n" % (event.kind.encode(), msgspec.json.encode(data))


def _operation(word: str | None) -> Operation | None:
    if word is None:
        return None
    try:
        return Operation(word)
    except ValueError:
        raise InvalidRequest(f"operation {word!r}: choose one of {', '.join(Operation)}", param="operation") from None


def _limit(word: str | None) -> int:
    if word is None:
        return 0
    if not word.isascii() or not word.isdigit() or not 1 <= int(word[:5]) <= 1000:
        raise InvalidRequest("limit: a whole number from 1 to 1000", param="limit")
    return int(word)


def _encoded(samples: Iterable[BenchmarkSample]) -> list[benchmark_pb.BenchmarkSample]:
    """Samples for the wire. Raises InvalidRequest for a number that it cannot carry, such as -1 requests."""
    found = []
    for position, sample in enumerate(samples):
        try:
            found.append(codec.sample_to_pb(sample))
        except (ValueError, TypeError) as error:
            raise InvalidRequest(f"samples[{position}]: {error}; nothing was stored", param="samples") from None
    return found


def _some(names: Iterable[str], most: int = 10) -> str:
    listed = sorted(names)
    return ", ".join(listed[:most]) + (", …" if len(listed) > most else "") if listed else "none"
