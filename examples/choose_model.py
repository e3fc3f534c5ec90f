"""Choose a model for a cheap subtask from `GET /v1/models` alone: a title, a summary, a commit message.

    python examples/choose_model.py http://127.0.0.1:8800 [CLIENT_KEY]

What an agent needs to know stands in each entry: what it can be asked for, how long a prompt may be, whether it is in
memory, how soon and how fast it answers, and how busy it is. Standard library only; copy what you need.
"""

from __future__ import annotations

import json
import sys
import urllib.request
from typing import Any

UNKNOWN_S = 5.0
"""Seconds to the first token that are supposed of what nobody has measured yet."""
UNKNOWN_SPEED = 10.0
"""Tokens a second, likewise."""
COLD_S = 30.0
"""What loading a model may take, if it has to be loaded first."""


def choose(
    models: list[dict[str, Any]],
    *,
    operation: str = "chat",
    prompt_tokens: int = 2000,
    answer_tokens: int = 100,
    **needs: bool,
) -> str | None:
    """The id of the model that should be done first; None if none fits. `needs` are capabilities: `tools=True`."""
    room = prompt_tokens + answer_tokens
    fitting = [
        model
        for model in models
        if operation in model["geniehive"]["operations"]
        and model["status"]["value"] in {"loaded", "unloaded"}
        and (model["context_length"] or room) >= room
        and all(model["capabilities"].get(word) for word, wanted in needs.items() if wanted)
    ]

    def cost(model: dict[str, Any]) -> tuple[float, int]:
        return seconds(model, answer_tokens), model["geniehive"]["vram_bytes"] or 0

    best = min(fitting, key=cost, default=None)
    return None if best is None else best["id"]


def seconds(model: dict[str, Any], answer_tokens: int) -> float:
    """How long it will take, roughly: the wait for others, loading, the first token and the rest."""
    seen = model["geniehive"]["observed"]
    first_s = UNKNOWN_S if seen["p50_ttft_ms"] is None else seen["p50_ttft_ms"] / 1000
    written_s = answer_tokens / (seen["tokens_per_sec"] or UNKNOWN_SPEED)
    busy = seen["in_flight"] / max(len(model["geniehive"]["services"]), 1)
    cold_s = 0.0 if model["status"]["value"] == "loaded" else COLD_S
    return cold_s + first_s + written_s * (1 + busy)


def main() -> None:
    """Ask a gateway and say what to use."""
    url, key = sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else ""
    headers = {"authorization": f"Bearer {key}"} if key else {}
    request = urllib.request.Request(f"{url}/v1/models", headers=headers)  # noqa: S310 - the user's own gateway
    with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310 - see above
        models = json.load(answer)["data"]
    print(choose(models) or sys.exit("no model of this cluster can do that now"))


if __name__ == "__main__":
    main()
