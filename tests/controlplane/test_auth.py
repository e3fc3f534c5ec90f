"""Who may call what over gRPC: the whole matrix of methods and keys, made from the descriptors."""

from __future__ import annotations

import asyncio
import logging

import grpc
import pytest

from controlplane.auth import Gatekeeper
from controlplane.methods import Need, named, need_of
from controlplane.server import Servicers
from controlplane.token_book import TokenBook
from geniehive.errors import PermissionDenied, Unauthenticated
from geniehive.resources import AccessKey
from geniehive.tokens import sha256
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
CLIENT_KEY = "client-key-of-the-tests"
NOW = 1_000.0
OPERATIONS = {"LoadModel", "UnloadModel", "DrainHost", "ResumeHost", "ProbeService", "IngestSamples"}
LOAD = "/geniehive.v1.ClusterService/LoadModel"
LIST = "/geniehive.v1.ClusterService/ListHosts"


def token(name, *scopes, **fields):
    return AccessKey(name=name, secret_sha256=sha256(f"gh_{name}"), scopes=scopes, **fields)


TOKENS = TokenBook(
    [
        token("asks", "inference"),
        token("reads", "read"),
        token("operates", "operator"),
        token("rules", "admin"),
        token("both", "inference", "read"),
        token("late", "admin", expires_at=999),
        token("next-version", "everything"),
    ]
)


def gatekeeper(nodes=(NODE_KEY,), admins=(ADMIN_KEY,), tokens=TOKENS):
    return Gatekeeper(nodes, admins, [CLIENT_KEY], tokens=tokens, now=lambda: NOW)


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
# Who is let in, by need; everybody else who has a good key is denied, and everybody else is told to bring one.
CREDENTIALS = {
    "a node key": NODE,
    "an admin key": ADMIN,
    "an admin key as bearer": {"authorization": f"Bearer {ADMIN_KEY}"},
    "a client key": {"x-api-key": CLIENT_KEY},
    "an inference token": {"x-api-key": "gh_asks"},
    "a read token": {"authorization": "Bearer gh_reads"},
    "an inference and read token": {"x-api-key": "gh_both"},
    "an operator token": {"x-api-key": "gh_operates"},
    "an admin token": {"x-api-key": "gh_rules"},
    "a token of a newer version": {"x-api-key": "gh_next-version"},
}
ADMINS = {"an admin key", "an admin key as bearer", "an admin token"}
OPERATORS = ADMINS | {"an operator token"}
READERS = OPERATORS | {"a node key", "a read token", "an inference and read token"}
LET_IN = {
    Need.NOTHING: set(CREDENTIALS),
    Need.HOST: {"a node key"},
    Need.GATEWAY: {"a node key"},
    Need.MEMBER: set(),
    Need.READ: READERS,
    Need.OPERATOR: OPERATORS,
    Need.ADMIN: ADMINS,
}
STRANGERS = ({}, {"x-api-key": "gh_nobody"}, {"authorization": "Bearer gh_late"}, {"x-api-key": "x" * 1_000_000})


def expected(service, method):
    if service == "Health" or method in {"Join", "GetTrustBundle"}:
        return Need.NOTHING
    for kind, need in (("NodeService", Need.HOST), ("RoutingService", Need.GATEWAY), ("RenewCertificate", Need.MEMBER)):
        if kind in {service, method}:
            return need
    if method == "ListMembers":
        return Need.READ
    if method in OPERATIONS:
        return Need.OPERATOR
    return Need.ADMIN if service in {"AccessService", "Channelz"} or method == "ForgetHost" else Need.READ


def allowed(keeper, method, metadata):
    try:
        keeper.check(method, metadata)
    except (Unauthenticated, PermissionDenied) as error:
        return type(error)
    return True


@pytest.mark.parametrize(("service", "method", "full"), OURS)
def test_the_whole_matrix_of_methods_and_keys(service, method, full):
    need = expected(service, method)
    assert need_of(full) is need
    keeper = gatekeeper()
    for who, sent in CREDENTIALS.items():
        assert allowed(keeper, full, sent) is (True if who in LET_IN[need] else PermissionDenied), who
    for sent in STRANGERS:
        assert allowed(keeper, full, sent) is (True if need is Need.NOTHING else Unauthenticated), sent
    assert allowed(Gatekeeper([], []), full, {}) is True


@pytest.mark.parametrize("full", [full for service, _, full in OURS if service != "Channelz"])
def test_every_method_of_ours_is_named_in_the_table(full):
    assert named(full) is not None, f"say in controlplane/methods.py who may call {full}"


def test_a_method_that_the_table_does_not_name_is_for_administrators():
    assert need_of("/geniehive.v2.Anything/Do") is Need.ADMIN
    assert need_of("nonsense") is Need.ADMIN


@pytest.mark.parametrize(
    "sent",
    [
        {"x-api-key": "' OR 1=1 --"},
        {"authorization": "Bearer ключ\udcff"},
        {"authorization": ADMIN_KEY},
        {"authorization": f"Basic {ADMIN_KEY}"},
        {"authorization": b"Bearer \xff"},
        {"x-api-key": NODE_KEY},
        {"x-api-key": ""},
        {"x-api-key": sha256("gh_rules").hex()},
        {"x-api-key": ADMIN_KEY, "authorization": "Bearer gh_rules"},
        {"x-geniehive-node-key": ADMIN_KEY},
        {"x-geniehive-node-key": "gh_rules"},
        {"x-geniehive-node-key-bin": b"\x00"},
    ],
)
def test_a_wrong_key_is_unauthenticated(sent):
    with pytest.raises(Unauthenticated, match="send a node key in metadata 'x-geniehive-node-key'"):
        gatekeeper().check(LIST, sent)


def test_the_same_key_in_both_places_is_one_key():
    assert gatekeeper().check(LOAD, ADMIN | {"authorization": f"Bearer {ADMIN_KEY}"}) == "admin-1"


def test_the_message_names_the_metadata_key_and_never_a_key():
    keeper = gatekeeper()
    with pytest.raises(Unauthenticated, match="no key: send a node key in metadata 'x-geniehive-node-key'"):
        keeper.check("/geniehive.v1.NodeService/Connect", {})
    with pytest.raises(PermissionDenied, match="scope operator, in metadata 'x-api-key' or") as raised:
        keeper.check("/geniehive.v1.ClusterService/DrainHost", NODE)
    assert NODE_KEY not in raised.value.message
    with pytest.raises(Unauthenticated, match="the token has expired: make another"):
        keeper.check(LIST, {"x-api-key": "gh_late"})


def test_a_side_without_keys():
    nodes_only = gatekeeper(admins=(), tokens=TokenBook())
    with pytest.raises(PermissionDenied, match=r"set auth\.admin_api_keys"):
        nodes_only.check("/geniehive.v1.ClusterService/DrainHost", NODE)
    admins_only = gatekeeper(nodes=())
    assert admins_only.check("/geniehive.v1.NodeService/Connect", {}) == ""
    with pytest.raises(Unauthenticated):
        admins_only.check(LIST, {})


def test_the_first_administrators_token_closes_what_was_open_and_revoking_it_does_not_open_it_again():
    book = TokenBook([token("asks", "inference")])
    keeper = Gatekeeper([], [], tokens=book, now=lambda: NOW)
    assert allowed(keeper, LOAD, {}) is True  # an inference token opens nothing here, and closes nothing
    gone = token("rules", "admin", revoked_at=900)
    closed = Gatekeeper([], [], tokens=TokenBook([gone]), now=lambda: NOW)
    assert allowed(closed, LOAD, {}) is Unauthenticated
    assert allowed(closed, LOAD, {"x-api-key": "gh_rules"}) is Unauthenticated
    assert allowed(closed, "/geniehive.v1.NodeService/Connect", {}) is True  # nodes have keys of their own


def test_the_key_that_opened_is_named_but_not_told():
    keeper = Gatekeeper(["one", NODE_KEY], [ADMIN_KEY], tokens=TOKENS, now=lambda: NOW)
    assert keeper.check("/geniehive.v1.NodeService/Connect", NODE) == "node-2"
    assert keeper.check(LIST, NODE | ADMIN) == "admin-1"
    assert keeper.check(LIST, NODE | {"x-api-key": "gh_reads"}) == "reads"
    assert keeper.check(LIST, NODE | {"x-api-key": "gh_nobody"}) == "node-2"
    assert NODE_KEY not in repr(vars(keeper)) + repr(vars(keeper._node))


def test_refusals_are_said_once_each_and_all_counted(caplog):
    keeper = gatekeeper()
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            for sent in ({}, NODE, {"x-api-key": "gh_asks"}, {"x-api-key": "gh_nobody"}, {"x-api-key": "gh_late"}):
                allowed(keeper, LOAD, sent)
    assert keeper.refusals.counts == {"no_key": 3, "wrong_key": 6, "unknown_key": 3, "expired_key": 3}
    assert len(caplog.records) == 5
    assert "node-1" in caplog.text
    assert "asks" in caplog.text
    assert "gh_" not in caplog.text


def test_a_scanner_cannot_fill_the_log(caplog):
    keeper = gatekeeper()
    for number in range(3000):
        allowed(keeper, f"/x/\x1b[31m{number}", {})
    assert keeper.refusals.counts["no_key"] == 3000
    assert len(caplog.records) == 1000
    assert "\x1b" not in caplog.text


async def test_unary_and_stream_calls_are_refused_on_the_wire(tmp_path):
    assert set(Servicers.__dataclass_fields__) == {"node", "routing", "cluster", "benchmarks", "access"}
    async with running(config_for(tmp_path, keys=True)) as control:
        for _, _, full in OURS:
            for make in ("unary_unary", "unary_stream", "stream_stream"):
                call = getattr(control.channel, make)(full)
                with pytest.raises(grpc.aio.AioRpcError) as raised:
                    await outcome(call, make)
                if need_of(full) is Need.NOTHING:
                    assert raised.value.code() is not grpc.StatusCode.UNAUTHENTICATED
                else:
                    assert raised.value.code() is grpc.StatusCode.UNAUTHENTICATED, full
                    assert "send a" in raised.value.details()
        answer = await control.cluster.GetCluster(
            cluster_service_pb2.GetClusterRequest(), metadata=(("x-api-key", ADMIN_KEY),)
        )
        assert answer.refused_calls["no_key"] > len(OURS)


async def outcome(call, make):
    async with asyncio.timeout(10):
        if make == "unary_unary":
            return await call(b"\xff")
        stream = call(b"\xff") if make == "unary_stream" else call(iter([b"\xff"]))
        return [message async for message in stream]
