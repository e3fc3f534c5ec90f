"""Answers the operators' questions about routes: what a name leads to, and what suits a task."""

from __future__ import annotations

from controlplane.matching import Match, Wanted, match
from geniehive.codec import operation_from_pb
from geniehive.errors import InvalidRequest, NoServiceAvailable
from geniehive.resources import Availability, Snapshot
from geniehive.routing.candidate import Candidate, Resolution
from geniehive.routing.resolve import resolve
from geniehive.routing.strategy import order
from geniehive.routing.table import RoutingTable
from geniehive.v1 import cluster_service_pb2 as pb

_DEFAULT_MATCHES = 10
_MOST_TASKS = 100
_SIGNALS = (
    "running",
    "waiting",
    "in_flight",
    "kv_cache_usage",
    "tokens_per_second",
    "ttft_seconds",
    "latency_seconds",
)


def resolve_route(
    request: pb.ResolveRouteRequest, snapshot: Snapshot, default_strategy: str
) -> pb.ResolveRouteResponse:
    """What a gateway that knows this snapshot, and has no request open, does with a model name.

    Raises:
        ModelNotFound: Nothing has the name; near misses are named.
        InvalidRequest: The name is empty, or the operation does not fit.
    """
    if not request.model:
        raise InvalidRequest("model is empty: name an asset, alias, service or role", param="model")
    table = RoutingTable(snapshot, default_strategy)
    found = _resolution(table, request)
    candidates = order(table, found, {}, 0) if found.candidates else ()
    role = next((each.role for each in candidates), found.role)
    return pb.ResolveRouteResponse(
        match=found.match,
        role_id=role.role_id if role else "",
        strategy=found.strategy,
        candidates=[_candidate(each) for each in candidates],
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


def match_routes(request: pb.MatchRoutesRequest, snapshot: Snapshot, default_strategy: str) -> pb.MatchRoutesResponse:
    """Roles, and services where asked for, that share words with the task and can answer now."""
    if not any(text.strip() for text in (*request.tasks, *request.workloads)):
        raise InvalidRequest("tasks is empty: say in words what the model is for", param="tasks")
    if len(request.tasks) + len(request.workloads) > _MOST_TASKS:
        raise InvalidRequest(f"more than {_MOST_TASKS} tasks and workloads in one call", param="tasks")
    wanted = Wanted(
        tasks=tuple(request.tasks),
        workloads=tuple(request.workloads),
        operation=operation_from_pb(request.operation),
        modality=request.modality,
        services=request.include_direct_services,
    )
    found = match(RoutingTable(snapshot, default_strategy), wanted)
    return pb.MatchRoutesResponse(matches=[_match(each) for each in found[: request.limit or _DEFAULT_MATCHES]])


def _match(found: Match) -> pb.RouteMatch:
    return pb.RouteMatch(
        kind=found.kind,
        name=found.name,
        score=found.score,
        candidate=_candidate(found.candidate),
        reasons=[f"shares the words {', '.join(found.words)}"],
        signals={"text_overlap": found.score},
    )


def _candidate(candidate: Candidate) -> pb.RouteCandidate:
    observed = candidate.service.observed
    known = ((name, getattr(observed, name)) for name in _SIGNALS)
    return pb.RouteCandidate(
        service_id=candidate.service.service_id,
        asset_id=candidate.asset.asset_id,
        host_id=candidate.host.host_id,
        reasons=_reasons(candidate),
        signals={name: value for name, value in known if value is not None},
    )


def _reasons(candidate: Candidate) -> list[str]:
    reasons = [f"service is {candidate.service.health.status.value}"]
    if candidate.asset.loaded is not None:
        reasons.append("model is loaded" if candidate.asset.loaded else "model is not loaded")
    if candidate.host.availability is not Availability.AVAILABLE:
        reasons.append(f"host is {candidate.host.availability.value}")
    if candidate.role is not None:
        reasons.append(f"by role {candidate.role.role_id}")
    return reasons
