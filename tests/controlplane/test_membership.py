"""What a certificate is good for: its own name, the methods of its kind, until it is removed."""

from __future__ import annotations

import logging
import sqlite3
import time

import grpc
import grpc.aio
import pytest

from controlplane.join_book import Member, MemberState, removed
from controlplane.join_desk import Members
from controlplane.server_tls import ServerTls, authority_of
from controlplane.store.join_store import JoinStore
from geniehive import joining, tls
from geniehive.dial import API_KEY, NODE_KEY, control_channel
from geniehive.errors import Unauthenticated
from geniehive.v1 import access_service_pb2 as pb
from geniehive.v1 import (
    access_service_pb2_grpc,
    cluster_service_pb2,
    cluster_service_pb2_grpc,
    node_service_pb2_grpc,
    routing_service_pb2,
    routing_service_pb2_grpc,
)
from geniehive.v1 import node_service_pb2 as node_pb
from tests.controlplane.edge import ADMIN_KEY
from tests.controlplane.edge import NODE_KEY as THE_NODE_KEY
from tests.controlplane.members import database_of, hello, hosts, refusal, silence, until_end
from tests.controlplane.tls_edge import secure, tls_config


async def test_a_node_speaks_of_its_own_host_alone(tmp_path, caplog):
    async with secure(tls_config(tmp_path)) as plane:
        async with control_channel([plane.address], await plane.member("node", "atlas")) as channel:
            with caplog.at_level(logging.WARNING):
                for _ in range(3):
                    error = await refusal(hello(channel, "borealis"))
                    assert error.code() is grpc.StatusCode.PERMISSION_DENIED
                    assert "certificate is for host atlas" in error.details()
        assert len([one for one in caplog.records if "speaks of host" in one.getMessage()]) == 1
        answer = await plane.access.ListMembers(pb.ListMembersRequest())
        assert answer.refused == 3
        assert not (await hosts(plane.channel)).hosts


async def test_a_node_changes_its_host_in_no_later_message(tmp_path):
    async with (
        secure(tls_config(tmp_path)) as plane,
        control_channel([plane.address], await plane.member("node", "atlas")) as channel,
    ):
        stream = node_service_pb2_grpc.NodeServiceStub(channel).Connect()
        first = node_pb.Hello(protocol_version=1)
        await stream.write(node_pb.NodeMessage(host_id="atlas", boot_epoch=1, hello=first))
        session_id = (await stream.read()).session_id
        await stream.write(
            node_pb.NodeMessage(host_id="borealis", session_id=session_id, heartbeat=node_pb.Heartbeat(sequence=1))
        )
        assert (await refusal(until_end(stream))).code() is grpc.StatusCode.PERMISSION_DENIED


async def test_a_gateway_goes_by_its_own_name_and_its_workers(tmp_path):
    async with (
        secure(tls_config(tmp_path)) as plane,
        control_channel([plane.address], await plane.member("gateway", "front")) as channel,
    ):
        stub = routing_service_pb2_grpc.RoutingServiceStub(channel)

        async def watch(name: str):
            greeting = routing_service_pb2.GatewayHello(protocol_version=1)
            stream = stub.Watch()
            await stream.write(routing_service_pb2.GatewayMessage(gateway_id=name, hello=greeting))
            if (message := await stream.read()) is grpc.aio.EOF:
                raise await refusal(stream)
            stream.cancel()
            return message

        assert (await watch("front")).HasField("snapshot")
        assert (await watch("front-2")).HasField("snapshot")
        for other in ("back", "front-x", "front-1-1"):
            assert (await refusal(watch(other))).code() is grpc.StatusCode.PERMISSION_DENIED


async def test_each_kind_of_certificate_opens_its_own_methods(tmp_path):
    """Reads are for all; node streams for hosts; orders for operators; tokens for admins."""
    drain = cluster_service_pb2.DrainHostRequest(host_id="nobody-there")
    expected = {
        "node": ("OK", "PERMISSION_DENIED", "PERMISSION_DENIED"),
        "gateway": ("OK", "PERMISSION_DENIED", "PERMISSION_DENIED"),
        "operator": ("OK", "NOT_FOUND", "PERMISSION_DENIED"),
        "admin": ("OK", "NOT_FOUND", "OK"),
    }
    async with secure(tls_config(tmp_path)) as plane:
        for kind, codes in expected.items():
            async with control_channel([plane.address], await plane.member(kind, f"the-{kind}")) as channel:
                cluster = cluster_service_pb2_grpc.ClusterServiceStub(channel)
                access = access_service_pb2_grpc.AccessServiceStub(channel)
                calls = (hosts(channel), cluster.DrainHost(drain), access.ListTokens(pb.ListTokensRequest()))
                found = []
                for call in calls:
                    try:
                        await call
                        found.append("OK")
                    except grpc.aio.AioRpcError as error:
                        found.append(error.code().name)
                assert tuple(found) == codes, kind
                if kind != "node":
                    error = await refusal(silence(channel))
                    assert error.code() is grpc.StatusCode.PERMISSION_DENIED
                    assert "geniehive node join" in error.details()


async def test_nobody_needs_a_key_and_node_keys_are_none(tmp_path):
    async with (
        secure(tls_config(tmp_path, keys=True)) as plane,
        control_channel([plane.address], tls.as_nobody(plane.admin.ca_pem)) as channel,
    ):
        assert (await refusal(hosts(channel))).code() is grpc.StatusCode.UNAUTHENTICATED
        error = await refusal(hosts(channel, **{NODE_KEY: THE_NODE_KEY}))
        assert error.code() is grpc.StatusCode.UNAUTHENTICATED
        error = await refusal(hosts(channel, **{API_KEY: "a-client-key"}))
        assert error.code() is grpc.StatusCode.UNAUTHENTICATED
        assert "not known here" in error.details()
        await hosts(channel, **{API_KEY: ADMIN_KEY})


async def test_one_who_is_removed_is_out_at_once_and_may_join_again(tmp_path):
    async with secure(tls_config(tmp_path)) as plane:
        credentials = await plane.member("node", "atlas")
        async with control_channel([plane.address], credentials) as channel:
            stream = node_service_pb2_grpc.NodeServiceStub(channel).Connect()
            first = node_pb.Hello(protocol_version=1)
            await stream.write(node_pb.NodeMessage(host_id="atlas", boot_epoch=1, hello=first))
            assert (await stream.read()).HasField("welcome")
            await plane.access.RemoveMember(pb.RemoveMemberRequest(name="atlas"))
            assert (await refusal(until_end(stream))).code() is grpc.StatusCode.PERMISSION_DENIED
            error = await refusal(hosts(channel))
            assert "was removed" in error.details()
            with pytest.raises(Unauthenticated, match="was removed"):
                await joining.renew(plane.address, credentials)
        fresh = await plane.member("node", "atlas")
        async with control_channel([plane.address], fresh) as channel:
            assert (await hello(channel, "atlas")).HasField("welcome")


async def test_who_renews_while_it_is_removed_gets_no_certificate(tmp_path, monkeypatch):
    async with secure(tls_config(tmp_path)) as plane:
        credentials = await plane.member("node", "atlas")
        store, calls = JoinStore.change, []

        async def change(self, kind, name, decide):
            calls.append(name)
            if len(calls) == 1:  # the renewal has been let in and waits for the database: the removal comes first
                await plane.access.RemoveMember(pb.RemoveMemberRequest(name="atlas"))
            return await store(self, kind, name, decide)

        monkeypatch.setattr(JoinStore, "change", change)
        with pytest.raises(Unauthenticated, match="was removed"):
            await joining.renew(plane.address, credentials)
        assert len(calls) == 2


async def test_a_removal_ends_streams_even_if_the_audit_log_cannot_be_written(tmp_path):
    async with secure(tls_config(tmp_path)) as plane:
        credentials = await plane.member("node", "atlas")
        async with control_channel([plane.address], credentials) as channel:
            stream = node_service_pb2_grpc.NodeServiceStub(channel).Connect()
            first = node_pb.Hello(protocol_version=1)
            await stream.write(node_pb.NodeMessage(host_id="atlas", boot_epoch=1, hello=first))
            assert (await stream.read()).HasField("welcome")
            with sqlite3.connect(database_of(plane)) as other:
                other.execute(
                    "CREATE TRIGGER full BEFORE INSERT ON audit_entries BEGIN SELECT RAISE(ABORT, 'disk is full'); END"
                )
            await refusal(plane.access.RemoveMember(pb.RemoveMemberRequest(name="atlas")))
            assert (await refusal(until_end(stream))).code() is grpc.StatusCode.PERMISSION_DENIED


def test_one_who_is_out_is_out_whatever_the_clock_was() -> None:
    member = Member(kind="host", name="atlas", state=MemberState.JOINED, since_ms=0, barred_before=100)
    out = removed(member, "atlas", 100_900)
    assert out.barred_before > 100  # a certificate from after the first removal, in the same second, is void too
    members = Members((out,))
    assert members.barred["host", "atlas"] > 2**60  # and one that was made while the clock was ahead


async def test_the_control_plane_makes_another_certificate_where_the_clock_was_set_back(tmp_path):
    now = [time.time() + 3600.0]
    config = tls_config(tmp_path).control
    tls_side = ServerTls(config, authority_of(config, now=now[0] - 7200), lambda: now[0])
    assert tls_side.fetch() is None
    now[0] -= 3600.0
    assert tls_side.fetch() is not None
    assert tls_side.leaf.not_before <= now[0]
