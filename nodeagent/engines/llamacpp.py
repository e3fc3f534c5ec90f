"""llama.cpp's server, with one model or, started without a model, as a router over many.

One model: /health, /v1/models, /props and /metrics, none of which wakes a sleeping server; /slots does keep one awake
and is not asked. What it can be asked for is told by no field, so once for each model some routes get an empty body:
501 means "started without it", 404 "not there", 400 or 500 "there, and this body is wrong". That runs nothing.

Router: /v1/models carries the state of each model. /props and /metrics are asked of loaded models only, and with
`autoload=false`, because without it a look would load what it looks at.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final
from urllib.parse import quote

from geniehive.errors import UpstreamUnavailable
from geniehive.resources import Asset, Observed, Operation
from nodeagent.engines import llamacpp_router as router
from nodeagent.engines.base import Engine, EngineState, Evidence, demand, json_of, loading, refusal, wait_until
from nodeagent.engines.http import LOAD_TIMEOUT_S, Http, Reply
from nodeagent.engines.llamacpp_metrics import observe
from nodeagent.engines.naming import (
    CHAT,
    family_of,
    operations_of,
    parameter_size_of,
    quantization_of,
    quantization_of_ftype,
    stem,
)
from nodeagent.engines.native import AGENT_ROUTES
from nodeagent.engines.reading import positive, rows, table, text, words
from nodeagent.engines.recent import Memory

_HEALTH, _MODELS, _PROPS, _METRICS = "/health", "/v1/models", "/props", "/metrics"
_ASKED_ONCE: Final = ("/v1/completions", "/v1/embeddings", "/v1/rerank")


@dataclass(frozen=True, slots=True)
class LlamaMemory:
    """What the server was found able to do, for as long as `identity` holds, and the counters by model."""

    identity: tuple[str, ...] = ()
    operations: tuple[Operation, ...] = ()
    routes: tuple[str, ...] = ()
    recent: Mapping[str, Memory] = field(default_factory=dict)


class LlamaCpp(Engine):
    """llama.cpp's `llama-server`."""

    name: ClassVar[str] = "llamacpp"
    runtime_name: ClassVar[str] = "llama.cpp"
    probes: ClassVar[tuple[str, ...]] = (_PROPS, _MODELS)
    listen_fix: ClassVar[str] = "start llama-server with --host 0.0.0.0"

    def recognise(self, seen: Evidence) -> bool:
        """/props with `build_info`, models `owned_by: llamacpp`, or its own way to say that it is loading."""
        if text(table(json_of(seen, _PROPS)).get("build_info")):
            return True
        if any(model.get("owned_by") == "llamacpp" for model in rows(table(json_of(seen, _MODELS)).get("data"))):
            return True
        return _PROPS in seen and is_loading(seen[_PROPS])

    async def look(self, http: Http, previous: EngineState | None = None) -> EngineState:
        """See Engine.look."""
        memory = previous.memory if previous and isinstance(previous.memory, LlamaMemory) else LlamaMemory()
        health = await http.get(_HEALTH)
        if health.status == 503:
            return self.state(
                health=loading(health.complaint), operations=memory.operations, complete=False, memory=memory
            )
        replies = await http.get_all(_MODELS, _PROPS)
        listing = replies.get(_MODELS)
        models = rows(table(listing.data).get("data")) if listing is not None else []
        if listing is None or not listing.ok:
            return self._lost(http, listing)
        if any(isinstance(model.get("status"), dict) for model in models):
            return await self._look_at_router(http, models, memory)
        props = replies.get(_PROPS)
        if props is not None and props.status in {401, 403}:
            return self.state(health=refusal(props, _PROPS), complete=False)
        return await self._look_at_one(http, models, table(props.data if props is not None else None), memory)

    async def load(self, http: Http, asset_id: str, context_size: int | None = None) -> None:
        """Router mode: order the load and wait for its end. One model: it is loaded, or this raises."""
        model = await self._router_model(http, asset_id)
        if model is None:
            raise_unless_served(self.runtime_name, asset_id, await self.look(http))
            return
        if context_size:
            raise UpstreamUnavailable(
                f"llama.cpp's router takes no context size with a load: set ctx-size of {asset_id} in its presets file"
            )
        if router.status_of(model) not in router.IN_MEMORY:
            demand(await http.post("/models/load", {"model": asset_id}, timeout_s=LOAD_TIMEOUT_S), f"load {asset_id}")
        await self._settle(http, asset_id, wanted=router.IN_MEMORY)

    async def unload(self, http: Http, asset_id: str) -> None:
        """Router mode: order the unload and wait for its end. One model: llama.cpp cannot put it out of memory."""
        model = await self._router_model(http, asset_id)
        if model is None:
            raise UpstreamUnavailable(
                f"this llama.cpp serves one model for as long as it runs: stop the process to unload {asset_id}, "
                "or start llama-server without -m and with --models-dir (router mode)"
            )
        if router.status_of(model) not in router.OUT_OF_MEMORY:
            demand(await http.post("/models/unload", {"model": asset_id}), f"unload {asset_id}")
        await self._settle(http, asset_id, wanted=router.OUT_OF_MEMORY)

    def _lost(self, http: Http, listing: Reply | None) -> EngineState:
        if listing is None:
            raise UpstreamUnavailable(
                f"{http.endpoint}{_MODELS} gave no answer though {_HEALTH} did: is it overloaded?"
            )
        return self.state(health=refusal(listing, _MODELS), complete=False)

    async def _look_at_one(
        self, http: Http, models: list[dict[str, Any]], props: dict[str, Any], memory: LlamaMemory
    ) -> EngineState:
        sleeping = props.get("is_sleeping") is True
        identity = (text(props.get("build_info")), text(props.get("model_path")))
        operations, routes = memory.operations, memory.routes
        if identity != memory.identity and not sleeping:
            operations = await self._ask_once(http, models, props)
            routes = await _routes(http)
        metrics = (await http.get_all(_METRICS)).get(_METRICS)
        measured, recent, note = observe(metrics, memory.recent.get("", Memory()))
        observed = Observed(
            **measured, slots=positive(props.get("total_slots")), loaded_model_count=0 if sleeping else len(models)
        )
        return self.state(
            version=identity[0],
            assets=tuple(asset_of(model, props, operations, loaded=not sleeping) for model in models),
            operations=operations,
            routes=routes,
            observed=observed,
            any_name=len(models) == 1,
            notes=note + (("the model sleeps, and wakes at the next request",) if sleeping else ()),
            memory=LlamaMemory(memory.identity if sleeping else identity, operations, routes, {"": recent}),
        )

    async def _ask_once(self, http: Http, models: list[dict[str, Any]], props: dict[str, Any]) -> tuple[Operation, ...]:
        replies = [await http.post(path, {}) for path in _ASKED_ONCE]
        there = tuple(reply.status != 501 and "pooling" not in reply.complaint.lower() for reply in replies)
        name = " ".join([text(props.get("model_path")), *(text(model.get("id")) for model in models)])
        return operations_from(*there, name=name, audio=table(props.get("modalities")).get("audio") is True)

    async def _look_at_router(self, http: Http, models: list[dict[str, Any]], memory: LlamaMemory) -> EngineState:
        awake = [text(model.get("id")) for model in models if router.status_of(model) == "loaded"]
        paths = {name: f"?model={quote(name, safe='')}&autoload=false" for name in awake}
        replies = await http.get_all(*(page + query for query in paths.values() for page in (_PROPS, _METRICS)))
        props = {name: table(json_of(replies, _PROPS + query)) for name, query in paths.items()}
        looks = {
            name: observe(replies.get(_METRICS + query), memory.recent.get(name, Memory()))
            for name, query in paths.items()
        }
        assets = tuple(
            asset_of(
                model,
                props.get(text(model.get("id")), {}),
                operations_of(text(model.get("id"))),
                loaded=router.status_of(model) == "loaded",
            )
            for model in models
        )
        routes = memory.routes or await _routes(http)
        return self.state(
            version=next((text(found.get("build_info")) for found in props.values()), ""),
            assets=assets,
            operations=CHAT,
            routes=routes,
            observed=router.add_up(models, [measured for measured, _, _ in looks.values()], list(props.values())),
            notes=tuple(dict.fromkeys(note for _, _, notes in looks.values() for note in notes))
            + router.failures(models),
            guessed=True,
            memory=LlamaMemory(routes=routes, recent={name: recent for name, (_, recent, _) in looks.items()}),
        )

    async def _router_model(self, http: Http, asset_id: str) -> dict[str, Any] | None:
        """The router's entry for a model; None where this is no router. Raises where the router knows no such model."""
        listing = demand(await http.get(_MODELS), "list its models")
        models = rows(table(listing.data).get("data"))
        if not any(isinstance(model.get("status"), dict) for model in models):
            return None
        for model in models:
            if asset_id == model.get("id") or asset_id in words(model.get("aliases")):
                return model
        known = ", ".join(text(model.get("id")) for model in models)
        raise UpstreamUnavailable(f"llama.cpp's router knows no model {asset_id}; it knows {known}")

    async def _settle(self, http: Http, asset_id: str, *, wanted: frozenset[str]) -> None:
        async def reached() -> bool:
            model = await self._router_model(http, asset_id)
            if model is not None and router.has_failed(model) and wanted is router.IN_MEMORY:
                raise UpstreamUnavailable(
                    f"llama.cpp could not load {asset_id}: the log of llama-server says why (memory? a damaged file?)"
                )
            return model is None or router.status_of(model) in wanted

        await wait_until(reached, f"bring {asset_id} where it was ordered to be")


async def _routes(http: Http) -> tuple[str, ...]:
    """The routes of agents that this build has: Messages since late 2025, Responses since early 2026."""
    replies = [await http.post(path, {}) for path in AGENT_ROUTES]
    return tuple(path for path, reply in zip(AGENT_ROUTES, replies, strict=True) if reply.status in {400, 500})


def is_loading(reply: Reply) -> bool:
    """Whether this is llama.cpp's 503 "Loading model"."""
    error = table(table(reply.data).get("error"))
    return reply.status == 503 and error.get("type") == "unavailable_error" and error.get("message") == "Loading model"


def operations_from(*there: bool, name: str, audio: bool) -> tuple[Operation, ...]:
    """What a server can be asked for: `there` says whether completions, embeddings and rerank are switched on.

    A server with embeddings switched on also takes chats for a model that was made for embeddings alone; there the
    name decides.
    """
    completions, embeddings, rerank = there
    if rerank:
        return (Operation.RERANK,)
    made_for_embeddings = embeddings and operations_of(name) == (Operation.EMBEDDINGS,)
    return (
        *(CHAT if completions and not made_for_embeddings else ()),
        *((Operation.EMBEDDINGS,) if embeddings else ()),
        *((Operation.TRANSCRIPTION,) if audio else ()),
    )


def asset_of(model: dict[str, Any], props: dict[str, Any], operations: tuple[Operation, ...], *, loaded: bool) -> Asset:
    """One model of /v1/models, with what /props adds while it is loaded."""
    name, meta, path = text(model.get("id")), table(model.get("meta")), text(props.get("model_path"))
    modalities, capable = table(props.get("modalities")), table(props.get("chat_template_caps"))
    inputs = words(table(model.get("architecture")).get("input_modalities"))
    capabilities = {
        "tools": capable.get("supports_tools") is True,
        "vision": modalities.get("vision") is True or "image" in inputs,
        "audio": modalities.get("audio") is True or "audio" in inputs,
    }
    aliases = (*words(model.get("aliases")), *((stem(name),) if "/" in name or "\\" in name else ()))
    own = table(props.get("default_generation_settings"))
    return Asset(
        asset_id=name,
        aliases=tuple(dict.fromkeys(alias for alias in aliases if alias != name)),
        loaded=loaded,
        context_size=positive(own.get("n_ctx")) or positive(meta.get("n_ctx")),
        family=family_of(path) or family_of(name),
        quantization=quantization_of_ftype(text(meta.get("ftype")) or text(props.get("model_ftype")))
        or quantization_of(path)
        or quantization_of(name),
        capabilities=tuple(word for word, has in capabilities.items() if has),
        operations=operations,
        size_bytes=positive(meta.get("size")),
        parameter_size=parameter_size_of(positive(meta.get("n_params"))),
    )


def raise_unless_served(runtime_name: str, asset_id: str, state: EngineState) -> None:
    """For engines with one model for life: pass if it is the one and loaded. Raises UpstreamUnavailable otherwise."""
    for asset in state.assets:
        if asset_id in {asset.asset_id, *asset.aliases} and asset.loaded is not False:
            return
    raise UpstreamUnavailable(
        f"this {runtime_name} serves one model for as long as it runs: start a process of its own for {asset_id}"
    )
