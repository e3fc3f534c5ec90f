"""Kokoro-FastAPI (0.3): one speech model under several names, and its voices.

Every item of its /v1/models is `owned_by: kokoro`: `kokoro` itself, and OpenAI's names for the same model. It is read
when the server starts. /health asks nothing of the model, and answers 503 once the phonemizer has failed.
"""

from __future__ import annotations

from typing import ClassVar, Final

from geniehive.resources import Asset, Health, Observed, Operation
from nodeagent.engines.base import HEALTHY, Engine, EngineState, Evidence, json_of, refusal, unhealthy
from nodeagent.engines.http import Http, Reply
from nodeagent.engines.reading import rows, table, text
from nodeagent.engines.voices import ask_voices

_MODELS, _HEALTH = "/v1/models", "/health"
_OWNER: Final = "kokoro"
_SPEECH: Final = (Operation.SPEECH,)


class Kokoro(Engine):
    """Kokoro-FastAPI's server."""

    name: ClassVar[str] = "kokoro"
    runtime_name: ClassVar[str] = "kokoro"
    probes: ClassVar[tuple[str, ...]] = (_MODELS,)
    listen_fix: ClassVar[str] = "start Kokoro-FastAPI with --host 0.0.0.0 (its containers do)"

    def recognise(self, seen: Evidence) -> bool:
        """Models, all of them `owned_by: kokoro`."""
        models = rows(table(json_of(seen, _MODELS)).get("data"))
        return bool(models) and all(text(model.get("owned_by")) == _OWNER for model in models)

    async def look(self, http: Http, previous: EngineState | None = None) -> EngineState:
        """See Engine.look."""
        listing = await http.get(_MODELS)
        if not listing.ok:
            return self.state(health=refusal(listing, _MODELS), operations=_SPEECH, complete=False)
        names = tuple(text(model.get("id")) for model in rows(table(listing.data).get("data")) if text(model.get("id")))
        memory = await ask_voices(http, names, previous)
        own = _OWNER if _OWNER in names else next(iter(names), _OWNER)
        asset = Asset(
            asset_id=own,
            aliases=tuple(name for name in names if name != own),
            loaded=True,
            family=_OWNER,
            operations=_SPEECH,
            voices=memory.voices,
        )
        return self.state(
            assets=(asset,),
            operations=_SPEECH,
            health=health_from((await http.get_all(_HEALTH)).get(_HEALTH)),
            observed=Observed(loaded_model_count=1),
            memory=memory,
        )


def health_from(reply: Reply | None) -> Health:
    """What /health says; versions without it are healthy as long as they list their models."""
    if reply is None or reply.status < 500:
        return HEALTHY
    return unhealthy(text(table(reply.data).get("reason")) or f"{_HEALTH} answers {reply.status}: {reply.complaint}")
