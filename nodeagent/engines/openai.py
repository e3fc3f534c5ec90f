"""Any server with an OpenAI-compatible API and nothing that says more: `GET /v1/models` is all that is known of it.

It tells which models there are, not which of them are in memory, and nothing of load. What a model can be asked for
is guessed from its name, so the config's word goes before it.
"""

from __future__ import annotations

from typing import ClassVar

from msgspec.structs import replace

from geniehive.resources import Asset, Operation
from nodeagent.engines.base import Engine, EngineState, Evidence, json_of, refusal
from nodeagent.engines.http import Http, Reply
from nodeagent.engines.naming import CHAT, family_of, operations_of, quantization_of
from nodeagent.engines.reading import positive, rows, table, text
from nodeagent.engines.voices import VoiceMemory, ask_voices

MODELS = "/v1/models"


class OpenAI(Engine):
    """A generic OpenAI-compatible server."""

    name: ClassVar[str] = "openai"
    runtime_name: ClassVar[str] = "openai-compatible"
    probes: ClassVar[tuple[str, ...]] = (MODELS,)
    listen_fix: ClassVar[str] = "start the engine so that it listens on 0.0.0.0, or on the host's own address"

    def recognise(self, seen: Evidence) -> bool:
        """A list of models at /v1/models, and not a GenieHive gateway's: that one is no engine of this host."""
        listing = table(json_of(seen, MODELS))
        models = listing.get("data")
        if not isinstance(models, list) or len(rows(models)) != len(models):
            return False
        if any("geniehive" in model or not text(model.get("id")) for model in models):
            return False
        return bool(models) or listing.get("object") == "list"

    async def look(self, http: Http, previous: EngineState | None = None) -> EngineState:
        """See Engine.look. A server without /v1/models that answers is healthy; config names its models."""
        reply = await http.get(MODELS)
        if reply.ok and isinstance(table(reply.data).get("data"), list):
            assets, memory = await with_voices(http, assets_of(reply), previous)
            return self.state(assets=assets, operations=CHAT, guessed=True, memory=memory)
        if reply.status in {404, 405, 501}:
            return self.state(operations=CHAT, complete=False, notes=("lists no models: name them under assets",))
        return self.state(health=refusal(reply, MODELS), complete=False)


async def with_voices(
    http: Http, assets: tuple[Asset, ...], previous: EngineState | None
) -> tuple[tuple[Asset, ...], VoiceMemory | None]:
    """The assets, those that seem to speak with the server's voices; it is asked only if one does."""
    names = tuple(asset.asset_id for asset in assets if Operation.SPEECH in asset.operations)
    if not names:
        return assets, None
    memory = await ask_voices(http, names, previous)
    return tuple(replace(each, voices=memory.voices) if each.asset_id in names else each for each in assets), memory


def assets_of(reply: Reply) -> tuple[Asset, ...]:
    """The models of a /v1/models answer; whether they are in memory it does not tell."""
    return tuple(
        Asset(
            asset_id=model["id"],
            context_size=positive(model.get("max_model_len")) or positive(model.get("context_length")),
            family=family_of(model["id"]),
            quantization=quantization_of(model["id"]),
            operations=operations_of(model["id"]),
        )
        for model in rows(table(reply.data).get("data"))
        if text(model.get("id"))
    )
