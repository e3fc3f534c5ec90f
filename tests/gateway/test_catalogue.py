"""What /v1/models tells."""

import json

import msgspec
import pytest

from gateway.catalogue import model, models
from geniehive.errors import ModelNotFound
from geniehive.resources import Runtime
from tests.geniehive.routing.fleet import (
    Asset,
    Health,
    HealthStatus,
    Observed,
    Operation,
    host,
    role,
    service,
    table,
)

FLEET = table(
    host("h1"),
    host("h2"),
    service(
        "a",
        "h1",
        assets=(Asset(asset_id="qwen3:8b", loaded=True, context_size=8192, family="qwen3", capabilities=("tools",)),),
        runtime=Runtime(engine="ollama"),
        observed=Observed(ttft_seconds=0.2, waiting=1, running=2),
    ),
    service(
        "b",
        "h2",
        assets=(Asset(asset_id="qwen3:8b", loaded=False, context_size=32768, aliases=("fast",)),),
        observed=Observed(ttft_seconds=0.5),
    ),
    service("e", "h2", assets=("bge",), operations=(Operation.EMBEDDINGS,)),
    role("code", preferred_families=("qwen3",)),
)


def test_an_asset_on_two_hosts_is_one_entry_and_roles_come_last():
    assert [entry["id"] for entry in models(FLEET, {})] == ["bge", "qwen3:8b", "code"]


def test_an_entry_tells_where_and_how():
    entry = model(FLEET, "qwen3:8b", {"b": 1})
    own = entry["geniehive"]
    assert (entry["object"], entry["owned_by"], entry["context_length"]) == ("model", "ollama", 32768)
    assert (own["hosts"], own["loaded_on"], own["services"]) == (["h1", "h2"], ["h1"], ["a", "b"])
    assert own["observed"] == {"p50_ttft_ms": 200.0, "tokens_per_sec": None, "in_flight": 4, "queue_depth": 1}
    assert own["offload"]["latency_class"] == "interactive"
    assert entry["supported_parameters"][-1] == "top_p"
    assert "tools" in entry["supported_parameters"]
    assert entry["status"] == {"value": "loaded"}


def test_names_are_never_null_and_the_list_is_json_in_a_fixed_order():
    once, twice = (msgspec.json.encode(models(FLEET, {})) for _ in range(2))
    assert once == twice
    assert all(isinstance(entry["name"], str) and entry["name"] for entry in json.loads(once))


def test_aliases_services_and_roles_are_answered_for_by_name():
    assert model(FLEET, "fast", {})["geniehive"]["kind"] == "asset"
    assert model(FLEET, "a", {})["geniehive"]["kind"] == "service"
    assert model(FLEET, "code", {})["geniehive"]["kind"] == "role"


def test_an_embedding_model_is_told_from_a_chat_model():
    assert model(FLEET, "bge", {})["architecture"]["output_modalities"] == ["embeddings"]
    assert model(FLEET, "bge", {})["capabilities"] == {"embeddings": True}


def test_a_model_whose_engine_died_says_so():
    down = Health(status=HealthStatus.UNHEALTHY, reason="connection refused")
    fleet = table(service("a", health=down), role("r"))
    assert model(fleet, "qwen", {})["status"] == {
        "value": "unavailable",
        "reason": "a: unhealthy: connection refused",
    }
    assert model(fleet, "r", {})["status"]["value"] == "unavailable"


def test_a_cold_model_says_unloaded_and_a_loading_one_loading():
    cold = table(service("a", assets=(Asset(asset_id="qwen", loaded=False),)))
    assert model(cold, "qwen", {})["status"]["value"] == "unloaded"
    assert model(cold, "qwen", {})["geniehive"]["offload"]["latency_class"] == "cold"
    loading = table(service("a", health=Health(status=HealthStatus.LOADING)))
    assert model(loading, "qwen", {})["status"]["value"] == "loading"


def test_an_unknown_name_is_a_404_with_near_misses():
    with pytest.raises(ModelNotFound, match="'qwen3:8b'"):
        model(FLEET, "qwen3:8", {})
