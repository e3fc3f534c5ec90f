from __future__ import annotations

import grpc
import pytest

from controlplane.auth import Gatekeeper, Need, need_of
from controlplane.server import Servicers
from geniehive.errors import PermissionDenied, Unauthenticated
from geniehive.v1 import (
    access_service_pb2,
    benchmark_service_pb2,
    cluster_service_pb2,
    node_service_pb2,
    routing_service_pb2,
)
from tests.controlplane.edge import ADMIN_KEY, NODE_KEY, config_for, running

NODE = {"x-geniehive-node-key": NODE_KEY}
ADMIN = {"x-api-key": ADMIN_KEY}
BEARER = {"authorization": f"Bearer {ADMIN_KEY}"}
CHANGES = {"LoadModel", "UnloadModel", "DrainHost", "ResumeHost", "ProbeService", "ForgetHost", "IngestSamples"}


def methods(*modules):
    for module in modules:
        for service in module.DESCRIPTOR.services_by_name.values():
            for method in service.methods:
                yield service.name, method.name, f"/{service.full_name}/{method.name}"


OURS = [
    *methods(node_service_pb2, routing_service_pb2, cluster_service_pb2, benchmark_service_pb2, access_service_pb2),
    ("ServerReflection", "ServerReflectionInfo", "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"),
    ("ServerReflection", "ServerReflectionInfo", "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"),
    ("Health", "Check", "/grpc.health.v1.Health/Check"),
    ("Channelz", "GetServers", "/grpc.channelz.v1.Channelz/GetServers"),
]


def expected(service, method):
    if service in {"NodeService", "RoutingService"}:
        return Need.NODE
    if service == "Health":
        return Need.NOTHING
    return Need.ADMIN if service in {"AccessService", "Channelz"} or method in CHANGES else Need.READ


def allowed(gatekeeper, method, metadata):
    try:
        gatekeeper.check(method, metadata)
    except (Unauthenticated, PermissionDenied) as error:
        return type(error)
    return True


@pytest.mark.parametrize(("service", "method", "full"), OURS)
def test_the_whole_matrix_of_methods_and_keys(service, method, full):
    need = expected(service, method)
    assert need_of(full) is need
    both = Gatekeeper([NODE_KEY], [ADMIN_KEY])
    no, denied = Unauthenticated, PermissionDenied
    want = {
        Need.NOTHING: (True, True, True, True),
        Need.NODE: (no, True, denied, denied),
        Need.READ: (no, True, True, True),
        Need.ADMIN: (no, denied, True, True),
    }[need]
    assert tuple(allowed(both, full, sent) for sent in ({}, NODE, ADMIN, BEARER)) == want
    assert allowed(Gatekeeper([], []), full, {}) is True


def test_a_method_that_the_table_does_not_name_needs_an_admin_key():
    assert need_of("/geniehive.v2.Anything/Do") is Need.ADMIN
    assert need_of("nonsense") is Need.ADMIN


@pytest.mark.parametrize(
    "sent",
    [
        {"x-api-key": "' OR 1=1 --"},
        {"x-api-key": "x" * 1_000_000},
        {"authorization": "Bearer ключ\udcff"},
        {"authorization": ADMIN_KEY},
        {"authorization": f"Basic {ADMIN_KEY}"},
        {"authorization": b"Bearer \xff"},
        {"x-api-key": NODE_KEY},
        {"x-api-key": ""},
        {"x-geniehive-node-key": ADMIN_KEY},
        {"x-geniehive-node-key-bin": b"\x00"},
    ],
)
def test_a_wrong_key_is_unauthenticated(sent):
    with pytest.raises(Unauthenticated, match="send a node key in metadata 'x-geniehive-node-key'"):
        Gatekeeper([NODE_KEY], [ADMIN_KEY]).check("/geniehive.v1.ClusterService/ListHosts", sent)


def test_the_message_names_the_metadata_key_and_never_a_key():
    gatekeeper = Gatekeeper([NODE_KEY], [ADMIN_KEY])
    with pytest.raises(Unauthenticated, match="no key: send a node key in metadata 'x-geniehive-node-key'"):
        gatekeeper.check("/geniehive.v1.NodeService/Connect", {})
    with pytest.raises(PermissionDenied, match="send an admin key in metadata 'x-api-key' or") as raised:
        gatekeeper.check("/geniehive.v1.ClusterService/DrainHost", NODE)
    assert NODE_KEY not in raised.value.message


def test_a_side_without_keys():
    nodes_only = Gatekeeper([NODE_KEY], [])
    with pytest.raises(PermissionDenied, match=r"set auth\.admin_api_keys"):
        nodes_only.check("/geniehive.v1.ClusterService/DrainHost", NODE)
    admins_only = Gatekeeper([], [ADMIN_KEY])
    assert admins_only.check("/geniehive.v1.NodeService/Connect", {}) == ""
    with pytest.raises(Unauthenticated):
        admins_only.check("/geniehive.v1.ClusterService/ListHosts", {})


def test_the_key_that_opened_is_named_but_not_told():
    gatekeeper = Gatekeeper(["one", NODE_KEY], [ADMIN_KEY])
    assert gatekeeper.check("/geniehive.v1.NodeService/Connect", NODE) == "node-2"
    assert gatekeeper.check("/geniehive.v1.ClusterService/ListHosts", NODE | ADMIN) == "admin-1"
    assert NODE_KEY not in repr(vars(gatekeeper)) + repr(vars(gatekeeper._node))


async def test_unary_and_stream_calls_are_refused_on_the_wire(tmp_path):
    assert set(Servicers.__dataclass_fields__) == {"node", "routing", "cluster", "benchmarks"}
    async with running(config_for(tmp_path, keys=True)) as control:
        served = [full for service, _, full in OURS if service != "AccessService"]
        for full in served:
            for make in ("unary_unary", "unary_stream", "stream_stream"):
                call = getattr(control.channel, make)(full)
                with pytest.raises(grpc.aio.AioRpcError) as raised:
                    await outcome(call, make)
                if "Health" in full:
                    assert raised.value.code() is not grpc.StatusCode.UNAUTHENTICATED
                else:
                    assert raised.value.code() is grpc.StatusCode.UNAUTHENTICATED, full
                    assert "send a" in raised.value.details()


async def outcome(call, make):
    if make == "unary_unary":
        return await call(b"\xff")
    stream = call(b"\xff") if make == "unary_stream" else call(iter([b"\xff"]))
    return [message async for message in stream]
