"""llama.cpp's router mode: the state of each model as /v1/models words it, and sums over the loaded ones. Pure."""

from __future__ import annotations

from statistics import fmean
from typing import Any, Final

from geniehive.resources import Observed
from nodeagent.engines.reading import positive, table, text, total

IN_MEMORY: Final = frozenset({"loaded", "sleeping"})
OUT_OF_MEMORY: Final = frozenset({"unloaded"})
_MEANS: Final = ("kv_cache_usage", "tokens_per_second", "prompt_tokens_per_second", "prefix_cache_hit_rate")


def status_of(model: dict[str, Any]) -> str:
    """`unloaded`, `loading`, `loaded`, `sleeping`, `downloading`; empty where the entry has none."""
    return text(table(model.get("status")).get("value"))


def has_failed(model: dict[str, Any]) -> bool:
    """Whether the last load of this model failed."""
    return table(model.get("status")).get("failed") is True


def failures(models: list[dict[str, Any]]) -> tuple[str, ...]:
    """A note for each model whose process ended with an error."""
    return tuple(
        f"{text(model.get('id'))} failed to load: the log of llama-server says why"
        for model in models
        if has_failed(model)
    )


def add_up(models: list[dict[str, Any]], measured: list[dict[str, Any]], props: list[dict[str, Any]]) -> Observed:
    """The router's measurements: counts added up over the loaded models, speeds and shares averaged.

    A count that one loaded model does not tell is unknown for all, and so is the queue while a model loads. With
    nothing in memory nothing runs and nothing waits.
    """
    states = [status_of(model) for model in models]
    counts: dict[str, int | None] = {"running": None, "waiting": None}
    if "loading" not in states:
        counts = {key: total([found.get(key) for found in measured]) if measured else 0 for key in counts}
    means: dict[str, list[Any]] = {
        key: [found[key] for found in measured if found.get(key) is not None] for key in _MEANS
    }
    averages: dict[str, Any] = {key: fmean(values) for key, values in means.items() if values}
    return Observed(
        loaded_model_count=states.count("loaded"),
        slots=total([positive(found.get("total_slots")) for found in props]),
        **counts,
        **averages,
    )
