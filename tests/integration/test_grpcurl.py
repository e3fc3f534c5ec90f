"""The control plane as grpcurl sees it: reflection, reads, health, and what each key opens."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable

import grpc
import pytest
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from geniehive.dial import API_KEY, NODE_KEY
from tests.engine_fixture import LlamaServer
from tests.integration.cluster import Cluster, Json
from tests.integration.daemons import clean_environ

NODE = ("-H", f"{NODE_KEY}: node-1")
ADMIN = ("-H", f"{API_KEY}: admin-1")
BEARER = ("-H", "authorization: Bearer admin-1")
SERVICES = {
    "geniehive.v1.AccessService",
    "geniehive.v1.BenchmarkService",
    "geniehive.v1.ClusterService",
    "geniehive.v1.NodeService",
    "geniehive.v1.RoutingService",
    "grpc.health.v1.Health",
}
Grpcurl = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def locked(locked_cluster: Cluster) -> Cluster:
    return locked_cluster


@pytest.fixture(scope="module")
def grpcurl(require_tool: Callable[[str], str]) -> Grpcurl:
    program = require_tool("grpcurl")

    def call(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [program, "-plaintext", "-max-time", "20", *arguments], env=clean_environ(), capture_output=True,
            text=True, timeout=30, check=False,
        )  # fmt: skip

    return call


def answer_of(done: subprocess.CompletedProcess[str]) -> Json:
    """The JSON of an answer, with the names of the protos: grpcurl writes host_id or hostId, as its version likes."""
    text = said(done)
    return json.loads(re.sub(r'"(\w+)":', lambda name: re.sub(r"[A-Z]", lambda c: "_" + c[0].lower(), name[0]), text))


def said(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_without_keys_everything_is_open(open_cluster: Cluster, grpcurl: Grpcurl) -> None:
    assert set(said(grpcurl(open_cluster.address, "list")).split()) >= SERVICES
    assert "rpc ListHosts" in said(grpcurl(open_cluster.address, "describe", "geniehive.v1.ClusterService"))
    (host,) = answer_of(grpcurl(open_cluster.address, "geniehive.v1.ClusterService/ListHosts"))["hosts"]
    assert host["host_id"] == "alpha"
    assert answer_of(grpcurl(open_cluster.address, "grpc.health.v1.Health/Check")) == {"status": "SERVING"}


@pytest.mark.parametrize("key", [NODE, ADMIN, BEARER], ids=["node", "admin", "bearer"])
def test_any_key_lists_and_describes(locked: Cluster, grpcurl: Grpcurl, key: tuple[str, str]) -> None:
    assert set(said(grpcurl(*key, locked.address, "list")).split()) >= SERVICES
    text = said(grpcurl(*key, locked.address, "describe", "geniehive.v1.ClusterService"))
    assert "rpc ListHosts" in text
    text = said(grpcurl(*key, locked.address, "describe", "geniehive.v1.Host"))
    assert "optional double heartbeat_age_seconds" in text


@pytest.mark.parametrize("key", [NODE, ADMIN, BEARER], ids=["node", "admin", "bearer"])
def test_any_key_reads_hosts_and_services(
    locked: Cluster, grpcurl: Grpcurl, llama_server: LlamaServer, key: tuple[str, str]
) -> None:
    (host,) = answer_of(grpcurl(*key, locked.address, "geniehive.v1.ClusterService/ListHosts"))["hosts"]
    assert host["host_id"] == "alpha"
    assert host["lease"] == "LEASE_STATE_UP"
    assert int(host["facts"]["ram_total_bytes"]) > 0
    answer = answer_of(grpcurl(*key, locked.address, "geniehive.v1.ClusterService/ListServices"))
    (found,) = answer["services"]
    assert found["endpoint"] == llama_server.base_url
    assert found["health"]["status"] == "HEALTH_STATUS_HEALTHY"
    assert [asset["asset_id"] for asset in found["assets"]] == [llama_server.model]


def test_arguments_of_a_call(locked: Cluster, grpcurl: Grpcurl, llama_server: LlamaServer) -> None:
    request = json.dumps({"model": llama_server.model, "operation": "OPERATION_CHAT"})
    answer = answer_of(grpcurl(*NODE, "-d", request, locked.address, "geniehive.v1.ClusterService/ResolveRoute"))
    assert [candidate["service_id"] for candidate in answer["candidates"]] == ["alpha/chat/llama"]


@pytest.mark.parametrize("name", ["", "geniehive.v1.ClusterService", "geniehive.v1.NodeService"])
def test_health_needs_no_key(locked: Cluster, grpcurl: Grpcurl, name: str) -> None:
    # -proto is not needed with reflection, but reflection needs a key; health must not: so the request is built here.
    stub = locked.channel.unary_unary("/grpc.health.v1.Health/Check")
    request = bytes([0x0A, len(name)]) + name.encode() if name else b""
    assert stub(request, timeout=20) == b"\x08\x01"
    done = grpcurl(*NODE, "-d", json.dumps({"service": name}), locked.address, "grpc.health.v1.Health/Check")
    assert answer_of(done) == {"status": "SERVING"}


@pytest.mark.parametrize("arguments", [("list",), ("geniehive.v1.ClusterService/ListHosts",)])
def test_without_a_key_the_answer_says_which_metadata_to_send(
    locked: Cluster, grpcurl: Grpcurl, arguments: tuple[str, ...]
) -> None:
    done = grpcurl(locked.address, *arguments)
    assert done.returncode != 0
    assert NODE_KEY in done.stderr
    assert API_KEY in done.stderr
    assert done.stdout == ""


def test_wrong_key_is_unauthenticated(locked: Cluster, grpcurl: Grpcurl) -> None:
    for header in (f"{NODE_KEY}: wrong", f"{API_KEY}: wrong", f"{NODE_KEY}: admin-1"):
        done = grpcurl("-H", header, locked.address, "list")
        assert done.returncode != 0, header
        assert "nauthenticated" in done.stderr.replace("Unauthenticated", "nauthenticated"), done.stderr


def test_a_clients_key_opens_nothing_over_grpc(locked: Cluster, grpcurl: Grpcurl) -> None:
    done = grpcurl("-H", f"{API_KEY}: client-1", locked.address, "list")
    assert done.returncode != 0
    assert "PermissionDenied desc = this key is for something else" in done.stderr


def test_an_administrator_lists_tokens_and_the_audit_log(locked: Cluster, grpcurl: Grpcurl) -> None:
    made = answer_of(
        grpcurl(*BEARER, "-d", '{"key": {"name": "curl"}}', locked.address, "geniehive.v1.AccessService/CreateToken")
    )
    assert made["secret"].startswith("gh_")
    assert made["key"]["scopes"] == ["inference"]
    listed = answer_of(grpcurl(*ADMIN, locked.address, "geniehive.v1.AccessService/ListTokens"))
    assert "curl" in [key["name"] for key in listed["keys"]]
    revoke = ("-d", '{"name": "curl"}', locked.address, "geniehive.v1.AccessService/RevokeToken")
    assert grpcurl(*NODE, *revoke).returncode != 0
    assert answer_of(grpcurl(*ADMIN, *revoke)) == {}
    newest = answer_of(grpcurl(*ADMIN, locked.address, "geniehive.v1.AccessService/ListAuditEntries"))["entries"][0]
    assert (newest["actor"], newest["action"], newest["subject"]) == ("admin-1", "token.revoke", "curl")


@pytest.mark.parametrize("method", ["DrainHost", "ForgetHost"])
def test_node_key_may_not_give_orders(locked: Cluster, grpcurl: Grpcurl, method: str) -> None:
    order = ("-d", '{"host_id": "alpha"}', locked.address, f"geniehive.v1.ClusterService/{method}")
    done = grpcurl(*NODE, *order)
    assert done.returncode != 0
    assert "PermissionDenied" in done.stderr
    assert API_KEY in done.stderr
    assert locked.host("alpha")["availability"] == "available"


def test_admin_key_drains_and_resumes_a_host(locked: Cluster, grpcurl: Grpcurl, llama_server: LlamaServer) -> None:
    order = ("-d", '{"host_id": "alpha"}', locked.address)
    said(grpcurl(*ADMIN, *order, "geniehive.v1.ClusterService/DrainHost"))
    locked.wait_for(lambda: locked.chat(llama_server.model).status_code == 503)
    assert "draining" in locked.chat(llama_server.model).text
    said(grpcurl(*ADMIN, *order, "geniehive.v1.ClusterService/ResumeHost"))
    locked.wait_for(lambda: locked.chat(llama_server.model).status_code == 200)


def test_channelz_is_for_admins(locked: Cluster, grpcurl: Grpcurl) -> None:
    call = (locked.address, "grpc.channelz.v1.Channelz/GetServers")
    assert "server" in answer_of(grpcurl(*ADMIN, *call))
    assert "PermissionDenied" in grpcurl(*NODE, *call).stderr


def test_reflection_serves_v1alpha_too(locked: Cluster) -> None:
    stub = reflection_pb2_grpc.ServerReflectionStub(locked.channel)
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    (answer,) = stub.ServerReflectionInfo(iter([request]), metadata=[(NODE_KEY, "node-1")], timeout=20)
    assert {one.name for one in answer.list_services_response.service} >= SERVICES
    with pytest.raises(grpc.RpcError) as caught:
        list(stub.ServerReflectionInfo(iter([request]), timeout=20))
    assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
