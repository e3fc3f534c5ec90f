"""SGLang (0.5): load from /v1/loads, the model from /model_info and /v1/models.

/health and /health_generate generate a token and are never asked. /v1/loads has one entry for each data-parallel
rank, to be added up; `max_total_num_tokens` of 0 means that the engine is not ready. Of /metrics (404 without
--enable-metrics) only the histograms are read: its gauges repeat for each tensor-parallel rank and each priority, and
adding them up counts several times, while a median does not care.
"""

from __future__ import annotations

from collections.abc import Mapping
from statistics import fmean
from typing import Any, ClassVar, Final

from geniehive.errors import UpstreamUnavailable
from geniehive.resources import Asset, Health, Observed, Operation
from nodeagent.engines.base import HEALTHY, Engine, EngineState, Evidence, demand, json_of, loading, refusal
from nodeagent.engines.http import LOAD_TIMEOUT_S, Http, Reply
from nodeagent.engines.naming import CHAT, family_of, operations_of, quantization_of
from nodeagent.engines.native import COUNT_TOKENS, MESSAGES, RESPONSES
from nodeagent.engines.prometheus import parse
from nodeagent.engines.reading import number, positive, rate, rows, share, table, text, total, whole
from nodeagent.engines.recent import Memory, measure

_LOADS, _INFO, _MODELS, _METRICS = "/v1/loads?include=core,queues", "/model_info", "/v1/models", "/metrics"
_MEDIANS: Final = {
    "ttft_seconds": "sglang:time_to_first_token_seconds",
    "latency_seconds": "sglang:e2e_request_latency_seconds",
}
_MEMORY_SAVER: Final = "start SGLang with --enable-memory-saver"


class SGLang(Engine):
    """SGLang's server, or a router of its that answers the same."""

    name: ClassVar[str] = "sglang"
    runtime_name: ClassVar[str] = "sglang"
    probes: ClassVar[tuple[str, ...]] = (_LOADS, _INFO)
    listen_fix: ClassVar[str] = "start SGLang with --host 0.0.0.0"
    # Pull request 18630 of sgl-project/sglang for the last two.
    routes_since: ClassVar[Mapping[str, str]] = {RESPONSES: "0.5.1", MESSAGES: "0.5.10", COUNT_TOKENS: "0.5.10"}

    def recognise(self, seen: Evidence) -> bool:
        """/model_info with a path, and /v1/loads, or the `is_generation` of versions from before it."""
        info = table(json_of(seen, _INFO))
        if not text(info.get("model_path")):
            return False
        return isinstance(table(json_of(seen, _LOADS)).get("loads"), list) or "is_generation" in info

    async def look(self, http: Http, previous: EngineState | None = None) -> EngineState:
        """See Engine.look."""
        listing = await http.get(_MODELS)
        if not listing.ok:
            return self.state(health=refusal(listing, _MODELS), complete=False)
        replies = await http.get_all(_LOADS, _INFO, _METRICS)
        before = previous.memory if previous and isinstance(previous.memory, Memory) else Memory()
        recent, memory = _recent(replies.get(_METRICS), before)
        answer, info = table(json_of(replies, _LOADS)), table(json_of(replies, _INFO))
        loads = rows(answer.get("loads"))
        health = _health(loads)
        assets = assets_of(rows(table(listing.data).get("data")), info, loaded=health == HEALTHY)
        return self.state(
            version=text(answer.get("version")),
            health=health,
            assets=assets,
            operations=CHAT,
            observed=observe(loads, recent, len(assets)),
            memory=memory,
            notes=() if loads else ("load is unknown: /v1/loads needs SGLang 0.5 or later",),
        )

    async def load(self, http: Http, asset_id: str, context_size: int | None = None) -> None:
        """Give a model that `unload` put out of VRAM its memory back."""
        del context_size  # fixed when SGLang starts
        await self._order(http, "/resume_memory_occupation", f"load {asset_id}")

    async def unload(self, http: Http, asset_id: str) -> None:
        """Release the VRAM; the process stays."""
        await self._order(http, "/release_memory_occupation", f"unload {asset_id}")

    async def _order(self, http: Http, path: str, order: str) -> None:
        reply = await http.post(path, {}, timeout_s=LOAD_TIMEOUT_S)
        if reply.status == 404:
            raise UpstreamUnavailable(f"this SGLang cannot {order}: {_MEMORY_SAVER}")
        demand(reply, order)


def assets_of(models: list[dict[str, Any]], info: dict[str, Any], *, loaded: bool) -> tuple[Asset, ...]:
    """The models of /v1/models; /model_info says whether they generate, and what they can take."""
    capabilities = tuple(
        word
        for word, key in (("vision", "has_image_understanding"), ("audio", "has_audio_understanding"))
        if info.get(key)
    )
    return tuple(
        Asset(
            asset_id=text(model.get("id")),
            loaded=loaded,
            context_size=positive(model.get("max_model_len")),
            family=family_of(text(model.get("id"))) or text(info.get("model_type")),
            quantization=quantization_of(text(model.get("id"))),
            capabilities=capabilities,
            operations=_operations(text(model.get("id")), info),
        )
        for model in models
        if text(model.get("id"))
    )


def observe(loads: list[dict[str, Any]], recent: dict[str, Any], models: int) -> Observed:
    """Counts added up over the ranks, shares averaged; the speed is of one request, not of the batch."""
    if not loads:
        return Observed(loaded_model_count=models, **recent)
    ready = all(positive(load.get("max_total_num_tokens")) for load in loads)
    running = total([whole(load.get("num_running_reqs")) for load in loads])
    generated = [number(load.get("gen_throughput")) for load in loads]
    speed = sum(value or 0.0 for value in generated) / running if running else None
    return Observed(
        running=running if ready else None,
        waiting=total([whole(load.get("num_waiting_reqs")) for load in loads]) if ready else None,
        slots=total([positive(load.get("max_running_requests")) for load in loads]),
        kv_cache_usage=_mean(loads, "token_usage") if ready else None,
        prefix_cache_hit_rate=_mean(loads, "cache_hit_rate") if ready else None,
        tokens_per_second=rate(speed),
        loaded_model_count=models if ready else 0,
        **recent,
    )


def _operations(name: str, info: dict[str, Any]) -> tuple[Operation, ...]:
    if info.get("is_generation") is not False:
        return CHAT
    guess = operations_of(name)
    return guess if guess != CHAT else (Operation.EMBEDDINGS,)


def _health(loads: list[dict[str, Any]]) -> Health:
    not_ready = any(whole(load.get("max_total_num_tokens")) == 0 for load in loads)
    return loading("SGLang has no KV cache yet") if not_ready else HEALTHY


def _recent(reply: Reply | None, before: Memory) -> tuple[dict[str, float], Memory]:
    if reply is None or not reply.ok:
        return {}, before
    return measure(parse(reply.text, "sglang:"), before, {}, _MEDIANS)


def _mean(loads: list[dict[str, Any]], key: str) -> float | None:
    shares = [value for load in loads if (value := share(load.get(key))) is not None]
    return fmean(shares) if len(shares) == len(loads) else None
