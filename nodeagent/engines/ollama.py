"""Ollama (0.33): models from /api/tags, what is in memory from /api/ps.

Traps: the VRAM field is `size_vram`; /api/ps and /api/tags alone do not identify Ollama (speaches and SGLang serve
them too), so its version is asked for and /api/ps must list objects; models with `remote_host` run in the cloud and
are no capacity of this host. There is no queue, no running count and no /metrics: all that stays unknown.

What `num_ctx` gives a model is known while it is in memory (/api/ps), or from its Modelfile (/api/show). Its
`context_length` in /api/tags is what it was trained for, not what Ollama gives it, and is not taken for it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final

from geniehive.errors import UpstreamError, UpstreamUnavailable
from geniehive.resources import Asset, Observed, Operation
from nodeagent.engines.base import Engine, EngineState, Evidence, demand, json_of, refusal
from nodeagent.engines.http import LOAD_TIMEOUT_S, Http
from nodeagent.engines.naming import CHAT
from nodeagent.engines.native import MESSAGES, RESPONSES
from nodeagent.engines.reading import positive, rows, table, text, total, whole, words

_TAGS, _PS, _VERSION = "/api/tags", "/api/ps", "/api/version"
_LATEST: Final = ":latest"
_NUM_CTX: Final = re.compile(r"^num_ctx\s+(\d{1,9})\s*$", re.MULTILINE)
_OPERATIONS: Final[Mapping[str, tuple[Operation, ...]]] = {
    "completion": CHAT,
    "embedding": (Operation.EMBEDDINGS,),
    "audio": (Operation.TRANSCRIPTION,),
    "image": (Operation.IMAGE,),
}


@dataclass(frozen=True, slots=True)
class Shown:
    """What /api/show adds about one model; it holds for as long as the model's digest does."""

    capabilities: tuple[str, ...] = ()
    num_ctx: int | None = None


@dataclass(frozen=True, slots=True)
class OllamaMemory:
    """/api/show by digest: it reads a file, so each model is asked about once."""

    shown: Mapping[str, Shown] = field(default_factory=dict)


class Ollama(Engine):
    """Ollama's own API."""

    name: ClassVar[str] = "ollama"
    runtime_name: ClassVar[str] = "ollama"
    probes: ClassVar[tuple[str, ...]] = (_VERSION, _PS)
    listen_fix: ClassVar[str] = "set OLLAMA_HOST=0.0.0.0 in Ollama's environment and restart it"
    # Its release notes; there is no count_tokens.
    routes_since: ClassVar[Mapping[str, str]] = {RESPONSES: "0.13.3", MESSAGES: "0.14.1"}

    def recognise(self, seen: Evidence) -> bool:
        """A version, and a list of objects (or nothing) at /api/ps; and not a GenieHive gateway, which has both."""
        version, running = table(json_of(seen, _VERSION)), table(json_of(seen, _PS)).get("models")
        if "geniehive" in version:
            return False
        return bool(text(version.get("version"))) and isinstance(running, list) and len(rows(running)) == len(running)

    async def look(self, http: Http, previous: EngineState | None = None) -> EngineState:
        """See Engine.look."""
        tags = await http.get(_TAGS)
        if not tags.ok:
            return self.state(health=refusal(tags, _TAGS), complete=False)
        models = table(tags.data).get("models")
        if not isinstance(models, list):
            raise UpstreamUnavailable(f"{http.endpoint}{_TAGS} lists no models: check discover_protocol")
        replies = await http.get_all(_PS, _VERSION)
        memory = await self._show(http, _local(models), previous)
        running = table(json_of(replies, _PS)).get("models")
        return self.state(
            version=text(table(json_of(replies, _VERSION)).get("version")),
            memory=memory,
            notes=_cloud_note(models),
            **read(_local(models), rows(running) if isinstance(running, list) else None, memory),
        )

    async def load(self, http: Http, asset_id: str, context_size: int | None = None) -> None:
        """Load by an empty generate, or by an empty embed where the model cannot generate."""
        body: dict[str, Any] = {"model": asset_id, "stream": False}
        if context_size:
            body["options"] = {"num_ctx": context_size}
        reply = await http.post("/api/generate", body, timeout_s=LOAD_TIMEOUT_S)
        if reply.status == 400 and "generate" in reply.complaint:
            reply = await http.post("/api/embed", {**body, "input": []}, timeout_s=LOAD_TIMEOUT_S)
        demand(reply, f"load {asset_id}")

    async def unload(self, http: Http, asset_id: str) -> None:
        """Unload by an empty generate that is kept for 0 seconds; embedding models take it as well."""
        body = {"model": asset_id, "stream": False, "keep_alive": 0}
        demand(await http.post("/api/generate", body, timeout_s=LOAD_TIMEOUT_S), f"unload {asset_id}")

    async def _show(self, http: Http, models: list[dict[str, Any]], previous: EngineState | None) -> OllamaMemory:
        known = previous.memory.shown if previous and isinstance(previous.memory, OllamaMemory) else {}
        names = {digest: _name(model) for model in models if (digest := text(model.get("digest")))}
        shown = {digest: known[digest] for digest in names if digest in known}
        for digest, name in names.items():
            if digest not in known and (found := await _ask_show(http, name)) is not None:
                shown[digest] = found
        return OllamaMemory(shown)


async def _ask_show(http: Http, name: str) -> Shown | None:
    """What /api/show says, or None: a model that cannot be shown is still a model, and is asked about again."""
    try:
        reply = await http.post("/api/show", {"model": name})
    except UpstreamError:
        return None
    if not reply.ok:
        return None
    data = table(reply.data)
    found = _NUM_CTX.search(text(data.get("parameters")))
    return Shown(capabilities=words(data.get("capabilities")), num_ctx=positive(int(found[1])) if found else None)


def read(models: list[dict[str, Any]], running: list[dict[str, Any]] | None, memory: OllamaMemory) -> dict[str, Any]:
    """Assets, operations and measurements from /api/tags and /api/ps; `running` None: /api/ps gave no answer."""
    loaded = None if running is None else {_name(model): model for model in _local(running)}
    assets = tuple(_asset(model, loaded, memory) for model in models if _name(model))
    observed = Observed()
    if loaded is not None:
        vram = total([whole(model.get("size_vram")) for model in loaded.values()]) if loaded else 0
        observed = Observed(loaded_model_count=len(loaded), vram_used_bytes=vram)
    operations = tuple(dict.fromkeys(operation for asset in assets for operation in asset.operations))
    return {"assets": assets, "operations": operations, "observed": observed}


def _asset(model: dict[str, Any], loaded: Mapping[str, dict[str, Any]] | None, memory: OllamaMemory) -> Asset:
    name, details = _name(model), table(model.get("details"))
    shown = memory.shown.get(text(model.get("digest")), Shown())
    now = table(loaded.get(name)) if loaded else {}
    capabilities = words(model.get("capabilities")) or shown.capabilities
    known = {operation: None for word in capabilities for operation in _OPERATIONS.get(word, ())}
    return Asset(
        asset_id=name,
        aliases=(name.removesuffix(_LATEST),) if name.endswith(_LATEST) else (),
        loaded=None if loaded is None else name in loaded,
        context_size=positive(now.get("context_length")) or shown.num_ctx,
        family=text(details.get("family")),
        quantization=_known(details.get("quantization_level")),
        capabilities=capabilities,
        operations=tuple(known) or (() if capabilities else CHAT),
        size_bytes=positive(model.get("size")),
        vram_bytes=whole(now.get("size_vram")),
        parameter_size=_known(details.get("parameter_size")),
    )


def _local(models: list[Any]) -> list[dict[str, Any]]:
    return [model for model in rows(models) if not text(model.get("remote_host"))]


def _cloud_note(models: list[Any]) -> tuple[str, ...]:
    names = [_name(model) for model in rows(models) if text(model.get("remote_host"))]
    return (f"cloud models are left out, they do not run here: {', '.join(names)}",) if names else ()


def _name(model: dict[str, Any]) -> str:
    return text(model.get("name")) or text(model.get("model"))


def _known(value: Any) -> str:
    word = text(value)
    return "" if word.lower() == "unknown" else word
