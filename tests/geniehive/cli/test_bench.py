"""`geniehive bench` and `geniehive route match` against a whole cluster in this process."""

from __future__ import annotations

import asyncio
import json
import re

import pytest
from typer.testing import CliRunner

from geniehive.benchmarks.report import samples_in
from geniehive.cli.commands import app
from geniehive.errors import (
    ConfigError,
    GatewayUnreachable,
    InvalidRequest,
    NotFound,
    PermissionDenied,
    Unauthenticated,
)
from geniehive.resources import Asset, Operation
from tests.gateway.hive import ADMIN_KEY, CLIENT_KEY, engine, hive, service, until

ENVIRON = {"COLUMNS": "300", "NO_COLOR": "1"}


@pytest.fixture
async def upstream():
    async with engine() as made:
        yield made


@pytest.fixture
async def cluster(tmp_path, upstream):
    async with hive(tmp_path, service("one", upstream.url)) as made:
        yield made


async def geniehive(*arguments, key=ADMIN_KEY, **environ):
    """Run a subcommand in a thread, beside the cluster of this loop."""
    environ = ENVIRON | {"GENIEHIVE_API_KEY": key} | environ
    return await asyncio.to_thread(CliRunner().invoke, app, [*map(str, arguments)], env=environ)


async def bench(cluster, folder, *arguments, **options):
    report = folder / "report.json"
    result = await geniehive(
        "bench", "run", "m", "--gateway", cluster.url, "--report", report, *arguments, **options
    )  # fmt: skip
    return result, json.loads(report.read_text()) if report.exists() else None


async def test_a_run_measures_everything_that_the_model_can_do(cluster, upstream, tmp_path):
    result, report = await bench(cluster, tmp_path, key=CLIENT_KEY)
    assert result.exit_code == 0, result.output
    found = {each["workload"]: each for each in report["results"]}
    assert set(found) == {
        "chat.short_reasoning",
        "chat.concise_support",
        "chat.long_prompt",
        "chat.streaming",
        "embeddings.similarity",
        "transcription.short_clip",
    }
    reasoning = found["chat.short_reasoning"]
    assert (reasoning["requests"], reasoning["failures"], reasoning["quality"]) == (8, 0, 1.0)
    assert reasoning["services"] == {"atlas/one": 8}
    for name in ("ttft_seconds", "tpot_seconds", "latency_seconds", "tokens_per_second"):
        assert 0 < reasoning[name]["p50"] <= reasoning[name]["p95"]
    assert reasoning["ttft_seconds"]["p50"] < reasoning["latency_seconds"]["p50"]
    assert found["chat.concise_support"]["quality"] == 0
    assert found["embeddings.similarity"]["quality"] == 1.0
    assert found["transcription.short_clip"]["quality"] is None
    assert {each["service_id"] for each in report["samples"]} == {"atlas/one"}
    assert re.search(r"chat\.short_reasoning +8/8 +100% ", result.stdout)
    assert "atlas/one (8)" in result.stdout


async def test_warmup_is_asked_and_not_counted(cluster, upstream, tmp_path):
    _, report = await bench(cluster, tmp_path, "-w", "chat.streaming", "-n", 5, "--warmup", 2, "--concurrency", 3)
    assert [each["requests"] for each in report["results"]] == [5]
    assert len(upstream.seen) == 7


async def test_an_own_recording_is_judged_by_what_is_said_in_it(cluster, tmp_path):
    wav = tmp_path / "clip.wav"
    wav.write_bytes(b"RIFF")
    own = ("-w", "transcription.", "--audio", wav, "--transcript", "hello there world")
    _, report = await bench(cluster, tmp_path, *own)
    assert report["results"][0]["quality"] == pytest.approx(2 / 3)
    alone = await geniehive("bench", "run", "m", "--gateway", cluster.url, "--transcript", "x")
    assert isinstance(alone.exception, InvalidRequest)


async def test_run_ingest_match_is_one_way(cluster, tmp_path):
    """What was measured is stored, reaches the gateways, and counts in matches."""
    result, report = await bench(cluster, tmp_path, "-w", "chat.short_reasoning")
    assert result.exit_code == 0, result.output
    told = await geniehive("bench", "ingest", tmp_path / "report.json", "--gateway", cluster.url)
    assert told.stdout == "stored 1 sample\n"
    again = await geniehive("bench", "ingest", tmp_path / "report.json", "--gateway", cluster.url)
    assert again.exit_code == 0
    stored = (await cluster.http.get("/v1/cluster/benchmarks")).json()["data"]
    assert [each["sample_id"] for each in stored] == [each["sample_id"] for each in report["samples"]]

    async def match():
        asked = ("route", "match", "short reasoning", "--services", "--control", cluster.control)
        found = await geniehive(*asked, "-o", "json")
        return json.loads(found.stdout).get("matches", [])

    (found,) = await until(match, lambda matches: matches and "benchmark_quality" in matches[0]["signals"])
    assert found["name"] == "atlas/one"
    assert found["signals"]["benchmark_quality"] == 1.0
    table = await geniehive("route", "match", "short reasoning", "--services", "--control", cluster.control)
    assert re.search(
        r"1 +service +atlas/one +0\.\d{3} +atlas/one +m .*benchmark chat.short_reasoning: 100% right", table.stdout
    )
    resolved = await geniehive("route", "resolve", "m", "--control", cluster.control, "-o", "json")
    assert json.loads(resolved.stdout)["candidates"][0]["reasons"] == ["service is healthy", "model is loaded"]


async def test_run_can_ingest_by_itself(cluster, tmp_path):
    result, _ = await bench(cluster, tmp_path, "-w", "embeddings.", "--ingest")
    assert "stored 1 sample" in result.stdout
    assert len((await cluster.http.get("/v1/cluster/benchmarks")).json()["data"]) == 1


async def test_a_cut_stream_is_a_failure_and_is_named(cluster, upstream, tmp_path):
    upstream.cut = True
    result, report = await bench(cluster, tmp_path, "-w", "chat.streaming", "-n", 2, "--warmup", 0)
    (found,) = report["results"]
    assert (found["requests"], found["failures"]) == (2, 2)
    assert isinstance(result.exception, InvalidRequest)
    assert "every request failed: the stream broke" in result.exception.message
    assert [(each["failures"], each["quality"]) for each in report["samples"]] == [(2, None)]


async def test_failures_of_the_only_service_are_laid_at_its_door(cluster, upstream, tmp_path):
    upstream.failing = True
    _, report = await bench(cluster, tmp_path, "-w", "chat.streaming", "-n", 2, "--warmup", 0)
    assert [(each["service_id"], each["failures"]) for each in report["samples"]] == [("atlas/one", 2)]
    assert "out of luck" in next(iter(report["results"][0]["errors"])) or "50" in str(report["results"][0]["errors"])


async def test_a_model_is_only_asked_for_what_it_can_do(tmp_path, upstream):
    only = service("one", upstream.url, operations=(Operation.EMBEDDINGS,), assets=(Asset(asset_id="m"),))
    async with hive(tmp_path, only) as made:
        _, report = await bench(made, tmp_path)
        assert [each["workload"] for each in report["results"]] == ["embeddings.similarity"]
        asked, _ = await bench(made, tmp_path, "-w", "chat.streaming")
        assert asked.exception.message == "m cannot be asked for chat.streaming"


async def test_errors_say_what_to_do(cluster, tmp_path, unused_port):
    async def fails(kind, *arguments, key=ADMIN_KEY):
        result = await geniehive("bench", *arguments, key=key)
        assert isinstance(result.exception, kind), result.exception
        return result.exception.message

    at = ("--gateway", cluster.url)
    nobody = ("--gateway", f"http://127.0.0.1:{unused_port}")
    assert "no workload 'chat'" in await fails(NotFound, "run", "m", "-w", "chat", *at)
    assert "'nix' does not exist" in await fails(NotFound, "run", "nix", *at)
    assert "cannot reach the gateway" in await fails(GatewayUnreachable, "run", "m", *nobody)
    assert "401" in await fails(Unauthenticated, "run", "m", *at, key="wrong")
    assert "is no URL" in await fails(ConfigError, "run", "m", "--gateway", "http://a:b")
    assert "cannot be read" in await fails(ConfigError, "ingest", tmp_path / "none.json", *at)
    report = tmp_path / "bad.json"
    report.write_text("nonsense")
    assert "the report is not JSON" in await fails(InvalidRequest, "ingest", report, *at)
    sample = {"workload": "w", "service_id": "s", "measured_at_ms": 1, "requests": 0}
    report.write_text(json.dumps({"samples": [sample]}))
    assert "requests is 0" in await fails(InvalidRequest, "ingest", report, *at)
    assert "operator" in await fails(PermissionDenied, "ingest", report, *at, key=CLIENT_KEY)
    assert "cannot reach the gateway" in await fails(GatewayUnreachable, "ingest", report, *nobody)


async def test_the_report_can_go_to_standard_output(cluster):
    result = await geniehive("bench", "run", "m", "-w", "embeddings.", "--gateway", cluster.url, "--report", "-")
    assert len(samples_in(result.stdout.encode())) == 1


async def test_workloads_are_listed():
    found = await geniehive("bench", "workloads")
    assert "chat.concise_support" in found.stdout
    listed = await geniehive("bench", "workloads", "-o", "json")
    assert json.loads(listed.stdout)[0]["cases"] == 8


async def test_a_task_that_nothing_suits_is_told(cluster):
    found = await geniehive("route", "match", "xyzzy", "--control", cluster.control)
    assert (found.exit_code, found.stdout) == (0, "")
    assert "--services" in found.stderr
