"""Tokens and the audit log over gRPC, against a whole control plane."""

from __future__ import annotations

import asyncio
import re
import sqlite3
import time

import grpc
import pytest

from geniehive import codec
from geniehive.dial import metadata
from geniehive.resources import Operation
from geniehive.tokens import sha256
from geniehive.v1 import access_service_pb2 as pb
from geniehive.v1 import (
    access_service_pb2_grpc,
    benchmark_service_pb2,
    benchmark_service_pb2_grpc,
    cluster_service_pb2,
    resources_pb2,
    routing_service_pb2,
    routing_service_pb2_grpc,
)
from tests.controlplane.edge import ADMIN_KEY, CHAT, NODE_KEY, Node, config_for, running, until

ADMIN = metadata(admin_key=ADMIN_KEY)


class Access:
    """An operator at the control plane, with one key or another."""

    def __init__(self, control, credentials=ADMIN):
        self.stub = access_service_pb2_grpc.AccessServiceStub(control.channel)
        self.cluster = control.cluster
        self.credentials = credentials

    async def create(self, name, *scopes, **fields):
        key = resources_pb2.AccessKey(name=name, scopes=scopes, **fields)
        return await self.stub.CreateToken(pb.CreateTokenRequest(key=key), metadata=self.credentials)

    async def revoke(self, name):
        await self.stub.RevokeToken(pb.RevokeTokenRequest(name=name), metadata=self.credentials)

    async def names(self, **wanted):
        answer = await self.stub.ListTokens(pb.ListTokensRequest(**wanted), metadata=self.credentials)
        return [key.name for key in answer.keys]

    async def audit(self, **wanted):
        request = pb.ListAuditEntriesRequest(**wanted)
        answer = await self.stub.ListAuditEntries(request, metadata=self.credentials)
        return [codec.audit_from_pb(entry) for entry in answer.entries]

    async def hosts(self):
        return await self.cluster.ListHosts(cluster_service_pb2.ListHostsRequest(), metadata=self.credentials)


@pytest.fixture
async def control(tmp_path):
    async with running(config_for(tmp_path, keys=True)) as control:
        yield control


@pytest.fixture
def access(control):
    return Access(control)


async def refused(call):
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await call
    return raised.value.code(), raised.value.details()


async def test_a_secret_is_told_once_and_opens_what_its_scope_says(control, access):
    made = await access.create("ops", "operator")
    assert re.fullmatch(r"gh_[0-9a-f]{48}", made.secret)
    assert (made.key.name, list(made.key.scopes), made.key.created_by) == ("ops", ["operator"], "admin-1")
    assert made.key.created_at == pytest.approx(time.time(), abs=60)
    assert made.key.secret_sha256 == b""
    listed = await access.stub.ListTokens(pb.ListTokensRequest(), metadata=ADMIN)
    assert [(key.name, key.secret_sha256) for key in listed.keys] == [("ops", b"")]
    mine = Access(control, metadata(admin_key=made.secret))
    await mine.hosts()
    code, details = await refused(mine.names())
    assert code is grpc.StatusCode.PERMISSION_DENIED
    assert "scope admin" in details
    await access.revoke("ops")
    assert (await refused(mine.hosts()))[0] is grpc.StatusCode.UNAUTHENTICATED
    assert await access.names() == []
    assert await access.names(include_revoked=True) == ["ops"]


async def test_an_administrators_token_makes_and_ends_others_in_its_own_name(control, access):
    root = Access(control, metadata(admin_key=(await access.create("root", "admin")).secret))
    made = await root.create("ci")
    assert list(made.key.scopes) == ["inference"]
    assert made.key.created_by == "root"
    await root.revoke("ci")
    assert [(e.actor, e.action, e.subject, e.outcome) for e in await root.audit()] == [
        ("root", "token.revoke", "ci", "ok"),
        ("root", "token.create", "ci", "ok"),
        ("admin-1", "token.create", "root", "ok"),
    ]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"name": ""}, "name: is empty"),
        ({"name": "x", "scopes": ["root"]}, "'root' is no scope"),
        ({"name": "x", "operations": [99]}, "operations: one of them is unknown here"),
        ({"name": "x", "expires_at": 5}, "expires_at: is over already"),
        ({"name": "x", "max_concurrency": 0}, "at least 1"),
    ],
)
async def test_a_token_that_makes_no_sense_is_refused_and_that_is_written_down(access, fields, words):
    call = access.stub.CreateToken(pb.CreateTokenRequest(key=resources_pb2.AccessKey(**fields)), metadata=ADMIN)
    code, details = await refused(call)
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert words in details
    assert await access.names() == []
    (entry,) = await access.audit()
    assert entry.action == "token.create"
    assert entry.outcome.startswith("invalid_request: ")


async def test_a_name_in_use_and_one_that_is_not_are_clear_errors(access):
    await access.create("laptop")
    code, details = await refused(access.create("laptop"))
    assert code is grpc.StatusCode.FAILED_PRECONDITION
    assert "there is a token 'laptop' already" in details
    code, details = await refused(access.revoke("labtop"))
    assert code is grpc.StatusCode.NOT_FOUND
    assert "did you mean 'laptop'" in details
    assert [entry.outcome.partition(":")[0] for entry in await access.audit()] == ["not_found", "conflict", "ok"]


async def test_what_a_caller_says_of_hash_and_history_does_not_count(access):
    key = resources_pb2.AccessKey(
        name="x", secret_sha256=sha256("known"), created_by="somebody", created_at=1, revoked_at=1
    )
    made = await access.stub.CreateToken(pb.CreateTokenRequest(key=key), metadata=ADMIN)
    assert made.key.created_by == "admin-1"
    assert not made.key.HasField("revoked_at")
    assert made.key.created_at > 1


async def test_tokens_and_limits_survive_a_restart_and_no_secret_is_in_the_file(tmp_path):
    async with running(config_for(tmp_path, keys=True)) as control:
        access = Access(control)
        made = await access.create(
            "limited", "inference", models=["m", "role"], operations=[1, 5], priority="batch", max_concurrency=2
        )
        gone = await access.create("gone", "read")
        await access.revoke("gone")
    for path in tmp_path.iterdir():
        content = path.read_bytes()
        assert made.secret.encode() not in content
        assert sha256(gone.secret).hex().encode() not in content or path.name.endswith("wal")
    async with running(config_for(tmp_path, keys=True)) as control:
        listed = await Access(control).stub.ListTokens(pb.ListTokensRequest(), metadata=ADMIN)
        (key,) = [codec.key_from_pb(key) for key in listed.keys]
        assert (key.models, key.operations) == (("m", "role"), (Operation.CHAT, Operation.TRANSCRIPTION))
        assert (key.priority, key.max_concurrency) == ("batch", 2)
        again = Access(control, metadata(admin_key=gone.secret))
        assert (await refused(again.hosts()))[0] is grpc.StatusCode.UNAUTHENTICATED


async def test_gateways_get_tokens_with_the_snapshot_and_changes_at_once(control, access):
    made = await access.create("first")
    stub = routing_service_pb2_grpc.RoutingServiceStub(control.channel)
    watch = stub.Watch(metadata=metadata(node_key=NODE_KEY))
    hello = routing_service_pb2.GatewayHello(protocol_version=1)
    await watch.write(routing_service_pb2.GatewayMessage(gateway_id="gw", hello=hello))
    snapshot = codec.snapshot_from_pb((await watch.read()).snapshot)
    assert snapshot.keys_required
    assert snapshot.access_keys["first"].secret_sha256 == sha256(made.secret)
    second = await access.create("second", models=["m"])
    async with asyncio.timeout(10):
        delta = codec.delta_from_pb((await watch.read()).delta)
        await access.revoke("first")
        after = codec.delta_from_pb((await watch.read()).delta)
    assert [(key.name, key.secret_sha256, key.models) for key in delta.access_keys] == [
        ("second", sha256(second.secret), ("m",))
    ]
    assert (after.access_keys, after.removed_access_keys, after.keys_required) == ((), ("first",), True)
    watch.cancel()


async def test_a_store_that_refuses_makes_no_token(tmp_path):
    async with running(config_for(tmp_path, keys=True)) as control:
        access = Access(control)
        await access.create("before")
        with sqlite3.connect(tmp_path / "hive.sqlite3") as other:
            other.execute("CREATE TRIGGER no_keys BEFORE INSERT ON access_keys BEGIN SELECT RAISE(ABORT, 'full'); END")
        code, _ = await refused(access.create("after"))
        assert code is grpc.StatusCode.UNAVAILABLE
        assert await access.names() == ["before"]
        newest, _ = await access.audit()
        assert newest.outcome.startswith("store_error: ")  # and no "ok" was written with what was not done


async def test_who_did_what_is_written_down_with_it(control, access):
    ops = Access(control, metadata(admin_key=(await access.create("ops", "operator")).secret))
    node = Node(control.channel)
    await node.hello()
    cluster, pbc = control.cluster, cluster_service_pb2
    mine = ops.credentials
    await cluster.DrainHost(pbc.DrainHostRequest(host_id="atlas"), metadata=mine)
    await cluster.ResumeHost(pbc.ResumeHostRequest(host_id="atlas"), metadata=mine)
    await cluster.LoadModel(pbc.LoadModelRequest(service_id=CHAT.service_id, asset_id="qwen3-8b"), metadata=mine)
    await cluster.UnloadModel(pbc.UnloadModelRequest(service_id=CHAT.service_id, asset_id="qwen3-8b"), metadata=mine)
    await cluster.ProbeService(pbc.ProbeServiceRequest(service_id=CHAT.service_id), metadata=mine)
    await refused(cluster.LoadModel(pbc.LoadModelRequest(service_id="nope", asset_id="m"), metadata=mine))
    await refused(cluster.ForgetHost(pbc.ForgetHostRequest(host_id="atlas"), metadata=ADMIN))
    samples = [
        benchmark_service_pb2.BenchmarkSample(workload="w", service_id="s", measured_at_ms=1, requests=1, operation=1),
    ]
    bench = benchmark_service_pb2_grpc.BenchmarkServiceStub(control.channel)
    await bench.IngestSamples(benchmark_service_pb2.IngestSamplesRequest(samples=samples), metadata=mine)
    entries = await access.audit()
    assert [(e.actor, e.action, e.subject, e.outcome.partition(":")[0]) for e in entries] == [
        ("ops", "benchmarks.ingest", "1 samples", "ok"),
        ("admin-1", "node.forget", "atlas", "conflict"),
        ("ops", "model.load", "nope m", "not_found"),
        ("ops", "service.probe", "atlas/chat", "ok"),
        ("ops", "model.unload", "atlas/chat qwen3-8b", "ok"),
        ("ops", "model.load", "atlas/chat qwen3-8b", "ok"),
        ("ops", "node.resume", "atlas", "ok"),
        ("ops", "node.drain", "atlas", "ok"),
        ("admin-1", "token.create", "ops", "ok"),
    ]
    node.close()


async def test_a_repeated_order_is_written_down_once(control, access):
    node = Node(control.channel)
    await node.hello()
    order = cluster_service_pb2.LoadModelRequest(service_id=CHAT.service_id, asset_id="qwen3-8b", command_id="c1")
    for _ in range(3):
        await control.cluster.LoadModel(order, metadata=ADMIN)
    assert [entry.action for entry in await access.audit()] == ["model.load"]
    node.close()


async def test_the_log_is_listed_page_by_page_and_filtered(access):
    for number in range(5):
        await access.create(f"k{number}")
    await access.revoke("k0")
    newest = await access.audit(limit=2)
    assert [entry.subject for entry in newest] == ["k0", "k4"]
    older = await access.audit(limit=2, before_entry_id=newest[-1].entry_id)
    assert [entry.subject for entry in older] == ["k3", "k2"]
    assert [entry.subject for entry in await access.audit(action="token.revoke")] == ["k0"]
    assert await access.audit(action="token%") == []
    assert await access.audit(actor="nobody") == []
    assert len(await access.audit(before_entry_id=2**64 - 1, limit=2**32 - 1)) == 6


async def test_a_watcher_loses_its_stream_when_its_token_is_revoked(control, access):
    reader = (await access.create("reader", "read")).secret
    other = (await access.create("another", "read")).secret
    calls = []
    for secret in (reader, other):
        call = control.cluster.WatchEvents(
            cluster_service_pb2.WatchEventsRequest(), metadata=metadata(admin_key=secret)
        )
        await call.initial_metadata()
        calls.append(call)
    await access.revoke("reader")
    async with asyncio.timeout(10):
        code, _ = await refused(calls[0].read())
        event = await calls[1].read()
    assert code is grpc.StatusCode.UNAUTHENTICATED
    assert (event.kind, event.message) == ("token.revoked", "token reader is revoked")
    calls[1].cancel()


async def test_a_watcher_loses_its_stream_when_its_token_expires(control, access):
    secret = (await access.create("brief", "read", expires_at=int(time.time()) + 3)).secret
    call = control.cluster.WatchEvents(cluster_service_pb2.WatchEventsRequest(), metadata=metadata(admin_key=secret))
    await call.initial_metadata()
    async with asyncio.timeout(20):
        code, details = await refused(call.read())
    assert (code, "has expired" in details) == (grpc.StatusCode.UNAUTHENTICATED, True)
    code, details = await refused(Access(control, metadata(admin_key=secret)).hosts())
    assert (code, "has expired" in details) == (grpc.StatusCode.UNAUTHENTICATED, True)


async def test_without_any_key_a_control_plane_on_loopback_is_open_until_there_is_an_administrators_token(tmp_path):
    async with running(config_for(tmp_path)) as control:
        nobody = Access(control, ())
        await nobody.create("asks")
        root = (await nobody.create("root", "admin")).secret
        code, _ = await refused(nobody.create("more"))
        assert code is grpc.StatusCode.UNAUTHENTICATED
        mine = Access(control, metadata(admin_key=root))
        assert [entry.actor for entry in await mine.audit()] == ["anonymous", "anonymous"]
        await mine.revoke("root")

        async def closed():
            return (await refused(nobody.names()))[0] is grpc.StatusCode.UNAUTHENTICATED

        assert await until(closed)
