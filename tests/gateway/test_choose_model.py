"""`GET /v1/models` alone is enough to choose a model for a cheap subtask: the example of docs/models.md does it."""

from __future__ import annotations

import asyncio
import importlib.util
import sys
from pathlib import Path

import httpx
import pytest
from msgspec.structs import replace

from geniehive.resources import Asset, Health, HealthStatus, Observed, Operation
from tests.gateway.harness import gateway, role, service

EXAMPLE = Path(__file__).parents[2] / "examples" / "choose_model.py"
GB = 1 << 30


@pytest.fixture(scope="module")
def example():
    spec = importlib.util.spec_from_file_location("choose_model", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def model(number, name, *, ttft=0.2, speed=50.0, busy=0, operations=(Operation.CHAT,), **fields):
    made = service(number, "http://127.0.0.1:1", operations=operations)
    asset = Asset(**{"asset_id": name, "loaded": True, "context_size": 8192, **fields})
    seen = Observed(ttft_seconds=ttft, tokens_per_second=speed, running=busy)
    return replace(made, assets=(asset,), observed=seen)


async def listed(*services, **more):
    async with gateway(*services, **more) as gw, httpx.AsyncClient(trust_env=False) as http:
        return (await http.get(gw.url + "/v1/models")).raise_for_status().json()["data"]


async def test_the_quick_one_is_chosen_and_a_busy_one_left(example):
    models = await listed(model(1, "large", ttft=2.0, speed=12.0), model(2, "small", speed=90.0))
    assert example.choose(models) == "small"
    models = await listed(model(1, "large", ttft=2.0, speed=12.0), model(2, "small", speed=90.0, busy=20))
    assert example.choose(models) == "large"


async def test_what_it_cannot_do_is_never_chosen(example):
    models = await listed(
        model(1, "vectors", operations=(Operation.EMBEDDINGS,)),
        model(2, "short", context_size=1024),
        replace(model(3, "sick"), health=Health(status=HealthStatus.UNHEALTHY)),
        model(4, "plain", ttft=9.0, capabilities=("vision",)),
        model(5, "tools", ttft=20.0, capabilities=("tools",)),
    )
    assert example.choose(models) == "plain"
    assert example.choose(models, prompt_tokens=100) == "short"
    assert example.choose(models, operation="embeddings") == "vectors"
    assert example.choose(models, tools=True) == "tools"
    assert example.choose(models, prompt_tokens=50_000) is None


async def test_a_loaded_model_is_chosen_before_one_that_has_to_be_loaded(example):
    models = await listed(model(1, "cold", speed=90.0, loaded=False), model(2, "warm", ttft=4.0))
    assert example.choose(models) == "warm"


async def test_of_equals_the_smaller_is_chosen(example):
    models = await listed(model(1, "a", vram_bytes=20 * GB), model(2, "b", vram_bytes=5 * GB))
    assert example.choose(models) == "b"


async def test_a_role_is_an_entry_like_any_other(example):
    models = await listed(model(1, "m", ttft=None, speed=None), roles=[role("titles", assets=["m"])])
    assert {each["id"] for each in models} == {"m", "titles"}
    assert example.choose([each for each in models if each["geniehive"]["kind"] == "role"]) == "titles"


async def test_the_example_runs_as_its_text_says(example):
    async with gateway(model(1, "only"), keys=("k",)) as gw:
        process = await asyncio.create_subprocess_exec(
            sys.executable, str(EXAMPLE), gw.url, "k", stdout=asyncio.subprocess.PIPE
        )
        told, _ = await process.communicate()
    assert (told, process.returncode) == (b"only\n", 0)
