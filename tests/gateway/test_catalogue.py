"""What /v1/models tells."""

import json

import httpx
import msgspec
import pytest

from gateway.catalogue import model, models
from gateway.model_info import model_info
from geniehive.errors import ModelNotFound
from geniehive.resources import Runtime
from tests.gateway.harness import gateway
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


def test_every_field_that_clients_choose_by_is_there_and_no_name_is_null():
    top = {"id", "object", "created", "owned_by", "name", "description", "context_length", "max_model_len"}
    top |= {"architecture", "supported_parameters", "capabilities", "status", "geniehive"}
    own = {"kind", "operation", "hosts", "loaded_on", "engine", "family", "quantization", "context_size", "vram_bytes"}
    own |= {"observed", "effective_request_policy", "offload", "aliases", "voices", "parameter_size"}
    for entry in models(FLEET, {}):
        assert top <= entry.keys()
        assert own <= entry["geniehive"].keys()
        assert entry["geniehive"]["observed"].keys() == {"p50_ttft_ms", "tokens_per_sec", "in_flight", "queue_depth"}
        assert entry["geniehive"]["offload"].keys() == {"suitable_for", "latency_class"}
        assert entry["architecture"].keys() == {"modality", "input_modalities", "output_modalities"}
        assert isinstance(entry["name"], str)
        assert entry["name"]


def test_aliases_of_a_roles_models_are_not_the_roles():
    assert model(FLEET, "qwen3:8b", {})["geniehive"]["aliases"] == ["fast"]
    assert model(FLEET, "code", {})["geniehive"]["aliases"] == []


def test_an_embeddings_model_is_told_with_its_own_parameters():
    assert model(FLEET, "bge", {})["supported_parameters"] == ["dimensions", "encoding_format", "input"]


def test_litellms_clients_get_mode_limits_and_abilities():
    told = {entry["model_name"]: entry for entry in model_info(models(FLEET, {}))["data"]}
    assert list(told) == ["bge", "qwen3:8b", "code"]
    chat = told["qwen3:8b"]["model_info"]
    assert (chat["mode"], chat["max_input_tokens"], chat["supports_function_calling"]) == ("chat", 32768, True)
    assert told["bge"]["model_info"]["mode"] == "embedding"
    assert told["code"]["litellm_params"]["model"] == "openai/code"
    assert len(model_info(models(FLEET, {}), "bge")["data"]) == 1


async def test_a_catalogue_that_a_client_has_already_is_a_304_until_something_changes():
    async with gateway("http://127.0.0.1:1") as gw, httpx.AsyncClient(base_url=gw.url) as http:
        for path in ("/v1/models", "/v1/models/m", "/v1/model/info"):
            first = await http.get(path)
            tag = first.headers["etag"]
            assert (await http.get(path)).content == first.content
            for given in (tag, f"W/{tag}", f'"x", {tag}', "*"):
                again = await http.get(path, headers={"if-none-match": given})
                assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
            assert (await http.get(path, headers={"if-none-match": '"x"'})).status_code == 200
        with gw.in_flight.guard("h1/s"):
            assert (await http.get("/v1/models", headers={"if-none-match": tag})).status_code == 200
