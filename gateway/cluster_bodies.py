"""[pure] What clients post to `/v1/cluster`: tasks to match, and how matches are answered."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from geniehive.errors import InvalidRequest
from geniehive.resources import Operation
from geniehive.routing.candidate import Candidate
from geniehive.routing.match import DEFAULT_LIMIT, MODALITIES, Match, Wanted

_MOST: Final = 1000
Json = dict[str, Any]


class MatchBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """POST /v1/cluster/routes/match. `kind` is the operation, as in the config of a service."""

    task: str = ""
    tasks: list[str] = []
    workload: str = ""
    workloads: list[str] = []
    kind: Operation | None = None
    operation: Operation | None = None
    modality: str = ""
    include_direct_services: bool = False
    limit: int = DEFAULT_LIMIT


def parse_match(raw: bytes) -> tuple[Wanted, int]:
    """What is looked for, and how much of it at most. Raises InvalidRequest naming the field."""
    try:
        body = msgspec.json.decode(raw, type=MatchBody)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"the body is not what is asked for: {error}") from None
    if body.modality and body.modality not in MODALITIES:
        raise InvalidRequest(
            f"modality {body.modality[:64]!r}: choose one of {', '.join(MODALITIES)}", param="modality"
        )
    if body.kind and body.operation and body.kind is not body.operation:
        raise InvalidRequest("kind and operation differ: they are two names for the same thing", param="kind")
    if not 1 <= body.limit <= _MOST:
        raise InvalidRequest(f"limit: a whole number from 1 to {_MOST}", param="limit")
    wanted = Wanted(
        tasks=(*_given(body.task), *body.tasks),
        workloads=(*_given(body.workload), *body.workloads),
        operation=body.kind or body.operation,
        modality=body.modality,
        services=body.include_direct_services,
    )
    return wanted, body.limit


def shown(found: Match) -> Json:
    """A match as JSON."""
    return {
        "kind": found.kind,
        "name": found.name,
        "score": found.score.value,
        "reasons": list(found.score.reasons),
        "signals": dict(found.score.signals),
        "candidate": named(found.candidate),
    }


def named(candidate: Candidate) -> Json:
    """Who a candidate is."""
    return {
        "service_id": candidate.service.service_id,
        "asset_id": candidate.asset.asset_id,
        "host_id": candidate.host.host_id,
        "role_id": candidate.role.role_id if candidate.role else None,
    }


def _given(word: str) -> tuple[str, ...]:
    return (word,) if word else ()
