"""Lemonade server (11.8): downloaded models from /v1/models, loaded ones from /v1/health.

/v1/health says of each loaded model only whether it is busy, which is no count: running and waiting stay unknown.
"""

from __future__ import annotations

from typing import Any, ClassVar, Final

from geniehive.resources import Asset, Observed, Operation
from nodeagent.engines.base import Engine, EngineState, Evidence, demand, json_of, refusal
from nodeagent.engines.http import LOAD_TIMEOUT_S, Http
from nodeagent.engines.naming import CHAT, SPEECH_TO_TEXT, family_of, operations_of, quantization_of
from nodeagent.engines.reading import number, positive, rows, table, text, words

_HEALTH, _MODELS = "/v1/health", "/v1/models"
_LABELS: Final = {
    "embeddings": (Operation.EMBEDDINGS,),
    "embedding": (Operation.EMBEDDINGS,),
    "reranking": (Operation.RERANK,),
    "transcription": SPEECH_TO_TEXT,
    "audio": SPEECH_TO_TEXT,
    "tts": (Operation.SPEECH,),
    "image": (Operation.IMAGE,),
    "chat": CHAT,
    "llm": CHAT,
}
_CAPABILITIES: Final = {"tool-calling": "tools", "vision": "vision", "reasoning": "thinking"}


class Lemonade(Engine):
    """Lemonade's server."""

    name: ClassVar[str] = "lemonade"
    runtime_name: ClassVar[str] = "lemonade"
    probes: ClassVar[tuple[str, ...]] = (_HEALTH,)
    listen_fix: ClassVar[str] = "start lemonade-server with --host 0.0.0.0"

    def recognise(self, seen: Evidence) -> bool:
        """/v1/health with `all_models_loaded`."""
        return isinstance(table(json_of(seen, _HEALTH)).get("all_models_loaded"), list)

    async def look(self, http: Http, previous: EngineState | None = None) -> EngineState:
        """See Engine.look."""
        del previous
        reply = await http.get(_HEALTH)
        if not reply.ok:
            return self.state(health=refusal(reply, _HEALTH), complete=False)
        health = table(reply.data)
        listing = (await http.get_all(_MODELS)).get(_MODELS)
        loaded = {text(model.get("model_name")): model for model in rows(health.get("all_models_loaded"))}
        models = rows(table(listing.data).get("data")) if listing is not None else []
        assets = tuple(asset_of(model, loaded.get(text(model.get("id")))) for model in models if text(model.get("id")))
        return self.state(
            version=text(health.get("version")),
            assets=assets,
            operations=tuple(dict.fromkeys(operation for asset in assets for operation in asset.operations)),
            observed=Observed(loaded_model_count=len(loaded)),
            complete=listing is not None and listing.ok,
        )

    async def load(self, http: Http, asset_id: str, context_size: int | None = None) -> None:
        """Load; Lemonade calls the model `model_name`."""
        body: dict[str, Any] = {"model_name": asset_id}
        if context_size:
            body["ctx_size"] = context_size
        demand(await http.post("/v1/load", body, timeout_s=LOAD_TIMEOUT_S), f"load {asset_id}")

    async def unload(self, http: Http, asset_id: str) -> None:
        """Unload one model; without a name Lemonade would unload all."""
        demand(await http.post("/v1/unload", {"model_name": asset_id}, timeout_s=LOAD_TIMEOUT_S), f"unload {asset_id}")


def asset_of(model: dict[str, Any], loaded: dict[str, Any] | None) -> Asset:
    """One model of /v1/models with its entry in /v1/health, None where it is not loaded."""
    name, checkpoint, labels = text(model.get("id")), text(model.get("checkpoint")), words(model.get("labels"))
    kinds = (text(table(loaded).get("type")), *labels)
    told = dict.fromkeys(operation for kind in kinds for operation in _LABELS.get(kind, ()))
    gigabytes = number(model.get("size"))
    return Asset(
        asset_id=name,
        loaded=loaded is not None,
        context_size=positive(table(table(loaded).get("recipe_options")).get("ctx_size")),
        family=family_of(name) or family_of(checkpoint),
        quantization=quantization_of(checkpoint.replace(":", "/")) or quantization_of(name),
        capabilities=tuple(word for label, word in _CAPABILITIES.items() if label in labels),
        operations=tuple(told) or operations_of(name),
        size_bytes=int(gigabytes * 10**9) if gigabytes else None,
    )
