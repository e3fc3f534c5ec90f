"""LM Studio: /api/v1/models tells everything that it tells; of load and queue it tells nothing.

It answers any unknown path with status 200 and an error in words, so only the body counts. A model is loaded where
`loaded_instances` is not empty; a fresh install lists no model at all, and is recognised by those words.
"""

from __future__ import annotations

from typing import Any, ClassVar, Final

from geniehive.errors import UpstreamUnavailable
from geniehive.resources import Asset, Observed, Operation
from nodeagent.engines.base import Engine, EngineState, Evidence, demand, json_of, refusal
from nodeagent.engines.http import LOAD_TIMEOUT_S, Http
from nodeagent.engines.naming import CHAT
from nodeagent.engines.native import RESPONSES
from nodeagent.engines.reading import positive, rows, table, text

_MODELS: Final = "/api/v1/models"
_UNKNOWN_PATH: Final = "/geniehive-asks-for-nothing"
_OPERATIONS: Final = {"llm": CHAT, "vlm": CHAT, "embedding": (Operation.EMBEDDINGS,)}
_CAPABILITIES: Final = (("vision", "vision"), ("trained_for_tool_use", "tools"))


class LMStudio(Engine):
    """LM Studio's own REST API (0.4)."""

    name: ClassVar[str] = "lmstudio"
    runtime_name: ClassVar[str] = "lmstudio"
    probes: ClassVar[tuple[str, ...]] = (_MODELS, _UNKNOWN_PATH)
    listen_fix: ClassVar[str] = 'switch on "Serve on Local Network" in LM Studio\'s server settings'

    def recognise(self, seen: Evidence) -> bool:
        """Models with `loaded_instances`; no models, and LM Studio's way to answer unknown paths."""
        models = table(json_of(seen, _MODELS)).get("models")
        if not isinstance(models, list):
            return False
        if models:
            return all("loaded_instances" in model for model in rows(models)) and bool(rows(models))
        return text(table(json_of(seen, _UNKNOWN_PATH)).get("error")).startswith("Unexpected endpoint")

    async def look(self, http: Http, previous: EngineState | None = None) -> EngineState:
        """See Engine.look."""
        del previous
        reply = await http.get(_MODELS)
        if not reply.ok:
            return self.state(health=refusal(reply, _MODELS), complete=False)
        models = table(reply.data).get("models")
        if not isinstance(models, list):
            raise UpstreamUnavailable(f"{http.endpoint}{_MODELS} lists no models: LM Studio 0.4 or later is needed")
        assets = tuple(asset_of(model) for model in rows(models) if text(model.get("key")))
        return self.state(
            assets=assets,
            operations=tuple(dict.fromkeys(operation for asset in assets for operation in asset.operations)),
            routes=(RESPONSES,),  # since 0.3.29, and /api/v1 since 0.4.0; Messages since 0.4.1, which nothing tells
            observed=Observed(loaded_model_count=sum(asset.loaded is True for asset in assets)),
        )

    async def load(self, http: Http, asset_id: str, context_size: int | None = None) -> None:
        """Load, unless an instance is there already."""
        if await self._instances(http, asset_id):
            return
        body: dict[str, Any] = {"model": asset_id}
        if context_size:
            body["context_length"] = context_size
        reply = await http.post(f"{_MODELS}/load", body, timeout_s=LOAD_TIMEOUT_S)
        _demand_done(reply.data, f"load {asset_id}")
        demand(reply, f"load {asset_id}")

    async def unload(self, http: Http, asset_id: str) -> None:
        """Unload every instance of the model."""
        for instance in await self._instances(http, asset_id):
            reply = await http.post(f"{_MODELS}/unload", {"instance_id": instance}, timeout_s=LOAD_TIMEOUT_S)
            _demand_done(reply.data, f"unload {asset_id}")
            demand(reply, f"unload {asset_id}")

    async def _instances(self, http: Http, asset_id: str) -> tuple[str, ...]:
        listing = demand(await http.get(_MODELS), "list its models")
        for model in rows(table(listing.data).get("models")):
            if asset_id == model.get("key") or asset_id in _instance_ids(model):
                return _instance_ids(model)
        raise UpstreamUnavailable(f"LM Studio has no model {asset_id}: download it there first")


def asset_of(model: dict[str, Any]) -> Asset:
    """One model. The context is that of a loaded instance; without one it is not decided yet."""
    key, ids = text(model.get("key")), _instance_ids(model)
    contexts = [
        positive(table(instance.get("config")).get("context_length"))
        for instance in rows(model.get("loaded_instances"))
    ]
    capable = table(model.get("capabilities"))
    return Asset(
        asset_id=key,
        aliases=tuple(name for name in ids if name != key),
        loaded=bool(ids),
        context_size=next((context for context in contexts if context), None),
        family=text(model.get("architecture")),
        quantization=text(table(model.get("quantization")).get("name")),
        capabilities=tuple(word for field, word in _CAPABILITIES if capable.get(field) is True),
        operations=_OPERATIONS.get(text(model.get("type")), ()),
        size_bytes=positive(model.get("size_bytes")),
        parameter_size=text(model.get("params_string")),
    )


def _instance_ids(model: dict[str, Any]) -> tuple[str, ...]:
    return tuple(
        text(instance.get("id")) for instance in rows(model.get("loaded_instances")) if text(instance.get("id"))
    )


def _demand_done(data: Any, order: str) -> None:
    """Raise where LM Studio says no with status 200."""
    said = table(data).get("error")
    if said:
        words = text(said) or text(table(said).get("message"))
        raise UpstreamUnavailable(f"LM Studio refused to {order}: {words[:200]}")
