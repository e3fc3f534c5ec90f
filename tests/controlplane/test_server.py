from __future__ import annotations

import asyncio
import json
import socket

import grpc
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from grpc_health.v1 import health_pb2, health_pb2_grpc

from controlplane.server import check_address
from geniehive.config import ControlConfig
from geniehive.errors import ConfigError
from geniehive.v1 import benchmark_service_pb2, benchmark_service_pb2_grpc
from geniehive.v1 import cluster_service_pb2 as pb
from tests.controlplane.edge import ADMIN_KEY, NODE_KEY, Node, config_for, running

SERVICES = (
    "geniehive.v1.AccessService",
    "geniehive.v1.BenchmarkService",
    "geniehive.v1.ClusterService",
    "geniehive.v1.NodeService",
    "geniehive.v1.RoutingService",
    "grpc.channelz.v1.Channelz",
    "grpc.health.v1.Health",
    "grpc.reflection.v1.ServerReflection",
    "grpc.reflection.v1alpha.ServerReflection",
)


@pytest.fixture
def grpcurl(require_tool):
    program = require_tool("grpcurl")

    async def call(*arguments: str) -> tuple[int, str]:
        process = await asyncio.create_subprocess_exec(
            program,
            "-plaintext",
            *arguments,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        said, _ = await process.communicate()
        return process.returncode, said.decode()

    return call


@pytest.fixture
def health_protoset(tmp_path):
    """The health proto as a file: reflection needs a key, the health check does not."""
    file = FileDescriptorSet()
    health_pb2.DESCRIPTOR.CopyToProto(file.file.add())
    path = tmp_path / "health.protoset"
    path.write_bytes(file.SerializeToString())
    return str(path)


@pytest.mark.parametrize("keys", [(), ("-H", f"x-geniehive-node-key: {NODE_KEY}")], ids=["open", "node key"])
async def test_grpcurl_shows_the_cluster(tmp_path, grpcurl, keys):
    async with running(config_for(tmp_path, keys=bool(keys))) as control:
        at = control.address
        node = Node(control.channel)
        await node.hello()
        assert await grpcurl(*keys, at, "list") == (0, "\n".join(SERVICES) + "\n")
        code, said = await grpcurl(*keys, at, "describe", "geniehive.v1.Host")
        assert (code, "// Identity" in said or "string host_id = 1;" in said) == (0, True)
        for service in SERVICES:
            code, said = await grpcurl(*keys, at, "describe", service)
            assert (code, said.splitlines()[0]) == (0, f"{service} is a service:")
        code, said = await grpcurl(*keys, at, "geniehive.v1.ClusterService/ListHosts")
        assert json.loads(said)["hosts"][0]["host_id"] == "atlas"
        code, said = await grpcurl(*keys, at, "geniehive.v1.ClusterService/ListServices")
        assert json.loads(said)["services"][0]["assets"][0]["asset_id"] == "qwen3-8b"
        code, said = await grpcurl(*keys, at, "grpc.health.v1.Health/Check")
        assert json.loads(said) == {"status": "SERVING"}
        node.close()


async def test_grpcurl_without_a_key_is_told_which_to_send(tmp_path, grpcurl, health_protoset):
    async with running(config_for(tmp_path, keys=True)) as control:
        at = control.address
        for arguments in ([at, "list"], [at, "describe"], [at, "geniehive.v1.ClusterService/ListHosts"]):
            code, said = await grpcurl(*arguments)
            assert code != 0
            assert "send a node key in metadata 'x-geniehive-node-key', or an admin key or a token" in said
        code, said = await grpcurl("-protoset", health_protoset, at, "grpc.health.v1.Health/Check")
        assert json.loads(said) == {"status": "SERVING"}


async def test_channelz_is_for_admins(tmp_path, grpcurl):
    async with running(config_for(tmp_path, keys=True)) as control:
        call = (control.address, "grpc.channelz.v1.Channelz/GetServers")
        code, said = await grpcurl("-H", f"x-geniehive-node-key: {NODE_KEY}", *call)
        assert (code != 0, "PermissionDenied" in said) == (True, True)
        code, said = await grpcurl("-H", f"authorization: Bearer {ADMIN_KEY}", *call)
        assert json.loads(said)["server"]


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
async def test_both_reflections_answer(tmp_path, version):
    from grpc_reflection.v1alpha import reflection_pb2

    async with running(config_for(tmp_path)) as control:
        call = control.channel.stream_stream(
            f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
            request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
            response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
        )
        symbol = f"grpc.reflection.{version}.ServerReflection"
        requests = [
            reflection_pb2.ServerReflectionRequest(list_services="*"),
            reflection_pb2.ServerReflectionRequest(file_containing_symbol=symbol),
        ]
        listed, described = [answer async for answer in call(iter(requests))]
        assert tuple(each.name for each in listed.list_services_response.service) == SERVICES
        (file,) = described.file_descriptor_response.file_descriptor_proto
        assert f"grpc.reflection.{version}".encode() in file


async def test_health_knows_every_service_by_name(tmp_path):
    async with running(config_for(tmp_path)) as control:
        stub = health_pb2_grpc.HealthStub(control.channel)
        for service in ("", *SERVICES[:4]):
            answer = await stub.Check(health_pb2.HealthCheckRequest(service=service))
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await stub.Check(health_pb2.HealthCheckRequest(service="nobody"))
        assert raised.value.code() is grpc.StatusCode.NOT_FOUND


async def test_health_says_not_serving_while_it_drains(tmp_path):
    async with running(config_for(tmp_path)) as control:
        watch = health_pb2_grpc.HealthStub(control.channel).Watch(health_pb2.HealthCheckRequest())
        seen = [(await watch.read()).status]
        control.stop.set()
        seen.append((await watch.read()).status)
        watch.cancel()
    assert seen == [health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING]


async def test_a_message_over_the_limit_is_refused_and_the_next_one_answered(tmp_path):
    small = ControlConfig(listen="127.0.0.1:0", max_message_bytes=10_000)
    async with running(config_for(tmp_path, control=small)) as control:
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await control.cluster.GetHost(pb.GetHostRequest(host_id="x" * 20_000))
        assert raised.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert (await control.cluster.GetCluster(pb.GetClusterRequest())).epoch


async def test_a_client_may_ping_every_ten_seconds_without_a_call(tmp_path):
    # A server that minds answers pings with GOAWAY "too_many_pings"; it minds below the interval that it allows.
    from controlplane import server

    options = dict(server._options(1000))
    assert options["grpc.http2.min_recv_ping_interval_without_data_ms"] < 10_000
    assert options["grpc.keepalive_permit_without_calls"] == 1


@pytest.mark.parametrize(
    ("listen", "says"),
    [
        ("127.0.0.1", 'not of the form "host:port"'),
        (":8801", 'not of the form "host:port"'),
        ("127.0.0.1:http", 'not of the form "host:port"'),
        ("127.0.0.1:70000", 'not of the form "host:port"'),
        ("192.0.2.1:8801", "no interface of this machine has the address"),
        ("no-such-host.invalid:8801", "cannot listen on no-such-host.invalid:8801: "),
    ],
)
async def test_an_address_that_cannot_be_listened_on_says_why(listen, says):
    with pytest.raises(ConfigError, match=says) as raised:
        await check_address(listen)
    assert "\n" not in raised.value.message


async def test_a_port_in_use_is_named_with_the_way_out():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(ConfigError, match=f"cannot listen on {listen}: the port is in use: .*control.listen"):
            await check_address(listen)
    await check_address(listen)


async def test_what_is_not_ours_is_internal_without_a_trace(tmp_path, monkeypatch, caplog):
    from controlplane.benchmarks import BenchmarkService

    def broken(self, request, context):
        raise ZeroDivisionError("secret detail")

    monkeypatch.setattr(BenchmarkService, "ListSamples", broken)
    async with running(config_for(tmp_path)) as control:
        stub = benchmark_service_pb2_grpc.BenchmarkServiceStub(control.channel)
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await stub.ListSamples(benchmark_service_pb2.ListSamplesRequest())
    assert raised.value.code() is grpc.StatusCode.INTERNAL
    assert raised.value.details() == "the control plane failed to answer this; its log says why"
    assert "secret detail" in caplog.text
