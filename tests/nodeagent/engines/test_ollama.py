"""Ollama, by answers recorded from a real 0.33.3."""

import msgspec
import pytest

from geniehive.errors import UpstreamError
from geniehive.resources import HealthStatus, Operation
from nodeagent.engines.naming import CHAT
from nodeagent.engines.ollama import Ollama
from tests.nodeagent.engines.looking import looking, ordering
from tests.nodeagent.engines.replay import FIXTURES, Answer, fixture


def two_tags() -> Answer:
    """/api/tags with the models of ps_two.json."""
    running = msgspec.json.decode((FIXTURES / "ollama/ps_two.json").read_bytes())["models"]
    return Answer(msgspec.json.encode({"models": running}))


async def test_what_is_on_disk_and_not_in_memory():
    async with looking("ollama") as (look, _):
        state = await look()
    (asset,) = state.assets
    assert (asset.asset_id, asset.aliases, asset.loaded) == ("tiny:latest", ("tiny",), False)
    assert (asset.family, asset.quantization, asset.parameter_size) == ("llama", "", "138K")
    assert (asset.context_size, asset.size_bytes, asset.operations) == (2048, 565737, CHAT)
    assert (state.version, state.health.status) == ("0.33.3", HealthStatus.HEALTHY)
    assert (state.observed.loaded_model_count, state.observed.vram_used_bytes) == (0, 0)


async def test_it_reports_no_queue_so_none_is_known():
    async with looking("ollama", {"GET /api/ps": fixture("ollama/ps_busy.json")}) as (look, _):
        observed = (await look()).observed
    assert (observed.running, observed.waiting, observed.slots) == (None, None, None)


@pytest.mark.parametrize(
    ("ps", "count", "vram"),
    [
        ("ps_loaded", 1, 0),
        ("ps_forever", 1, 0),
        ("ps_gpu", 1, None),
        ("ps_split", 1, 17179869184),
        ("ps_two", 2, 8112340992),
    ],
)
async def test_vram_is_what_size_vram_says(ps, count, vram):
    listed = msgspec.json.decode((FIXTURES / f"ollama/{ps}.json").read_bytes())["models"]
    expected = sum(model["size_vram"] for model in listed) if vram is None else vram
    async with looking("ollama", {"GET /api/ps": fixture(f"ollama/{ps}.json")}) as (look, _):
        observed = (await look()).observed
    assert (observed.loaded_model_count, observed.vram_used_bytes) == (count, expected)


async def test_a_loaded_model_has_its_context_and_its_vram():
    routes = {"GET /api/ps": fixture("ollama/ps_two.json"), "GET /api/tags": two_tags()}
    async with looking("ollama", routes) as (look, _):
        assets = {asset.asset_id: asset for asset in (await look()).assets}
    assert (assets["qwen3:8b"].loaded, assets["qwen3:8b"].vram_bytes) == (True, 8112340992)
    assert (assets["qwen3:8b"].context_size, assets["qwen3:8b"].quantization) == (16384, "Q4_K_M")


async def test_a_wrong_vram_field_is_unknown_and_not_zero():
    wrong = (FIXTURES / "ollama/ps_two.json").read_bytes().replace(b"size_vram", b"size_in_vram")
    async with looking("ollama", {"GET /api/ps": Answer(wrong)}) as (look, _):
        assert (await look()).observed.vram_used_bytes is None


async def test_cloud_models_are_no_local_capacity_and_are_never_shown():
    async with looking("ollama", {"GET /api/tags": fixture("ollama/tags_cloud.json")}) as (look, server):
        state = await look()
    assert [asset.asset_id for asset in state.assets] == ["tiny:latest"]
    assert "gpt-oss:120b-cloud" in state.notes[0]
    assert [body for _, body in server.bodies] == [{"model": "tiny:latest"}]


async def test_a_model_is_shown_once_and_not_at_every_look():
    async with looking("ollama") as (look, server):
        state = await look()
        again = await look(state)
    assert again.assets == state.assets
    assert len(server.bodies) == 1


async def test_capabilities_decide_what_a_model_can_be_asked_for():
    show = b'{"capabilities": ["embedding"]}'
    tags = (FIXTURES / "ollama/tags.json").read_bytes().replace(b'"completion"', b'"embedding"')
    async with looking("ollama", {"GET /api/tags": Answer(tags), "POST /api/show": Answer(show)}) as (look, _):
        state = await look()
    assert state.assets[0].operations == (Operation.EMBEDDINGS,)
    assert state.operations == (Operation.EMBEDDINGS,)


async def test_without_ps_what_is_loaded_is_unknown():
    async with looking("ollama", {"GET /api/ps": Answer("", 500)}) as (look, _):
        state = await look()
    assert state.assets[0].loaded is None
    assert (state.observed.loaded_model_count, state.observed.vram_used_bytes) == (None, None)


async def test_a_model_that_cannot_be_shown_is_still_there():
    async with looking("ollama", {"POST /api/show": fixture("ollama/error_404_show.json", 404)}) as (look, _):
        state = await look()
    assert state.assets[0].asset_id == "tiny:latest"
    assert state.assets[0].context_size is None


async def test_load_and_unload_are_empty_generates():
    async with ordering("ollama", {"POST /api/generate": fixture("ollama/load.json")}) as (http, server):
        await Ollama().load(http, "tiny", 4096)
        await Ollama().unload(http, "tiny")
    assert [body for _, body in server.bodies] == [
        {"model": "tiny", "stream": False, "options": {"num_ctx": 4096}},
        {"model": "tiny", "stream": False, "keep_alive": 0},
    ]


async def test_a_model_that_cannot_generate_is_loaded_by_an_empty_embed():
    routes = {
        "POST /api/generate": Answer('{"error": "\\"bge-m3\\" does not support generate"}', 400),
        "POST /api/embed": Answer('{"model": "bge-m3", "embeddings": []}'),
    }
    async with ordering("ollama", routes) as (http, server):
        await Ollama().load(http, "bge-m3")
    assert server.bodies[-1] == ("POST /api/embed", {"model": "bge-m3", "stream": False, "input": []})


async def test_a_refused_load_says_what_ollama_said():
    async with ordering("ollama", {"POST /api/generate": fixture("ollama/error_404.json", 404)}) as (http, _):
        with pytest.raises(UpstreamError, match="model 'no-such-model' not found"):
            await Ollama().load(http, "no-such-model")
