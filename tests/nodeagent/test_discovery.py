"""Discovery corrects what the engine knows better, keeps what people said, and adds what nobody named."""

import pytest

from geniehive.resources import Asset, Health, HealthStatus, Observed, Operation, RequestPolicy, Runtime, Service, Voice
from nodeagent.discovery import addressed, as_service, failed, merge, scan
from nodeagent.engines import EngineState, by_protocol, engine_session
from nodeagent.engines.naming import CHAT
from tests.nodeagent.engines.replay import Answer, replaying
from tests.nodeagent.engines.worlds import HEALTH_GENERATES, WORLDS
from tests.ports import free_port

POLICY = RequestPolicy(system_prompt="Be brief.")


def config(*assets: Asset, **fields) -> Service:
    return Service(service_id="atlas/chat", host_id="atlas", endpoint="http://127.0.0.1:1/v1/", assets=assets, **fields)


def told(*assets: Asset, **fields) -> EngineState:
    return EngineState(protocol="ollama", runtime_name="ollama", assets=assets, **fields)


def test_a_stale_loaded_is_corrected():
    service = merge(config(Asset(asset_id="a", loaded=True)), told(Asset(asset_id="a", loaded=False)))
    assert service.assets[0].loaded is False


def test_an_asset_that_the_engine_does_not_list_is_not_loaded_and_is_noted():
    service = merge(config(Asset(asset_id="a", loaded=True)), told(Asset(asset_id="b", loaded=True)))
    assert {asset.asset_id: asset.loaded for asset in service.assets} == {"a": False, "b": True}
    assert service.notes == ("config names a, which the engine does not list",)


def test_what_config_did_not_name_is_added():
    service = merge(config(Asset(asset_id="a")), told(Asset(asset_id="a"), Asset(asset_id="b", loaded=True)))
    assert [asset.asset_id for asset in service.assets] == ["a", "b"]


def test_what_config_says_beyond_the_engine_stays():
    mine = Asset(
        asset_id="a", aliases=("fast",), context_size=8192, request_policy=POLICY, family="mine", capabilities=("sql",)
    )
    service = merge(
        config(mine, max_concurrency=3, runtime=Runtime(engine="ollama", launcher="managed"), notes=("note",)),
        told(Asset(asset_id="a", family="llama", capabilities=("tools",), quantization="Q4_0"), version="1"),
    )
    (asset,) = service.assets
    assert (asset.aliases, asset.context_size, asset.request_policy) == (("fast",), 8192, POLICY)
    assert (asset.family, asset.quantization, asset.capabilities) == ("mine", "Q4_0", ("sql", "tools"))
    assert service.runtime == Runtime(engine="ollama", launcher="managed", version="1")
    assert (service.max_concurrency, service.notes, service.endpoint) == (3, ("note",), "http://127.0.0.1:1")


def test_voices_are_the_engines_unless_config_names_some():
    heart, own = Voice(voice_id="heart"), Voice(voice_id="own")
    engine = told(Asset(asset_id="a", voices=(heart,)))
    assert merge(config(Asset(asset_id="a")), engine).assets[0].voices == (heart,)
    assert merge(config(Asset(asset_id="a", voices=(own,))), engine).assets[0].voices == (own,)


def test_the_context_that_the_engine_gives_goes_before_configs():
    service = merge(config(Asset(asset_id="a", context_size=32768)), told(Asset(asset_id="a", context_size=4096)))
    assert service.assets[0].context_size == 4096


def test_an_engine_that_tells_nothing_of_memory_leaves_configs_word():
    service = merge(config(Asset(asset_id="a", loaded=True)), told(Asset(asset_id="a", loaded=None)))
    assert service.assets[0].loaded is True
    service = merge(config(Asset(asset_id="a", loaded=True)), told(complete=False))
    assert service.assets[0].loaded is True


@pytest.mark.parametrize("status", [HealthStatus.LOADING, HealthStatus.UNHEALTHY])
def test_an_engine_that_is_not_ready_holds_nothing_for_sure(status):
    service = merge(config(Asset(asset_id="a", loaded=True)), told(complete=False, health=Health(status=status)))
    assert service.assets[0].loaded is None
    assert service.health.status is status


def test_an_alias_of_the_engine_is_the_same_model():
    service = merge(config(Asset(asset_id="tiny")), told(Asset(asset_id="tiny:latest", aliases=("tiny",), loaded=True)))
    (asset,) = service.assets
    assert (asset.asset_id, asset.aliases, asset.loaded) == ("tiny", ("tiny:latest",), True)


def test_the_only_model_of_an_engine_without_names_goes_by_configs_name():
    engine = told(Asset(asset_id="whisper.cpp", aliases=("whisper-1",), loaded=True), any_name=True)
    service = merge(config(Asset(asset_id="whisper-large", loaded=False)), engine)
    (asset,) = service.assets
    assert (asset.asset_id, asset.loaded) == ("whisper-large", True)
    assert set(asset.aliases) == {"whisper.cpp", "whisper-1"}


def test_operations_are_configs_and_what_the_engine_knows_for_a_fact():
    embedder = Asset(asset_id="e", operations=(Operation.EMBEDDINGS,))
    known = merge(config(operations=(Operation.CHAT,)), told(embedder))
    guessed = merge(config(operations=(Operation.CHAT,)), told(embedder, guessed=True))
    unsaid = merge(config(), told(embedder, operations=CHAT, guessed=True))
    assert known.operations == (Operation.CHAT, Operation.EMBEDDINGS)
    assert (guessed.operations, guessed.assets[0].operations) == ((Operation.CHAT,), ())
    assert unsaid.operations == (*CHAT, Operation.EMBEDDINGS)


def test_a_failed_service_is_unhealthy_and_nothing_of_it_is_known():
    running = config(Asset(asset_id="a", loaded=True, vram_bytes=5, context_size=9), observed=Observed(running=0))
    service = failed(running, "refused")
    assert (service.health.status, service.health.reason) == (HealthStatus.UNHEALTHY, "refused")
    assert service.observed == Observed()
    assert (service.assets[0].loaded, service.assets[0].vram_bytes, service.assets[0].context_size) == (None, None, 9)


# --- scan ---------------------------------------------------------------------------------------


async def test_engines_are_found_by_what_they_answer_in_the_order_of_the_ports():
    ollama_port, web_port, vllm_port = free_port(), free_port(), free_port()
    async with (
        replaying(WORLDS["ollama"], port=ollama_port, forbidden=HEALTH_GENERATES),
        replaying({"GET /": Answer("<html>a page</html>")}, port=web_port),
        replaying(WORLDS["vllm"], port=vllm_port, forbidden=HEALTH_GENERATES),
        engine_session() as session,
    ):
        found = await scan(session, (vllm_port, free_port(), web_port, ollama_port))
        skipped = await scan(session, (vllm_port, ollama_port), skip={vllm_port})
    assert [(item.engine.name, item.port) for item in found] == [("vllm", vllm_port), ("ollama", ollama_port)]
    assert [item.port for item in skipped] == [ollama_port]
    service = as_service("atlas", found[1])
    assert (service.service_id, service.discovered) == (f"atlas/ollama-{ollama_port}", True)
    assert (service.protocol, service.runtime.engine, service.runtime.version) == ("ollama", "ollama", "0.33.3")
    assert (service.endpoint, service.assets[0].asset_id) == (f"http://127.0.0.1:{ollama_port}", "tiny:latest")


async def test_closed_ports_cost_next_to_nothing():
    async with engine_session() as session:
        assert await scan(session, [free_port() for _ in range(20)]) == ()


async def test_a_real_llama_cpp_is_found(llama_server):
    port = int(llama_server.base_url.rpartition(":")[2])
    async with engine_session() as session:
        (found,) = await scan(session, [port])
    service = as_service("atlas", found)
    assert (service.protocol, service.health.status) == ("llamacpp", HealthStatus.HEALTHY)
    assert service.operations == (*CHAT, Operation.EMBEDDINGS)


# --- addresses ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "beyond", "endpoint", "reachable"),
    [
        ("10.0.0.7", True, "http://10.0.0.7:11434", True),
        ("10.0.0.7", None, "http://10.0.0.7:11434", True),
        ("fd00::7", True, "http://[fd00::7]:11434", True),
        ("10.0.0.7", False, "http://127.0.0.1:11434", False),
        ("127.0.0.1", False, "http://127.0.0.1:11434", True),
        ("", False, "http://127.0.0.1:11434", True),
    ],
)
def test_an_engine_is_announced_where_others_can_dial_it(address, beyond, endpoint, reachable):
    local = Service(service_id="s", host_id="h", endpoint="http://127.0.0.1:11434")
    service = addressed(local, by_protocol("ollama"), address, beyond_loopback=beyond)
    assert (service.endpoint, service.reachable) == (endpoint, reachable)
    assert ("OLLAMA_HOST=0.0.0.0" in " ".join(service.notes)) is not reachable


def test_an_endpoint_of_another_machine_is_left_alone():
    remote = Service(service_id="s", host_id="h", endpoint="http://10.0.0.9:11434")
    assert addressed(remote, by_protocol("ollama"), "10.0.0.7", beyond_loopback=False) == remote
