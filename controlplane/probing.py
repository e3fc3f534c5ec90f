"""How a service's health is asked from outside, engine by engine, and what the answers mean.

The one table of paths. Each is a GET without side effects, and free of the traps that are known:

* SGLang generates a token for /health and /health_generate, so its list of models is asked.
* Ollama has no /health; /api/version loads nothing.
* llama.cpp's /health neither wakes a sleeping server nor loads a model of its router.
* whisper.cpp turns the 503 of a /health that is loading into a 404; its form page is there in any case.
* vLLM's /health is not guarded by its key, but what clients need is; the list of models is guarded.

The control plane knows no engine's key. So 401 and 403 say nothing, and neither does any other refusal:
the engine lives, and its node agent, which has the key, knows better.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final
from urllib.parse import urlsplit

from controlplane.events import Finding
from geniehive.resources import HealthStatus, LeaseState, Service, Snapshot

_MODELS: Final = "/v1/models"
HEALTH_PATHS: Final[Mapping[str, str]] = {
    "kokoro": "/health",
    "llamacpp": "/health",
    "llamaswap": "/running",
    "lemonade": "/v1/health",
    "lmstudio": "/api/v1/models",
    "manifest": _MODELS,
    "ollama": "/api/version",
    "openai": _MODELS,
    "sdcpp": _MODELS,
    "sglang": _MODELS,
    "speaches": "/health",
    "vllm": _MODELS,
    "whispercpp": "/",
}
"""By the protocol that a service is announced with; another one is asked as `openai` is."""


def health_url(service: Service) -> str:
    """Where a service's health is asked; empty where it cannot be from here."""
    if not service.reachable or urlsplit(service.endpoint).scheme not in {"http", "https"}:
        return ""
    return service.endpoint + HEALTH_PATHS.get(service.protocol, _MODELS)


def targets(snapshot: Snapshot) -> Mapping[str, str]:
    """The URLs to ask, by service id: every service of a host that is up."""
    up = {host.host_id for host in snapshot.hosts.values() if host.lease is LeaseState.UP}
    services: Iterable[Service] = (one for one in snapshot.services.values() if one.host_id in up)
    return {one.service_id: url for one in services if (url := health_url(one))}


def judge(status: int, body: bytes) -> Finding:
    """What an answer means. A redirect is not followed, and says nothing."""
    if 200 <= status < 300:
        return Finding(HealthStatus.HEALTHY)
    if status == 503 and b"loading" in body.lower():
        return Finding(HealthStatus.LOADING, "it answers that it is loading a model")
    if status >= 500 and status != 501:
        return Finding(HealthStatus.UNHEALTHY, f"it answers with status {status}")
    return Finding(None, f"status {status} says nothing about its health")


def silent(reason: str) -> Finding:
    """No answer at all."""
    return Finding(HealthStatus.UNHEALTHY, reason)
