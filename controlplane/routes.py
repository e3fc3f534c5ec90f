"""Answers the operators' questions about routes: what a name leads to, and what suits a task."""

from __future__ import annotations

from geniehive.codec import operation_from_pb
from geniehive.config import RoutingConfig
from geniehive.errors import InvalidRequest, NoServiceAvailable
from geniehive.resources import Snapshot
from geniehive.routing.candidate import Candidate, Resolution
from geniehive.routing.ledger import told_ledger
from geniehive.routing.match import DEFAULT_LIMIT, Match, Wanted, match
from geniehive.routing.resolve import resolve
from geniehive.routing.score import explain, measured
from geniehive.routing.strategy import order
from geniehive.routing.table import RoutingTable
from geniehive.v1 import cluster_service_pb2 as pb


def resolve_route(
    request: pb.ResolveRouteRequest, snapshot: Snapshot, routing: RoutingConfig
) -> pb.ResolveRouteResponse:
    """What a gateway that knows this snapshot, and has no request open, does with a model name.

    The order is that of the strategy, by what engines and gateways told of load and speed; what a gateway
    learned from its own requests, and which prompts are warm where, it alone knows.

    Raises:
        ModelNotFound: Nothing has the name; near misses are named.
        InvalidRequest: The name is empty, or the operation does not fit.
    """
    if not request.model:
        raise InvalidRequest("model is empty: name an asset, alias, service or role", param="model")
    table = RoutingTable(snapshot, routing.default_strategy, routing.scored)
    found = _resolution(table, request)
    candidates = order(table, found, {}, 0, ledger=told_ledger(table, found)) if found.candidates else ()
    role = next((each.role for each in candidates), found.role)
    return pb.ResolveRouteResponse(
        match=found.match,
        role_id=role.role_id if role else "",
        strategy=found.strategy,
        candidates=[_candidate(each, reasons=explain(each), signals=measured(table, each)) for each in candidates],
        dropped=[
            pb.DroppedCandidate(service_id=each.service_id, asset_id=each.asset_id, reason=each.reason)
            for each in found.dropped
        ],
    )


def _resolution(table: RoutingTable, request: pb.ResolveRouteRequest) -> Resolution:
    operation = operation_from_pb(request.operation)
    try:
        return resolve(table, request.model, operation)
    except NoServiceAvailable:
        # An operator asks for exactly this: who was looked at, and why none can answer.
        found = table.remembered(request.model, operation)
        if found is None:
            raise
        return found


def match_routes(request: pb.MatchRoutesRequest, snapshot: Snapshot, routing: RoutingConfig) -> pb.MatchRoutesResponse:
    """Roles, and services where asked for, that suit the task and can answer now. Raises InvalidRequest."""
    wanted = Wanted(
        tasks=tuple(request.tasks),
        workloads=tuple(request.workloads),
        operation=operation_from_pb(request.operation),
        modality=request.modality,
        services=request.include_direct_services,
    )
    found = match(RoutingTable(snapshot, routing.default_strategy, routing.scored), wanted, routing.weights)
    return pb.MatchRoutesResponse(matches=[_match(each) for each in found[: request.limit or DEFAULT_LIMIT]])


def _match(found: Match) -> pb.RouteMatch:
    value, signals, reasons = found.score
    candidate = _candidate(found.candidate, reasons=explain(found.candidate), signals={})
    candidate.score = value
    return pb.RouteMatch(
        kind=found.kind, name=found.name, score=value, candidate=candidate, reasons=reasons, signals=signals
    )


def _candidate(candidate: Candidate, *, reasons: list[str], signals: dict[str, float]) -> pb.RouteCandidate:
    return pb.RouteCandidate(
        service_id=candidate.service.service_id,
        asset_id=candidate.asset.asset_id,
        host_id=candidate.host.host_id,
        reasons=reasons,
        signals=signals,
    )
