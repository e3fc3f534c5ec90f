"""speaches (faster-whisper server, 0.8): downloaded models from /v1/models, what is in memory from /api/ps.

/api/ps lists ids, where Ollama lists objects. A model's `task` says what it can be asked for; tasks that OpenAI's API
has no route for (voice activity, speaker embeddings) are left out.
"""

from __future__ import annotations

from typing import Any, ClassVar, Final
from urllib.parse import quote

from geniehive.errors import UpstreamUnavailable
from geniehive.resources import Asset, Observed, Operation
from nodeagent.engines.base import Engine, EngineState, Evidence, demand, json_of, refusal
from nodeagent.engines.http import LOAD_TIMEOUT_S, Http
from nodeagent.engines.naming import SPEECH_TO_TEXT, family_of, quantization_of
from nodeagent.engines.reading import rows, table, text, words
from nodeagent.engines.voices import voices_of

_MODELS, _PS = "/v1/models", "/api/ps"
_OPERATIONS: Final = {"automatic-speech-recognition": SPEECH_TO_TEXT, "text-to-speech": (Operation.SPEECH,)}


class Speaches(Engine):
    """speaches' server."""

    name: ClassVar[str] = "speaches"
    runtime_name: ClassVar[str] = "speaches"
    probes: ClassVar[tuple[str, ...]] = (_MODELS, _PS)
    listen_fix: ClassVar[str] = "set UVICORN_HOST=0.0.0.0 in the environment of speaches and restart it"

    def recognise(self, seen: Evidence) -> bool:
        """Models that carry a `task`; or none yet, and ids at /api/ps (Ollama, judged before, has a version)."""
        models = table(json_of(seen, _MODELS)).get("data")
        running = table(json_of(seen, _PS)).get("models")
        if not isinstance(models, list):
            return False
        if models:
            return any(text(model.get("task")) for model in rows(models))
        return isinstance(running, list) and len(words(running)) == len(running)

    async def look(self, http: Http, previous: EngineState | None = None) -> EngineState:
        """See Engine.look."""
        del previous
        listing = await http.get(_MODELS)
        if not listing.ok:
            return self.state(health=refusal(listing, _MODELS), complete=False)
        running = table(json_of(await http.get_all(_PS), _PS)).get("models")
        loaded = words(running) if isinstance(running, list) else None
        assets = assets_of(rows(table(listing.data).get("data")), loaded)
        return self.state(
            assets=assets,
            operations=tuple(dict.fromkeys(operation for asset in assets for operation in asset.operations)),
            observed=Observed(loaded_model_count=None if loaded is None else len(loaded)),
        )

    async def load(self, http: Http, asset_id: str, context_size: int | None = None) -> None:
        """Load; 409 means that it was loaded already."""
        del context_size
        reply = await http.post(f"{_PS}/{quote(asset_id)}", timeout_s=LOAD_TIMEOUT_S)
        if reply.status != 409:
            demand(reply, f"load {asset_id}")

    async def unload(self, http: Http, asset_id: str) -> None:
        """Unload; 404 means that it was not loaded, 409 that it works now."""
        reply = await http.delete(f"{_PS}/{quote(asset_id)}", timeout_s=LOAD_TIMEOUT_S)
        if reply.status == 409:
            raise UpstreamUnavailable(f"{asset_id} is in use: unload it once its requests are done")
        if reply.status != 404:
            demand(reply, f"unload {asset_id}")


def assets_of(models: list[dict[str, Any]], loaded: tuple[str, ...] | None) -> tuple[Asset, ...]:
    """The models that OpenAI's API has a route for; `loaded` None: /api/ps gave no answer."""
    return tuple(
        Asset(
            asset_id=text(model.get("id")),
            loaded=None if loaded is None else model.get("id") in loaded,
            family=family_of(text(model.get("id"))),
            quantization=quantization_of(text(model.get("id"))),
            operations=_OPERATIONS[text(model.get("task"))],
            voices=voices_of(model.get("voices")),
        )
        for model in models
        if text(model.get("id")) and text(model.get("task")) in _OPERATIONS
    )
