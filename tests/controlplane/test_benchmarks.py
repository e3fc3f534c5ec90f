from __future__ import annotations

import math

import grpc
import pytest

from geniehive.v1 import benchmark_service_pb2 as pb
from geniehive.v1 import benchmark_service_pb2_grpc, resources_pb2
from tests.controlplane.edge import Node, config_for, running

GOOD = {
    "workload": "chat.short",
    "service_id": "atlas/chat",
    "operation": resources_pb2.OPERATION_CHAT,
    "measured_at_ms": 1_700_000_000_000,
    "requests": 10,
    "ttft_p50_seconds": 0.2,
    "ttft_p95_seconds": 0.4,
    "quality": 1.0,
}


@pytest.fixture
async def control(tmp_path):
    async with running(config_for(tmp_path)) as control:
        yield control


@pytest.fixture
def benchmarks(control):
    return benchmark_service_pb2_grpc.BenchmarkServiceStub(control.channel)


async def ingest(benchmarks, *samples):
    request = pb.IngestSamplesRequest(samples=[pb.BenchmarkSample(**sample) for sample in samples])
    return list((await benchmarks.IngestSamples(request)).sample_ids)


async def listed(benchmarks, **wanted):
    return list((await benchmarks.ListSamples(pb.ListSamplesRequest(**wanted))).samples)


async def test_samples_are_kept_and_listed_newest_first(benchmarks):
    later = GOOD | {"measured_at_ms": GOOD["measured_at_ms"] + 1, "workload": "embed"}
    ids = await ingest(benchmarks, GOOD | {"sample_id": "one"}, later)
    assert ids[0] == "one"
    assert ids[1]
    assert [sample.sample_id for sample in await listed(benchmarks)] == [ids[1], "one"]
    assert [sample.sample_id for sample in await listed(benchmarks, workload="chat.short")] == ["one"]
    assert len(await listed(benchmarks, limit=1)) == 1
    kept = (await listed(benchmarks, service_id="atlas/chat", workload="chat.short"))[0]
    assert kept == pb.BenchmarkSample(**GOOD, sample_id="one")
    assert not kept.HasField("tokens_per_second")


async def test_a_repeat_changes_nothing(benchmarks):
    for requests in (10, 99):
        assert await ingest(benchmarks, GOOD | {"sample_id": "one", "requests": requests}) == ["one"]
    assert [sample.requests for sample in await listed(benchmarks)] == [10]


async def test_the_host_is_the_services_where_none_is_named(control, benchmarks):
    node = Node(control.channel)
    await node.hello()
    await ingest(benchmarks, GOOD)
    assert (await listed(benchmarks))[0].host_id == "atlas"
    node.close()


@pytest.mark.parametrize(
    ("nonsense", "says"),
    [
        ({"workload": ""}, "workload is empty"),
        ({"service_id": ""}, "service_id is empty"),
        ({"asset_id": "x" * 600}, "asset_id is longer"),
        ({"operation": 0}, "operation is unknown"),
        ({"operation": 77}, "operation is unknown"),
        ({"measured_at_ms": 0}, "measured_at_ms 0 is not"),
        ({"measured_at_ms": 2**62}, "is not a past time"),
        ({"measured_at_ms": -5}, "is not a past time"),
        ({"requests": 0}, "requests is 0"),
        ({"failures": 11}, "11 failures of 10 requests"),
        ({"quality": 1.01}, "quality is 1.01, not between 0 and 1"),
        ({"tokens_per_second": math.nan}, "tokens_per_second is nan"),
        ({"latency_p50_seconds": math.inf}, "latency_p50_seconds is inf"),
        ({"tpot_p50_seconds": -0.1}, "tpot_p50_seconds is -0.1"),
        ({"ttft_p50_seconds": 0.5}, "ttft_p50_seconds 0.5 is above ttft_p95_seconds 0.4"),
    ],
)
async def test_nonsense_is_named_and_nothing_is_stored(benchmarks, nonsense, says):
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await ingest(benchmarks, GOOD, GOOD | {"sample_id": "bad"} | nonsense)
    assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert raised.value.details().startswith("samples[1] ('bad'): ")
    assert says in raised.value.details()
    assert await listed(benchmarks) == []


async def test_too_many_samples_in_one_call_are_refused(benchmarks):
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await ingest(benchmarks, *[GOOD] * 1001)
    assert raised.value.details() == "1001 samples in one call: send at most 1000"
    assert len(await ingest(benchmarks, *[GOOD] * 1000)) == 1000
    assert await ingest(benchmarks) == []
