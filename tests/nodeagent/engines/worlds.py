"""The engines as replayed fixtures: what each of them answers to a GET."""

from __future__ import annotations

from tests.nodeagent.engines.replay import NOT_FOUND, Answer, Route, fixture

LLAMACPP: dict[str, Route] = {
    "GET /health": fixture("llamacpp/health.json"),
    "GET /v1/health": fixture("llamacpp/health.json"),
    "GET /v1/models": fixture("llamacpp/models.json"),
    "GET /props": fixture("llamacpp/props.json"),
    "GET /metrics": fixture("llamacpp/metrics.txt"),
    "POST /v1/completions": fixture("llamacpp/error_no_messages.json", 400),
    "POST /v1/embeddings": fixture("llamacpp/error_no_messages.json", 400),
    "POST /v1/rerank": fixture("llamacpp/error_no_embeddings.json", 501),
    "POST /v1/responses": fixture("llamacpp/error_no_messages.json", 400),
    "POST /v1/messages": fixture("llamacpp/error_no_messages.json", 500),
    "POST /v1/messages/count_tokens": Answer('{"error": {"message": "File Not Found", "code": 404}}', 404),
}
OLLAMA: dict[str, Route] = {
    "GET /": fixture("ollama/root.txt"),
    "GET /api/version": fixture("ollama/version.json"),
    "GET /api/tags": fixture("ollama/tags.json"),
    "GET /api/ps": fixture("ollama/ps_empty.json"),
    "GET /v1/models": fixture("ollama/v1_models.json"),
    "POST /api/show": fixture("ollama/show.json"),
}
VLLM: dict[str, Route] = {
    "GET /health": Answer("", 200),
    "GET /version": fixture("vllm/version.json"),
    "GET /load": fixture("vllm/load_off.json"),
    "GET /v1/models": fixture("vllm/v1_models.json"),
    "GET /metrics": fixture("vllm/metrics.txt"),
}
SGLANG: dict[str, Route] = {
    "GET /v1/loads": fixture("sglang/v1_loads.json"),
    "GET /model_info": fixture("sglang/model_info.json"),
    "GET /v1/models": fixture("sglang/v1_models.json"),
    "GET /api/tags": fixture("sglang/api_tags.json"),
    "GET /api/ps": Answer('{"models": []}'),
    "GET /api/version": Answer('{"version": "0.5.19"}'),
    "GET /": Answer('"Ollama is running"'),
    "GET /metrics": fixture("sglang/metrics.txt"),
}
LMSTUDIO: dict[str, Route] = {
    "GET /api/v1/models": fixture("lmstudio/api_v1_models.json"),
    "GET /v1/models": fixture("lmstudio/v1_models.json"),
}
KOKORO: dict[str, Route] = {
    "GET /v1/models": fixture("kokoro/v1_models.json"),
    "GET /v1/audio/voices": fixture("kokoro/voices.json"),
    "GET /health": fixture("kokoro/health.json"),
}
SDCPP: dict[str, Route] = {
    "GET /v1/models": fixture("sdcpp/v1_models.json"),
    "GET /sdcpp/v1/capabilities": fixture("sdcpp/capabilities.json"),
}
SPEACHES: dict[str, Route] = {
    "GET /health": fixture("speaches/health.txt"),
    "GET /v1/models": fixture("speaches/v1_models.json"),
    "GET /api/ps": fixture("speaches/api_ps.json"),
}
WHISPERCPP: dict[str, Route] = {
    "GET /": fixture("whispercpp/index.html"),
    "GET /health": fixture("whispercpp/health.json"),
}
LEMONADE: dict[str, Route] = {
    "GET /v1/health": fixture("lemonade/v1_health.json"),
    "GET /v1/models": fixture("lemonade/v1_models.json"),
    "GET /api/v1/models": fixture("lemonade/v1_models.json"),
}
LLAMASWAP: dict[str, Route] = {
    "GET /running": fixture("llamaswap/running.json"),
    "GET /v1/models": fixture("llamaswap/v1_models.json"),
    "GET /api/version": fixture("llamaswap/api_version.json"),
}
OPENAI: dict[str, Route] = {
    "GET /v1/models": Answer('{"object": "list", "data": [{"id": "Qwen2.5-7B-Instruct-4bit", "object": "model"}]}'),
}

WORLDS = {
    "llamacpp": LLAMACPP,
    "ollama": OLLAMA,
    "vllm": VLLM,
    "sglang": SGLANG,
    "lmstudio": LMSTUDIO,
    "speaches": SPEACHES,
    "whispercpp": WHISPERCPP,
    "kokoro": KOKORO,
    "sdcpp": SDCPP,
    "lemonade": LEMONADE,
    "llamaswap": LLAMASWAP,
    "openai": OPENAI,
}
UNKNOWN = {
    "lmstudio": fixture("lmstudio/unknown_path.json"),
    "llamacpp": fixture("llamacpp/error_not_found.json", 404),
    "whispercpp": fixture("whispercpp/not_found.txt", 404),
}


def unknown_of(name: str) -> Answer:
    return UNKNOWN.get(name, NOT_FOUND)


# /health generates a token on SGLang, so a probe that asks an unknown engine for it may be asking SGLang.
HEALTH_GENERATES = frozenset({"/health", "/health_generate"})
