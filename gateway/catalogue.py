"""`/v1/models`: what a client can ask for, in enough detail to choose from this alone.

Pure. An asset on several hosts is one entry; a role is an entry of its own; a service id or an alias
is answered for by name and not listed. The fields are a superset of OpenAI's, in the words that
OpenRouter, vLLM and llama.cpp use for theirs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from geniehive.errors import NoServiceAvailable
from geniehive.resources import Asset, HealthStatus, Observed, Operation, Role, Service
from geniehive.routing.candidate import Candidate, Resolution
from geniehive.routing.eligibility import operations, unavailable
from geniehive.routing.policy import INCLUDE_REASONING, effective_policy
from geniehive.routing.resolve import resolve, unknown_model
from geniehive.routing.strategy import depth
from geniehive.routing.table import Entry, RoutingTable

Json = dict[str, Any]

# Input and output modalities by operation.
_MODALITIES: Final[Mapping[Operation, tuple[str, str]]] = {
    Operation.CHAT: ("text", "text"),
    Operation.COMPLETION: ("text", "text"),
    Operation.EMBEDDINGS: ("text", "embeddings"),
    Operation.RERANK: ("text", "rerank"),
    Operation.TRANSCRIPTION: ("audio", "text"),
    Operation.TRANSLATION: ("audio", "text"),
    Operation.SPEECH: ("text", "audio"),
    Operation.IMAGE: ("text", "image"),
    Operation.MODERATION: ("text", "moderation"),
}
_CHAT_PARAMETERS: Final = (INCLUDE_REASONING, "max_tokens", "seed", "stop", "stream", "temperature", "top_p")
_TOOL_PARAMETERS: Final = ("tool_choice", "tools")
_OTHER_PARAMETERS: Final[Mapping[Operation, tuple[str, ...]]] = {
    Operation.EMBEDDINGS: ("dimensions", "encoding_format", "input"),
    Operation.RERANK: ("documents", "query", "top_n"),
    Operation.TRANSCRIPTION: ("file", "language", "prompt", "response_format", "stream", "temperature"),
    Operation.TRANSLATION: ("file", "prompt", "response_format", "temperature"),
    Operation.SPEECH: ("input", "response_format", "speed", "stream_format", "voice"),
    Operation.IMAGE: ("n", "output_format", "prompt", "size"),
    Operation.MODERATION: ("input",),
}
_ORDER: Final = tuple(Operation)
_STATUS_ORDER: Final = ("loaded", "unloaded", "loading", "unavailable")


def models(table: RoutingTable, in_flight: Mapping[str, int]) -> list[Json]:
    """Every asset and role, by id: assets first."""
    assets = sorted({asset.asset_id for service in table.shape.services.values() for asset in service.assets})
    listed = [_named(table, asset_id, in_flight) for asset_id in assets]
    return listed + [_role(table, role, in_flight) for _, role in sorted(table.shape.roles.items())]


def model(table: RoutingTable, name: str, in_flight: Mapping[str, int]) -> Json:
    """One entry, by asset id, alias, service id or role. Raises ModelNotFound."""
    if table.entries(name):
        return _named(table, name, in_flight)
    if role := table.shape.roles.get(name):
        return _role(table, role, in_flight)
    raise unknown_model(name, table.names())


def _named(table: RoutingTable, name: str, in_flight: Mapping[str, int]) -> Json:
    entries = table.entries(name)
    kind = "service" if entries[0].match == "service" else "asset"
    entry = _entry(table, name, kind, entries, in_flight)
    policies = {each.service.service_id: _policy(each.service, each.asset) for each in entries}
    first = policies[entries[0].service.service_id]
    entry["geniehive"]["effective_request_policy"] = first
    if any(policy != first for policy in policies.values()):
        entry["geniehive"]["request_policy_by_service"] = policies
    return entry


def _role(table: RoutingTable, role: Role, in_flight: Mapping[str, int]) -> Json:
    try:
        found: Resolution | None = resolve(table, role.role_id, role.operation)
    except NoServiceAvailable:
        found = None
    entries = tuple(_as_entry(candidate) for candidate in found.candidates) if found else ()
    entry = _entry(table, role.role_id, "role", entries, in_flight)
    entry["name"] = role.display_name or role.role_id
    entry["description"] = role.description
    entry["architecture"] = _architecture([role.operation], ())
    own = entry["geniehive"]
    own["operation"] = role.operation.value
    own["aliases"] = []  # those of its models lead to them, not to the role
    own["fallback_roles"] = list(role.routing_policy.fallback_roles)
    own["effective_request_policy"] = _policy_of_role(role, found.candidates[0] if found else None)
    return entry


def _policy_of_role(role: Role, first: Candidate | None) -> Json:
    """With the asset that is first in the order before load counts, which a fallback role may have led to."""
    if first is None:
        return effective_policy(Asset(asset_id=""), role, role.operation).shown()
    return _policy(first.service, first.asset, first.role, role.operation)


def _policy(service: Service, asset: Asset, role: Role | None = None, operation: Operation | None = None) -> Json:
    """What is done to requests there; of several operations the first counts, which is chat where it can."""
    can = sorted(operations(service, asset), key=_ORDER.index)
    asked = operation or next(iter(can), Operation.CHAT)
    return effective_policy(asset, role, asked, service.protocol).shown()


def _as_entry(candidate: Candidate) -> Entry:
    return Entry("role", candidate.service, candidate.asset)


def _entry(table: RoutingTable, name: str, kind: str, entries: tuple[Entry, ...], in_flight: Mapping[str, int]) -> Json:
    assets = [entry.asset for entry in entries]
    can = sorted({op for e in entries for op in operations(e.service, e.asset)}, key=_ORDER.index)
    capabilities = sorted({word for asset in assets for word in asset.capabilities})
    context = _most(asset.context_size for asset in assets)
    status = _status(table, entries)
    return {
        "id": name,
        "object": "model",
        "created": 0,
        "owned_by": _first(entry.service.runtime.engine for entry in entries) or "geniehive",
        "name": name,
        "description": _describe(assets, can),
        "context_length": context,
        "max_model_len": context,
        "architecture": _architecture(can, capabilities),
        "supported_parameters": _parameters(can, capabilities),
        "capabilities": {**{op.value: True for op in can}, **dict.fromkeys(capabilities, True)},
        "status": status,
        "geniehive": _own(table, kind, entries, can, context, in_flight),
    }


def _own(
    table: RoutingTable,
    kind: str,
    entries: tuple[Entry, ...],
    can: list[Operation],
    context: int | None,
    in_flight: Mapping[str, int],
) -> Json:
    """What is GenieHive's alone: where the model is, and how busy."""
    assets = [entry.asset for entry in entries]
    loaded = sorted({entry.service.host_id for entry in entries if entry.asset.loaded})
    observed = _observed(table, entries, in_flight)
    return {
        "kind": kind,
        "operation": can[0].value if can else None,
        "operations": [op.value for op in can],
        "services": sorted({entry.service.service_id for entry in entries}),
        "hosts": sorted({entry.service.host_id for entry in entries}),
        "loaded_on": loaded,
        "engine": _first(entry.service.runtime.engine for entry in entries),
        "family": _first(asset.family for asset in assets),
        "quantization": _first(asset.quantization for asset in assets),
        "context_size": context,
        "parameter_size": _first(asset.parameter_size for asset in assets),
        "vram_bytes": _most(asset.vram_bytes for asset in assets),
        "observed": observed,
        "offload": {"suitable_for": [op.value for op in can], "latency_class": _latency_class(observed, loaded)},
        "aliases": sorted({alias for asset in assets for alias in asset.aliases}),
        "voices": sorted({voice.voice_id for asset in assets for voice in asset.voices}),
    }


def _status(table: RoutingTable, entries: tuple[Entry, ...]) -> Json:
    """The best state over all services; for "unavailable" also why."""
    states = [_state(table, entry) for entry in entries]
    best = min((state for state, _ in states), key=_STATUS_ORDER.index, default="unavailable")
    if best != "unavailable":
        return {"value": best}
    reasons = sorted({f"{entry.service.service_id}: {why}" for entry, (_, why) in zip(entries, states, strict=True)})
    return {"value": best, "reason": "; ".join(reasons) or "no service of the cluster can answer"}


def _state(table: RoutingTable, entry: Entry) -> tuple[str, str]:
    service = entry.service
    if reason := unavailable(service, table.shape.hosts.get(service.host_id)):
        return "unavailable", reason
    if service.health.status is HealthStatus.LOADING:
        return "loading", ""
    return ("unloaded" if entry.asset.loaded is False else "loaded"), ""


def _observed(table: RoutingTable, entries: tuple[Entry, ...], in_flight: Mapping[str, int]) -> Json:
    """Measurements over all services: the best latency and speed, the sum of what is open."""
    names = sorted({entry.service.service_id for entry in entries})
    seen = [table.observed.get(name, Observed()) for name in names]
    ttft = min((each.ttft_seconds for each in seen if each.ttft_seconds is not None), default=None)
    waiting = [each.waiting for each in seen if each.waiting is not None]
    return {
        "p50_ttft_ms": None if ttft is None else round(ttft * 1000, 1),
        "tokens_per_sec": _most(each.tokens_per_second for each in seen),
        "in_flight": sum(depth(each, in_flight.get(name, 0)) for name, each in zip(names, seen, strict=True)),
        "queue_depth": sum(waiting) if waiting else None,
    }


def _latency_class(observed: Json, loaded: list[str]) -> str:
    """How soon an answer starts: "interactive" is within a second, "cold" is after a load."""
    if observed["p50_ttft_ms"] is None:
        return "unknown" if loaded else "cold"
    return "interactive" if observed["p50_ttft_ms"] <= 1000 else "standard"


def _architecture(can: Iterable[Operation], capabilities: Iterable[str]) -> Json:
    pairs = [_MODALITIES[op] for op in can]
    inputs = sorted({source for source, _ in pairs} | ({"image"} if "vision" in capabilities else set()))
    outputs = sorted({target for _, target in pairs})
    return {
        "modality": f"{'+'.join(inputs)}->{'+'.join(outputs)}",
        "input_modalities": inputs,
        "output_modalities": outputs,
    }


def _parameters(can: Iterable[Operation], capabilities: Iterable[str]) -> list[str]:
    """What requests for the first operation take; what an engine takes beyond that, it alone knows."""
    first = next(iter(can), None)
    if first not in {Operation.CHAT, Operation.COMPLETION}:
        return list(_OTHER_PARAMETERS.get(first, ())) if first is not None else []
    return sorted((*_CHAT_PARAMETERS, *(_TOOL_PARAMETERS if "tools" in capabilities else ())))


def _describe(assets: list[Asset], can: list[Operation]) -> str:
    """A sentence from facts: family, size, quantization, what it does."""
    facts = [_first(map(fact, assets)) for fact in _FACTS]
    return (
        f"{' '.join(fact for fact in facts if fact) or 'A model'} for {', '.join(op.value for op in can) or 'nothing'}"
    )


_FACTS: Final[tuple[Callable[[Asset], str], ...]] = (
    lambda asset: asset.family,
    lambda asset: asset.parameter_size,
    lambda asset: asset.quantization,
)


def _first(values: Iterable[str]) -> str:
    return next((value for value in values if value), "")


def _most(values: Iterable[float | None]) -> Any:
    return max((value for value in values if value is not None), default=None)
