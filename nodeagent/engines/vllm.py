"""vLLM (0.33): models from /v1/models, load and recent medians from /metrics.

/load is not asked: it is 0 for ever without --enable-server-load-tracking. Under --disable-log-stats /metrics has no
`vllm:` series at all, and everything measured is unknown. A sleeping engine looks idle but for `engine_sleep_state`.
`--api-key` guards /v1 but not /metrics, so the key goes along anyway.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Final

from geniehive.errors import UpstreamUnavailable
from geniehive.resources import Asset, Observed
from nodeagent.engines.base import Engine, EngineState, Evidence, demand, json_of, refusal, wait_until
from nodeagent.engines.http import LOAD_TIMEOUT_S, Http, Reply
from nodeagent.engines.llamacpp import raise_unless_served
from nodeagent.engines.naming import CHAT, family_of, operations_of, quantization_of
from nodeagent.engines.native import COUNT_TOKENS, MESSAGES, RESPONSES
from nodeagent.engines.prometheus import Exposition, parse
from nodeagent.engines.reading import positive, rate, rows, share, table, text, whole
from nodeagent.engines.recent import Memory, Ratio, measure

_MODELS, _VERSION, _METRICS, _SLEEPING = "/v1/models", "/version", "/metrics", "/is_sleeping"
_RATIOS: Final = {
    # The inverse of the mean inter-token latency: tokens a second of one request.
    "tokens_per_second": Ratio(("vllm:inter_token_latency_seconds_count",), ("vllm:inter_token_latency_seconds_sum",)),
    "prompt_tokens_per_second": Ratio(("vllm:prompt_tokens_total",), ("vllm:request_prefill_time_seconds_sum",)),
    "prefix_cache_hit_rate": Ratio(("vllm:prefix_cache_hits_total",), ("vllm:prefix_cache_queries_total",)),
}
_MEDIANS: Final = {
    "ttft_seconds": "vllm:time_to_first_token_seconds",
    "latency_seconds": "vllm:e2e_request_latency_seconds",
}
_DEV_MODE: Final = "start vLLM with --enable-sleep-mode and VLLM_SERVER_DEV_MODE=1 in its environment"


class VLLM(Engine):
    """vLLM's OpenAI-compatible server."""

    name: ClassVar[str] = "vllm"
    runtime_name: ClassVar[str] = "vllm"
    probes: ClassVar[tuple[str, ...]] = (_MODELS, _VERSION)
    listen_fix: ClassVar[str] = "start vLLM with --host 0.0.0.0"
    # Pull requests 20504 (Responses), 22627 (Messages) and 35588 (count_tokens) of vllm-project/vllm.
    routes_since: ClassVar[Mapping[str, str]] = {RESPONSES: "0.10.0", MESSAGES: "0.11.1", COUNT_TOKENS: "0.17.0"}

    def recognise(self, seen: Evidence) -> bool:
        """Models `owned_by: vllm`, and a version at /version."""
        models = rows(table(json_of(seen, _MODELS)).get("data"))
        owned = any(model.get("owned_by") == "vllm" for model in models)
        return owned and bool(text(table(json_of(seen, _VERSION)).get("version")))

    async def look(self, http: Http, previous: EngineState | None = None) -> EngineState:
        """See Engine.look."""
        listing = await http.get(_MODELS)
        if not listing.ok:
            return self.state(health=refusal(listing, _MODELS), complete=False)
        replies = await http.get_all(_VERSION, _METRICS)
        page = _page(replies.get(_METRICS))
        before = previous.memory if previous and isinstance(previous.memory, Memory) else Memory()
        recent, memory = measure(page, before, _RATIOS, _MEDIANS)
        sleeping = page.sum_where("vllm:engine_sleep_state", sleep_state="awake") == 0
        assets = assets_of(rows(table(listing.data).get("data")), loaded=not sleeping)
        return self.state(
            version=text(table(json_of(replies, _VERSION)).get("version")),
            assets=assets,
            operations=tuple(dict.fromkeys(operation for asset in assets for operation in asset.operations)) or CHAT,
            guessed=True,
            observed=observe(page, recent, 0 if sleeping else len(assets)),
            memory=memory,
            notes=_notes(page, sleeping=sleeping),
        )

    async def load(self, http: Http, asset_id: str, context_size: int | None = None) -> None:
        """Wake a sleeping engine; one that is awake already has its model."""
        del context_size  # fixed when vLLM starts
        raise_unless_served(self.runtime_name, asset_id, await self._awake_view(http))
        if await _is_sleeping(http):
            demand(await http.post("/wake_up", timeout_s=LOAD_TIMEOUT_S), f"load {asset_id}")
            await _until(http, sleeping=False)

    async def unload(self, http: Http, asset_id: str) -> None:
        """Send the engine to sleep at level 1: the weights go to RAM, the KV cache goes."""
        if await _is_sleeping(http) is None:
            raise UpstreamUnavailable(f"this vLLM cannot unload {asset_id}: {_DEV_MODE}, or stop its process")
        demand(await http.post("/sleep?level=1", timeout_s=LOAD_TIMEOUT_S), f"unload {asset_id}")
        await _until(http, sleeping=True)

    async def _awake_view(self, http: Http) -> EngineState:
        listing = demand(await http.get(_MODELS), "list its models")
        return self.state(assets=assets_of(rows(table(listing.data).get("data")), loaded=True))


def assets_of(models: list[dict[str, Any]], *, loaded: bool) -> tuple[Asset, ...]:
    """The base model and its LoRA adapters; an adapter has the context and the purpose of the model under it."""
    by_name = {text(model.get("id")): model for model in models if text(model.get("id"))}
    assets = []
    for name, model in by_name.items():
        base = by_name.get(text(model.get("parent")), model)
        root = text(base.get("root")) or text(base.get("id"))
        assets.append(
            Asset(
                asset_id=name,
                loaded=loaded,
                context_size=positive(model.get("max_model_len")) or positive(base.get("max_model_len")),
                family=family_of(root) or family_of(name),
                quantization=quantization_of(root),
                operations=operations_of(root),
            )
        )
    return tuple(assets)


def observe(page: Exposition, recent: dict[str, float], models: int) -> Observed:
    """Counts added up over the engines of one server, the KV cache averaged."""
    return Observed(
        running=whole(page.sum("vllm:num_requests_running")),
        waiting=whole(page.sum("vllm:num_requests_waiting")),
        kv_cache_usage=share(page.mean("vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc")),
        loaded_model_count=models,
        tokens_per_second=rate(recent.get("tokens_per_second")),
        prompt_tokens_per_second=rate(recent.get("prompt_tokens_per_second")),
        prefix_cache_hit_rate=share(recent.get("prefix_cache_hit_rate")),
        ttft_seconds=recent.get("ttft_seconds"),
        latency_seconds=recent.get("latency_seconds"),
    )


def _page(reply: Reply | None) -> Exposition:
    return parse(reply.text, "vllm:") if reply is not None and reply.ok else parse("")


def _notes(page: Exposition, *, sleeping: bool) -> tuple[str, ...]:
    silent = () if page.series else ("load and speed are unknown: start vLLM without --disable-log-stats",)
    return silent + (("the engine sleeps until it is told to load",) if sleeping else ())


async def _is_sleeping(http: Http) -> bool | None:
    """Whether the engine sleeps; None where it cannot."""
    state = table((await http.get(_SLEEPING)).data).get("is_sleeping")
    return state if isinstance(state, bool) else None


async def _until(http: Http, *, sleeping: bool) -> None:
    """Wait for the state itself: the POST may return before it is reached."""

    async def reached() -> bool:
        return await _is_sleeping(http) is sleeping

    await wait_until(reached, "fall asleep" if sleeping else "wake up")
