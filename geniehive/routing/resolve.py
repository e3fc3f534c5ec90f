"""A name becomes candidates: asset, alias or service id; else a role; else its fallback roles.

A direct name always wins over a role of the same name. Roles are walked breadth first from the one
that was asked for, each visited once, so a cycle ends by itself.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from geniehive.errors import InvalidRequest, ModelNotFound, NoServiceAvailable
from geniehive.resources import Operation, Role
from geniehive.routing.candidate import Candidate, Dropped, Resolution
from geniehive.routing.eligibility import operations, preference, strangeness, tier, unavailable, unfit, unwelcome
from geniehive.routing.table import Able, Entry, RoutingTable

# An engine that does one of a pair may be asked for the other where its asset says so.
_KIN = ({Operation.CHAT, Operation.COMPLETION}, {Operation.TRANSCRIPTION, Operation.TRANSLATION})
_LONGEST_NAME = 200

Key = tuple[str, str]
"""A service id and an asset id."""


def resolve(table: RoutingTable, name: str, operation: Operation | None = None) -> Resolution:
    """Candidates for a model name, in tiers.

    `operation` is what is asked for; None stands for whatever the name can do. Raises ModelNotFound
    (with near misses), InvalidRequest (the model cannot do that) or NoServiceAvailable (nothing can
    answer now, with the reasons).
    """
    known = table.remembered(name, operation)
    if known is None:
        known = table.remember(operation, _resolve(table, name, operation))
    if not known.candidates:
        raise NoServiceAvailable(_nobody(known), param="model", retry_after_s=5)
    return known


def _resolve(table: RoutingTable, name: str, operation: Operation | None) -> Resolution:
    if entries := table.entries(name):
        return _direct(table, name, entries, operation)
    if role := table.shape.roles.get(name):
        return _by_role(table, role, operation)
    raise unknown_model(name, table.names())


def _direct(table: RoutingTable, name: str, entries: tuple[Entry, ...], operation: Operation | None) -> Resolution:
    able = [entry for entry in entries if operation is None or operation in operations(entry.service, entry.asset)]
    if not able:
        can = sorted({word.value for entry in entries for word in operations(entry.service, entry.asset)})
        raise InvalidRequest(
            f"model {name!r} cannot be asked for {operation}: it serves {', '.join(can) or 'nothing known'}",
            param="model",
        )
    candidates, dropped = _split(table, able)
    first = able[0]
    asked = operation or next(iter(operations(first.service, first.asset)), Operation.CHAT)
    return Resolution(name, first.match, asked, table.default_strategy, candidates, dropped)


def _by_role(table: RoutingTable, role: Role, operation: Operation | None) -> Resolution:
    asked = operation or role.operation
    if not _akin(role.operation, asked):
        raise InvalidRequest(f"role {role.role_id!r} is for {role.operation}, not for {asked}", param="model")
    candidates: dict[Key, Candidate] = {}
    dropped: dict[Key, Dropped] = {}
    for depth, each in enumerate(role_chain(table.shape.roles, role)):
        if _akin(each.operation, asked):
            _of_role(table.able(asked), each, depth, candidates, dropped)
    strategy = role.routing_policy.strategy or table.default_strategy
    return Resolution(role.role_id, "role", asked, strategy, *_sorted(candidates, dropped), role)


def _akin(one: Operation, other: Operation) -> bool:
    return one is other or any({one, other} <= kin for kin in _KIN)


def _of_role(
    able: Iterable[Able], role: Role, depth: int, candidates: dict[Key, Candidate], dropped: dict[Key, Dropped]
) -> None:
    """What a role, the `depth`th of its chain, makes of those who could do it; a role before it has the first word.

    Hosts and models are far fewer than services, so each is judged once.
    """
    policy = role.routing_policy
    hosts: dict[str, tuple[str, int]] = {}
    models: dict[tuple[str, str], tuple[int, int]] = {}
    for key, service, asset, host, reason, place in able:
        if key in candidates:
            continue
        if host is None or reason:
            dropped[key] = Dropped(*key, reason)
            continue
        judged = hosts.get(host.host_id)
        if judged is None:
            judged = hosts[host.host_id] = (unwelcome(policy, host), strangeness(policy, host))
        if reason := unfit(policy, asset) or judged[0]:
            dropped.setdefault(key, Dropped(*key, reason))
            continue
        liked = models.get((asset.asset_id, asset.family))
        if liked is None:
            liked = models[asset.asset_id, asset.family] = preference(policy, asset)
        candidates[key] = Candidate(service, asset, host, (depth, place[0], *liked, judged[1], *place[1:]), role)


def role_chain(roles: dict[str, Role], start: Role) -> list[Role]:
    """The role and its fallbacks in the order in which they are tried; cycles and unknown ones are cut."""
    chain = [start]
    for role in chain:
        fallbacks = (roles.get(role_id) for role_id in role.routing_policy.fallback_roles)
        chain.extend(each for each in fallbacks if each is not None and each not in chain)
    return chain


def _split(table: RoutingTable, wanted: Iterable[Entry]) -> tuple[tuple[Candidate, ...], tuple[Dropped, ...]]:
    """Candidates in tiers, each asset once, and what was dropped with its reason."""
    candidates: dict[Key, Candidate] = {}
    dropped: dict[Key, Dropped] = {}
    for _, service, asset in wanted:
        key = (service.service_id, asset.asset_id)
        host = table.shape.hosts.get(service.host_id)
        reason = unavailable(service, host)
        if host is None or reason:
            dropped[key] = Dropped(*key, reason)
        else:
            candidates.setdefault(key, Candidate(service, asset, host, tier(service, asset, host)))
    return _sorted(candidates, dropped)


def _sorted(
    candidates: dict[Key, Candidate], dropped: dict[Key, Dropped]
) -> tuple[tuple[Candidate, ...], tuple[Dropped, ...]]:
    kept = sorted((each.tier, key, each) for key, each in candidates.items())  # keys differ, so no candidates compare
    left_out = [drop for key, drop in sorted(dropped.items()) if key not in candidates]
    return tuple([each for _, _, each in kept]), tuple(left_out)


def _nobody(found: Resolution) -> str:
    subject = f"{'role' if found.match == 'role' else 'model'} {found.name!r}"
    if not found.dropped:
        return f"{subject}: no service of the cluster does {found.operation}; add one, or a fallback role"
    reasons = "; ".join(f"{drop.service_id}: {drop.reason}" for drop in found.dropped[:5])
    return f"{subject}: no service can answer now ({reasons})"


def unknown_model(name: str, names: list[str]) -> ModelNotFound:
    """The error for a name that leads nowhere, with the names that are nearest to it."""
    shown = name[:_LONGEST_NAME]
    near = difflib.get_close_matches(shown, names, n=3, cutoff=0.5)
    hint = f"did you mean {', '.join(map(repr, near))}?" if near else "GET /v1/models lists what there is"
    return ModelNotFound(f"model {shown!r} does not exist: {hint}", param="model")
