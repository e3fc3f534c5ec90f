"""[pure] What `geniehive up` prints once everything runs: engines, models, the URL, a `curl` that works."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence

from geniehive.resources import Asset, HealthStatus, Operation, Service

NOISE = (
    "No engine was found on this machine, so the embedded llama.cpp answers with a tiny generated model:\n"
    "its words are noise. Name a real one: geniehive up --model path.gguf - or start Ollama, llama.cpp, vLLM, ...;\n"
    "an engine at its usual port is found while GenieHive runs."
)
NOTHING = (
    "No engine was found on this machine. Start one (Ollama, llama.cpp, vLLM, ...): at its usual port it is found\n"
    "while GenieHive runs; elsewhere name it under `services` in a config.\n"
    "Or name a model: geniehive up --model path.gguf"
)
CLOSED = (
    "This cluster has tokens, and only who has one is told what runs here: set GENIEHIVE_API_KEY to one with\n"
    "the scope read. Without any, set auth.admin_api_keys in a config."
)
NO_MODEL = "No engine answers with a model yet; geniehive services -o wide says why."
NOT_INSTALLED = "The embedded engine is not installed: pip install 'geniehive[engine]'"


def serving(services: Sequence[Service]) -> list[tuple[Service, Asset]]:
    """What can answer now: models of healthy services; those that are in memory first."""
    found = [
        (service, asset)
        for service in services
        if service.health.status is HealthStatus.HEALTHY and service.reachable
        for asset in service.assets
    ]
    return sorted(found, key=lambda pair: pair[1].loaded is not True)


def operations(service: Service, asset: Asset) -> tuple[Operation, ...]:
    """What the model can be asked."""
    return asset.operations or service.operations


def curl(url: str, found: Sequence[tuple[Service, Asset]], *, with_key: bool) -> str:
    """A command that works as it stands, for the first model that one can talk to, or embed with, or list."""
    for operation in (Operation.CHAT, Operation.COMPLETION, Operation.EMBEDDINGS):
        for service, asset in found:
            if operation in operations(service, asset):
                return _post(url, operation, asset.asset_id, with_key=with_key)
    return f"curl -s {url}/v1/models{_key(with_key=with_key)}"


def _post(url: str, operation: Operation, model: str, *, with_key: bool) -> str:
    body: dict[str, object] = {"model": model}
    path = "/v1/embeddings"
    if operation is Operation.CHAT:
        path = "/v1/chat/completions"
        body |= {"messages": [{"role": "user", "content": "Say hello."}], "max_tokens": 64, "stream": True}
    elif operation is Operation.COMPLETION:
        path = "/v1/completions"
        body |= {"prompt": "Say hello.", "max_tokens": 64, "stream": True}
    else:
        body |= {"input": "hello"}
    return (
        f"curl -sN {url}{path} -H 'Content-Type: application/json'{_key(with_key=with_key)} \\\n"
        f"    -d {shlex.quote(json.dumps(body))}"
    )


def _key(*, with_key: bool) -> str:
    return ' -H "Authorization: Bearer $GENIEHIVE_KEY"' if with_key else ""
