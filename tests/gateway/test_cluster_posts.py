"""Benchmarks and matches over HTTP, with a real control plane behind the gateway."""

from __future__ import annotations

import json

import grpc
import pytest

from geniehive.config import AuthConfig, RoutingConfig, WeightsConfig
from geniehive.resources import PromptPolicy, Role
from geniehive.v1 import benchmark_service_pb2 as benchmark_pb
from geniehive.v1 import benchmark_service_pb2_grpc, cluster_service_pb2_grpc
from geniehive.v1 import cluster_service_pb2 as cluster_pb
from tests.gateway.hive import ADMIN_KEY, CLIENT_KEY, NODE_KEY, hive, service, until

SAMPLE = {
    "workload": "chat.short_reasoning",
    "service_id": "atlas/one",
    "asset_id": "m",
    "measured_at_ms": 1_700_000_000_000,
    "requests": 10,
    "ttft_p50_seconds": 0.2,
    "quality": 0.9,
}
NOWHERE = "http://127.0.0.1:1"
MATCH = "/v1/cluster/routes/match"
BENCHMARKS = "/v1/cluster/benchmarks"


@pytest.fixture
async def cluster(tmp_path):
    async with hive(tmp_path, service("one", NOWHERE), service("two", NOWHERE)) as made:
        yield made


async def matched(cluster, **body):
    answer = await cluster.http.post(MATCH, json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()["data"]


async def test_a_report_is_stored_listed_and_counts_in_scores(cluster):
    posted = await cluster.http.post(BENCHMARKS, json={"samples": [SAMPLE, SAMPLE | {"sample_id": "mine"}]})
    assert posted.status_code == 200, posted.text
    assert posted.json()["sample_ids"][1] == "mine"
    listed = (await cluster.http.get(BENCHMARKS)).json()["data"]
    assert {each["sample_id"] for each in listed} == set(posted.json()["sample_ids"])
    assert {each["host_id"] for each in listed} == {"atlas"}

    async def best():
        found = await matched(cluster, workload="chat.short_reasoning", include_direct_services=True)
        return found if "workload_overlap" in found[0]["signals"] else None

    found = await until(best)
    assert [each["name"] for each in found] == ["atlas/one", "atlas/two"]
    assert found[0]["score"] > found[1]["score"]
    assert found[0]["signals"]["benchmark_quality"] == 0.9
    assert "benchmark chat.short_reasoning: 90% right, 2 runs" in found[0]["reasons"]
    assert found[0]["candidate"] == {
        "service_id": "atlas/one",
        "asset_id": "m",
        "host_id": "atlas",
        "role_id": None,
    }


async def test_gateway_and_control_plane_match_alike(cluster):
    await cluster.http.post(BENCHMARKS, json={"samples": [SAMPLE]})
    stub = cluster_service_pb2_grpc.ClusterServiceStub(cluster.channel)
    request = cluster_pb.MatchRoutesRequest(tasks=["short reasoning in chat"], include_direct_services=True)
    metadata = (("x-api-key", ADMIN_KEY),)

    async def alike():
        told = (await stub.MatchRoutes(request, metadata=metadata)).matches
        here = await matched(cluster, task="short reasoning in chat", include_direct_services=True)
        same = [(one.name, one.score) for one in told] == [(one["name"], one["score"]) for one in here]
        return told if same and "benchmark_quality" in told[0].signals else None

    told = await until(alike)
    assert told[0].candidate.score == told[0].score
    assert told[0].reasons


async def test_what_benchmarks_told_outlives_the_control_plane(tmp_path):
    async with hive(tmp_path, service("one", NOWHERE)) as first:
        await first.http.post(BENCHMARKS, json={"samples": [SAMPLE]})
    async with hive(tmp_path, service("one", NOWHERE)) as again:
        found = await matched(again, workload="chat.short_reasoning", include_direct_services=True)
        assert found[0]["signals"]["benchmark_runs"] == 1


@pytest.mark.parametrize(
    ("nonsense", "says"),
    [
        ({"quality": 7}, "quality is 7.0, not between 0 and 1"),
        ({"requests": 0}, "requests is 0"),
        ({"requests": -1}, "samples[1]"),
        ({"requests": 2**70}, "samples[1]"),
        ({"measured_at_ms": 2**62}, "not a past time"),
        ({"measured_at_ms": 2**80}, "samples[1]"),
        ({"tokens_per_second": 1e300}, "tokens_per_second is 1e+300"),
        ({"workload": ""}, "workload is empty"),
        ({"speed": 3}, "unknown field `speed`"),
        ({"quality": "good"}, "$.quality"),
    ],
)
async def test_nonsense_is_named_and_nothing_is_stored(cluster, nonsense, says):
    answer = await cluster.http.post(BENCHMARKS, json={"samples": [SAMPLE, SAMPLE | nonsense]})
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert says in error["message"]
    assert "samples[1]" in error["message"]
    assert (error["type"], error["param"]) == ("invalid_request_error", "samples")
    assert (await cluster.http.get(BENCHMARKS)).json()["data"] == []


@pytest.mark.parametrize("raw", [b"", b"nonsense", b"[]", b'{"samples": []}', b'{"samples": [NaN]}', b"[" * 5000])
async def test_what_is_no_report_is_a_400(cluster, raw):
    answer = await cluster.http.post(BENCHMARKS, content=raw, headers={"content-type": "application/json"})
    assert answer.status_code == 400
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}


@pytest.mark.parametrize(("key", "status"), [(CLIENT_KEY, 403), (NODE_KEY, 401), ("other", 401), (ADMIN_KEY, 200)])
async def test_only_an_operator_may_post_a_report(cluster, key, status):
    for headers in ({"authorization": f"Bearer {key}"}, {"x-api-key": key, "authorization": ""}):
        answer = await cluster.http.post(BENCHMARKS, json={"samples": [SAMPLE]}, headers=headers)
        assert answer.status_code == status, answer.text
        assert status != 403 or "'operator'" in answer.text  # the gateway's own refusal: nothing goes further


async def test_a_gateway_without_keys_cannot_lend_its_own_to_a_stranger(tmp_path):
    """The gateway is open for clients, but what needs more is for who has an admin key."""
    half_open = AuthConfig(node_api_keys=(NODE_KEY,), admin_api_keys=(ADMIN_KEY,))
    async with hive(tmp_path, service("one", NOWHERE), auth=half_open, key="") as made:
        refused = await made.http.post(BENCHMARKS, json={"samples": [SAMPLE]})
        assert refused.status_code == 401
        assert "admin key" in refused.json()["error"]["message"]
        taken = await made.http.post(BENCHMARKS, json={"samples": [SAMPLE]}, headers={"x-api-key": ADMIN_KEY})
        assert taken.status_code == 200


async def test_matches_name_the_field_at_fault(cluster):
    for body, says in (
        ({}, "tasks is empty"),
        ({"task": "x", "kind": "chatter"}, "$.kind"),
        ({"task": "x", "modality": "smell"}, "choose one of text, audio, image, vector"),
        ({"task": "x", "limit": 0}, "limit"),
        ({"task": "x", "taks": "y"}, "unknown field `taks`"),
        ({"task": "x", "kind": "chat", "operation": "speech"}, "kind and operation differ"),
        ({"tasks": ["x"] * 101}, "more than 100"),
    ):
        answer = await cluster.http.post(MATCH, json=body)
        assert answer.status_code == 400
        assert says in answer.json()["error"]["message"]
    assert (await cluster.http.get(MATCH)).status_code == 405


async def test_limit_kind_and_modality_narrow_matches(cluster):
    assert len(await matched(cluster, task="chat on atlas", include_direct_services=True)) == 2
    assert len(await matched(cluster, task="chat on atlas", include_direct_services=True, limit=1)) == 1
    assert await matched(cluster, task="chat on atlas") == []
    assert await matched(cluster, task="chat on atlas", include_direct_services=True, kind="image") == []
    assert len(await matched(cluster, tasks=["x", "atlas"], include_direct_services=True, modality="audio")) == 2


async def test_roles_are_matched_and_weights_are_the_configs(tmp_path):
    roles = tmp_path / "roles.yaml"
    role = Role(role_id="coder", description="reviews programs", prompt_policy=PromptPolicy())
    roles.write_text(json.dumps({"roles": [{"role_id": role.role_id, "description": role.description}]}))
    only_text = WeightsConfig(text=1, family=0, loaded=0, latency=0, throughput=0, queue=0, benchmark=0)
    routing = RoutingConfig(weights=only_text)
    async with hive(tmp_path, service("one", NOWHERE), roles_path=str(roles), routing=routing) as made:
        (found,) = await matched(made, task="review programs nightly")
        assert (found["kind"], found["name"]) == ("role", "coder")
        assert found["score"] == pytest.approx(2 / 3)
        assert found["candidate"]["role_id"] == "coder"


async def test_resolve_tells_reasons_and_signals_of_each_candidate(cluster):
    answer = await cluster.http.get("/v1/cluster/routes/resolve", params={"model": "m"})
    candidates = answer.json()["candidates"]
    assert [each["service_id"] for each in candidates] == ["atlas/one", "atlas/two"]
    assert candidates[0]["reasons"] == ["service is healthy", "model is loaded"]
    assert isinstance(candidates[0]["signals"], dict)


async def test_the_wire_takes_the_same_samples(cluster):
    stub = benchmark_service_pb2_grpc.BenchmarkServiceStub(cluster.channel)
    sample = benchmark_pb.BenchmarkSample(**SAMPLE, operation=1)
    request = benchmark_pb.IngestSamplesRequest(samples=[sample])
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await stub.IngestSamples(request, metadata=(("x-geniehive-node-key", NODE_KEY),))
    assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED
    await stub.IngestSamples(request, metadata=(("x-api-key", ADMIN_KEY),))
    assert len((await cluster.http.get(BENCHMARKS)).json()["data"]) == 1
