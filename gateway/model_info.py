"""[pure] The catalogue as `GET /v1/model/info`: what clients of LiteLLM's proxy read of a model.

Fields are those of LiteLLM's `model_info` (docs.litellm.ai, proxy/model_management): the mode that a model is for, its
limits, what it supports, and what a token costs, which is nothing.
"""

from __future__ import annotations

from typing import Any, Final

from geniehive.resources import Operation

Json = dict[str, Any]

_MODES: Final = {
    Operation.CHAT: "chat",
    Operation.COMPLETION: "completion",
    Operation.EMBEDDINGS: "embedding",
    Operation.RERANK: "rerank",
    Operation.TRANSCRIPTION: "audio_transcription",
    Operation.TRANSLATION: "audio_transcription",
    Operation.SPEECH: "audio_speech",
    Operation.IMAGE: "image_generation",
    Operation.MODERATION: "moderation",
}


def model_info(entries: list[Json], wanted: str = "") -> Json:
    """LiteLLM's list for entries of the catalogue; `wanted` is one id, empty is all."""
    return {"data": [_info(entry) for entry in entries if not wanted or entry["id"] == wanted]}


def _info(entry: Json) -> Json:
    own, can = entry["geniehive"], entry["capabilities"]
    operation = own["operation"]
    return {
        "model_name": entry["id"],
        "litellm_params": {"model": f"openai/{entry['id']}", "custom_llm_provider": "openai"},
        "model_info": {
            "id": entry["id"],
            "db_model": False,
            "mode": _MODES[Operation(operation)] if operation else None,
            "litellm_provider": "openai",
            "max_tokens": entry["context_length"],
            "max_input_tokens": entry["context_length"],
            "max_output_tokens": entry["context_length"],
            "input_cost_per_token": 0.0,
            "output_cost_per_token": 0.0,
            "supports_vision": bool(can.get("vision")),
            "supports_function_calling": bool(can.get("tools")),
            "supports_reasoning": bool(can.get("thinking")),
            "supports_audio_input": bool(can.get("audio")),
            "supported_openai_params": entry["supported_parameters"],
        },
    }
