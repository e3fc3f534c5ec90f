"""llama-swap: configured models from /v1/models, running ones from /running.

A GET anywhere under /upstream/{model}/ loads the model: that is how `load` does it, and nothing else goes there.
Which engine runs behind a model is the swap's own affair, and so is its load: that stays unknown.
"""

from __future__ import annotations

from typing import Any, ClassVar, Final
from urllib.parse import quote

from geniehive.resources import Asset, Observed
from nodeagent.engines.base import Engine, EngineState, Evidence, demand, json_of, refusal
from nodeagent.engines.http import LOAD_TIMEOUT_S, Http
from nodeagent.engines.naming import CHAT, family_of, operations_of, quantization_of
from nodeagent.engines.reading import rows, table, text, words

_RUNNING, _MODELS, _VERSION = "/running", "/v1/models", "/api/version"
_READY: Final = "ready"


class LlamaSwap(Engine):
    """llama-swap's proxy."""

    name: ClassVar[str] = "llamaswap"
    runtime_name: ClassVar[str] = "llama-swap"
    probes: ClassVar[tuple[str, ...]] = (_RUNNING,)
    listen_fix: ClassVar[str] = "start llama-swap with --listen 0.0.0.0:PORT"

    def recognise(self, seen: Evidence) -> bool:
        """/running with a list of objects, each with a model and a state."""
        running = table(json_of(seen, _RUNNING)).get("running")
        if not isinstance(running, list):
            return False
        return len(rows(running)) == len(running) and all("model" in entry and "state" in entry for entry in running)

    async def look(self, http: Http, previous: EngineState | None = None) -> EngineState:
        """See Engine.look."""
        del previous
        listing = await http.get(_MODELS)
        if not listing.ok:
            return self.state(health=refusal(listing, _MODELS), complete=False)
        replies = await http.get_all(_RUNNING, _VERSION)
        running = table(json_of(replies, _RUNNING)).get("running")
        states = {text(entry.get("model")): text(entry.get("state")) for entry in rows(running)}
        known = isinstance(running, list)
        models = rows(table(listing.data).get("data"))
        return self.state(
            version=text(table(json_of(replies, _VERSION)).get("version")),
            assets=tuple(asset_of(model, states if known else None) for model in models if text(model.get("id"))),
            operations=CHAT,
            guessed=True,
            observed=Observed(loaded_model_count=list(states.values()).count(_READY) if known else None),
        )

    async def load(self, http: Http, asset_id: str, context_size: int | None = None) -> None:
        """Load by a GET through the swap, which answers once the model's own server does."""
        del context_size  # set in llama-swap's own config
        reply = await http.get(f"/upstream/{quote(asset_id, safe='')}/v1/models", timeout_s=LOAD_TIMEOUT_S)
        demand(reply, f"load {asset_id}")

    async def unload(self, http: Http, asset_id: str) -> None:
        """Stop the server of one model."""
        path = f"/api/models/unload/{quote(asset_id, safe='')}"
        demand(await http.post(path, timeout_s=LOAD_TIMEOUT_S), f"unload {asset_id}")


def asset_of(model: dict[str, Any], states: dict[str, str] | None) -> Asset:
    """One configured model; `states` None: /running gave no answer."""
    name = text(model.get("id"))
    return Asset(
        asset_id=name,
        aliases=words(model.get("aliases")),
        loaded=None if states is None else states.get(name) == _READY,
        family=family_of(name),
        quantization=quantization_of(name),
        operations=operations_of(name),
    )
