"""llama.cpp's /metrics: what runs, what waits, and recent speeds. 501 without --metrics: then all of it is unknown.

The server's own `predicted_tokens_seconds` is a mean since its start; the counters under it make a recent one. They
count the seconds of each request on its own, so their quotient is the speed of one request (tried: four at once).
"""

from __future__ import annotations

from typing import Any, Final

from nodeagent.engines.http import Reply
from nodeagent.engines.prometheus import parse
from nodeagent.engines.reading import rate, share, whole
from nodeagent.engines.recent import Memory, Ratio, measure

_RATIOS: Final = {
    "tokens_per_second": Ratio(("llamacpp:tokens_predicted_total",), ("llamacpp:tokens_predicted_seconds_total",)),
    "prompt_tokens_per_second": Ratio(("llamacpp:prompt_tokens_total",), ("llamacpp:prompt_seconds_total",)),
    # prompt_tokens_total leaves out what came from the cache.
    "prefix_cache_hit_rate": Ratio(
        ("llamacpp:prompt_tokens_cached_total",),
        ("llamacpp:prompt_tokens_total", "llamacpp:prompt_tokens_cached_total"),
    ),
}


def observe(reply: Reply | None, before: Memory) -> tuple[dict[str, Any], Memory, tuple[str, ...]]:
    """Fields of Observed, the memory for the next look, and a note where the page is switched off."""
    if reply is None or not reply.ok:
        switched_off = reply is not None and reply.status == 501
        note = ("load and speed are unknown: start llama-server with --metrics",) if switched_off else ()
        return {}, before, note
    page = parse(reply.text, "llamacpp:")
    recent, after = measure(page, before, _RATIOS, {})
    measured: dict[str, Any] = {
        "running": whole(page.sum("llamacpp:requests_processing")),
        "waiting": whole(page.sum("llamacpp:requests_deferred")),
        "kv_cache_usage": share(page.mean("llamacpp:kv_cache_usage_ratio")),  # gone from versions since mid 2025
        "tokens_per_second": rate(recent.get("tokens_per_second")),
        "prompt_tokens_per_second": rate(recent.get("prompt_tokens_per_second")),
        "prefix_cache_hit_rate": share(recent.get("prefix_cache_hit_rate")),
    }
    return measured, after, ()
