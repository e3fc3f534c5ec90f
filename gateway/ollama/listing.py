"""[pure] The models of the cluster in Ollama's words: /api/tags, /api/ps, /api/show.

Listed is what can be asked for now through this API: chat, completion and embeddings, roles included. Ollama knows of
each model when its file was written and what its hash is; a cluster does not, so the time is the beginning of
Unix time and the digest one of the name. Sizes that no engine tells are 0: Ollama has no word for unknown.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable
from typing import Any, Final, NamedTuple

from geniehive.errors import GenieHiveError
from geniehive.resources import Asset, Operation, Service
from geniehive.routing.eligibility import operations, unavailable
from geniehive.routing.resolve import resolve, unknown_model
from geniehive.routing.table import RoutingTable

Json = dict[str, Any]

_SERVED: Final = {
    Operation.CHAT: "completion",
    Operation.COMPLETION: "completion",
    Operation.EMBEDDINGS: "embedding",
}
_CAPABILITIES: Final = ("completion", "tools", "insert", "vision", "embedding", "thinking", "image", "audio")
_WRITTEN_AT: Final = "1970-01-01T00:00:00Z"
_KEPT_UNTIL: Final = "2300-01-01T00:00:00Z"
_GGUF: Final = frozenset({"ollama", "llama.cpp"})
_SIZE: Final = re.compile(r"(\d+(?:\.\d+)?)\s*([KMBT])", re.IGNORECASE)
_UNITS: Final = {"K": 10**3, "M": 10**6, "B": 10**9, "T": 10**12}


class Model(NamedTuple):
    """A name, and what it leads to: pairs of service and asset that can answer now."""

    name: str
    places: tuple[tuple[Service, Asset], ...]

    @property
    def loaded(self) -> bool:
        """Whether it is in memory somewhere."""
        return any(asset.loaded for _, asset in self.places)


Sees = Callable[[Model], bool]
"""Whether a caller may ask for a model."""


def _everything(_model: Model) -> bool:
    return True


def models(table: RoutingTable, sees: Sees = _everything) -> list[Model]:
    """Everything that can be asked for now, and that the caller sees: assets by id, then roles."""
    shape = table.shape
    places: dict[str, list[tuple[Service, Asset]]] = {}
    for service in shape.services.values():
        if not unavailable(service, shape.hosts.get(service.host_id)):
            for asset in service.assets:
                if any(operation in _SERVED for operation in operations(service, asset)):
                    places.setdefault(asset.asset_id, []).append((service, asset))
    found = [Model(name, tuple(places[name])) for name in sorted(places)]
    found += [role for name in sorted(shape.roles) if (role := _role(table, name)) is not None]
    return [model for model in found if sees(model)]


def find(table: RoutingTable, name: str) -> Model:
    """What a name leads to, by asset id, alias, service or role. Raises ModelNotFound or NoServiceAvailable."""
    if entries := table.entries(name):
        return Model(name, tuple((entry.service, entry.asset) for entry in entries))
    if name not in table.shape.roles:
        raise unknown_model(name, table.names())
    candidates = resolve(table, name).candidates
    return Model(name, tuple((each.service, each.asset) for each in candidates))


def tags(table: RoutingTable, sees: Sees = _everything) -> Json:
    """GET /api/tags."""
    return {"models": [{**_head(each), "modified_at": _WRITTEN_AT, **_body(each)} for each in models(table, sees)]}


def running(table: RoutingTable, sees: Sees = _everything) -> Json:
    """GET /api/ps: what is in memory. It stays there as long as its engine wants it."""
    return {
        "models": [
            {
                **_head(each),
                "details": _details(each),
                "expires_at": _KEPT_UNTIL,
                "size_vram": max((asset.vram_bytes or 0 for _, asset in each.places), default=0),
                "context_length": _context(each) or 0,
            }
            for each in models(table, sees)
            if each.loaded and each.name not in table.shape.roles
        ]
    }


def shown(model: Model) -> Json:
    """POST /api/show."""
    details = _details(model)
    family = details["family"] or "unknown"
    info: Json = {"general.architecture": family, "general.basename": model.name}
    if count := _parameter_count(details["parameter_size"]):
        info["general.parameter_count"] = count
    context = _context(model)
    if context:
        info[f"{family}.context_length"] = context
    return {
        "license": "",
        "modelfile": f"FROM {model.name}\n",
        "parameters": f"num_ctx                        {context}" if context else "",
        "template": "{{ .Prompt }}",
        "details": details,
        "model_info": info,
        "capabilities": _capabilities(model),
        "modified_at": _WRITTEN_AT,
    }


def _role(table: RoutingTable, name: str) -> Model | None:
    role = table.shape.roles[name]
    if role.operation not in _SERVED or table.entries(name):
        return None
    try:
        return find(table, name)
    except GenieHiveError:
        return None


def _head(model: Model) -> Json:
    return {
        "name": model.name,
        "model": model.name,
        "size": max((asset.size_bytes or 0 for _, asset in model.places), default=0),
        "digest": hashlib.sha256(model.name.encode()).hexdigest(),
    }


def _body(model: Model) -> Json:
    details = _details(model)
    if context := _context(model):
        details["context_length"] = context
    return {"details": details, "capabilities": _capabilities(model)}


def _details(model: Model) -> Json:
    family = _first(asset.family for _, asset in model.places)
    engines = {service.runtime.engine for service, _ in model.places}
    return {
        "parent_model": "",
        "format": "gguf" if engines and engines <= _GGUF else "",
        "family": family,
        "families": [family] if family else [],
        "parameter_size": _first(asset.parameter_size for _, asset in model.places),
        "quantization_level": _first(asset.quantization for _, asset in model.places),
    }


def _capabilities(model: Model) -> list[str]:
    """In Ollama's words. Its clients do not chat with a model that says it embeds: one that chats does not."""
    served = {_SERVED[each] for place in model.places for each in operations(*place) if each in _SERVED}
    told = {word for _, asset in model.places for word in asset.capabilities}
    known = served | told
    if "completion" in known:
        known = known - {"embedding"}
    return [word for word in _CAPABILITIES if word in known]


def _context(model: Model) -> int | None:
    return max((asset.context_size for _, asset in model.places if asset.context_size), default=None)


def _parameter_count(size: str) -> int | None:
    found = _SIZE.fullmatch(size.strip())
    return round(float(found[1]) * _UNITS[found[2].upper()]) if found else None


def _first(values: Iterable[str]) -> str:
    return next((value for value in values if value), "")
