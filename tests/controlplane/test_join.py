"""Joining and mTLS against a real control plane: who gets a certificate, and what it is then good for."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import ssl
import stat
import time
from pathlib import Path

import grpc
import grpc.aio
import msgspec
import pytest

from controlplane import app
from controlplane.ca import embedded
from controlplane.join_book import Member, MemberState, removed
from controlplane.join_desk import Members
from controlplane.server_tls import ServerTls, authority_of
from controlplane.store.join_store import JoinStore
from geniehive import joining, tls, tls_trouble
from geniehive.dial import API_KEY, NODE_KEY, control_channel
from geniehive.errors import ConfigError, Conflict, GenieHiveError, InvalidRequest, PermissionDenied, Unauthenticated
from geniehive.identity import CONTROL_NAME, Identity, Kind
from geniehive.join_token import parse_join_token
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
from tests.controlplane.edge import ADMIN_KEY, until
from tests.controlplane.edge import NODE_KEY as THE_NODE_KEY
from tests.controlplane.tls_edge import Maker, secure, tls_config

ATLAS = Identity(Kind.HOST, "atlas")


async def refusal(call) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await call
    return raised.value


def hosts(channel, **metadata: str):
    stub = cluster_service_pb2_grpc.ClusterServiceStub(channel)
    return stub.ListHosts(cluster_service_pb2.ListHostsRequest(), metadata=tuple(metadata.items()), timeout=20)


async def hello(channel, host_id: str) -> node_pb.ControlMessage:
    """The answer to a node's Hello."""
    stream = node_service_pb2_grpc.NodeServiceStub(channel).Connect()
    await stream.write(node_pb.NodeMessage(host_id=host_id, boot_epoch=1, hello=node_pb.Hello(protocol_version=1)))
    async with asyncio.timeout(20):
        message = await stream.read()
    if message is grpc.aio.EOF:
        raise await refusal(stream)
    return message


def database_of(plane) -> Path:
    """The control plane's database."""
    (found,) = plane.folder.parent.glob("*.sqlite3")
    return found


async def until_end(stream) -> None:
    async with asyncio.timeout(20):
        while await stream.read() is not grpc.aio.EOF:
            pass


# --- joining ---


async def test_a_token_is_exchanged_for_a_certificate_of_the_host(tmp_path):
    async with secure(tls_config(tmp_path)) as plane:
        credentials, joined = await plane.join(await plane.token(), "atlas")
        assert joined.name == "atlas"
        assert credentials.leaf.identity == ATLAS
        async with control_channel([plane.address], credentials) as channel:
            assert (await hello(channel, "atlas")).HasField("welcome")
        (member,) = (await plane.access.ListMembers(pb.ListMembersRequest())).members
        assert (member.name, member.kind, member.state) == ("atlas", "node", pb.MEMBER_STATE_JOINED)
        entries = (await plane.access.ListAuditEntries(pb.ListAuditEntriesRequest())).entries
        assert [(entry.actor, entry.action) for entry in entries] == [
            ("node atlas", "member.join"),
            ("admin local", "join_token.create"),
        ]


async def test_without_a_name_the_host_proposes_one(tmp_path):
    async with secure(tls_config(tmp_path)) as plane:
        assert (await plane.join(await plane.token()))[1].name == "some-host"
        assert (await plane.join(await plane.token(name="atlas")))[1].name == "atlas"


async def test_a_token_works_once(tmp_path):
    async with secure(tls_config(tmp_path)) as plane:
        token = await plane.token()
        await plane.join(token, "atlas")
        with pytest.raises(Unauthenticated, match="used already, by atlas: each works once"):
            await plane.join(token, "borealis")


async def test_of_many_with_one_token_one_gets_in(tmp_path):
    async with secure(tls_config(tmp_path)) as plane:
        token = await plane.token()
        tries = [plane.join(token, f"host-{number}") for number in range(8)]
        outcomes = await asyncio.gather(*tries, return_exceptions=True)
        assert sum(isinstance(outcome, Unauthenticated) for outcome in outcomes) == 7


async def test_the_same_request_again_gets_its_answer_again(tmp_path):
    async with secure(tls_config(tmp_path)) as plane:
        key = tls.new_key()
        request = pb.JoinRequest(
            join_token=await plane.token(), certificate_request=tls.certificate_request(key), name="atlas"
        )
        async with control_channel([plane.address], tls.as_nobody(plane.admin.ca_pem)) as channel:
            stub = access_service_pb2_grpc.AccessServiceStub(channel)
            first, second = await stub.Join(request), await stub.Join(request)
        assert first.name == second.name == "atlas"
        assert second.certificate_chain_pem


async def test_a_token_for_another_kind_is_refused_and_stays_good(tmp_path):
    async with secure(tls_config(tmp_path)) as plane:
        token = parse_join_token(await plane.token("gateway", "front"))

        def as_one_of(*kinds):
            return joining.Application(address=plane.address, token=token, name="", kinds=frozenset(kinds))

        with pytest.raises(InvalidRequest, match="for a gateway: paste the line as it was printed"):
            await joining.join(as_one_of(Kind.HOST), lambda _: None)
        _, joined = await joining.join(as_one_of(Kind.GATEWAY), lambda _: None)
        assert joined.name == "front"


async def test_a_token_expires(tmp_path, monkeypatch):
    clock = {"ahead_ms": 0}
    real = app.SystemClock.unix_ms
    monkeypatch.setattr(app.SystemClock, "unix_ms", lambda self: real(self) + clock["ahead_ms"])
    async with secure(tls_config(tmp_path)) as plane:
        token = await plane.token(ttl=60)
        clock["ahead_ms"] = 61_000
        with pytest.raises(Unauthenticated, match=r"expired.*geniehive token create --join"):
            await plane.join(token, "atlas")


async def test_a_token_of_another_cluster_is_not_even_sent(tmp_path):
    async with secure(tls_config(tmp_path / "one")) as one, secure(tls_config(tmp_path / "two")) as two:
        with pytest.raises(PermissionDenied, match="its CA is another one; nothing was sent"):
            await one.join(await two.token(), "atlas")
        assert not (await one.access.ListMembers(pb.ListMembersRequest())).refused


async def test_a_wrong_secret_is_not_known(tmp_path, caplog):
    async with secure(tls_config(tmp_path)) as plane:
        token = parse_join_token(await plane.token())
        wrong = str(token._replace(secret="x" * 32))
        with caplog.at_level(logging.WARNING):
            for _ in range(3):
                with pytest.raises(Unauthenticated, match="not known here"):
                    await plane.join(wrong, "atlas")
        said = [record for record in caplog.records if "not known here" in record.getMessage()]
        assert len(said) == 1
        assert (await plane.access.ListMembers(pb.ListMembersRequest())).refused == 3
        assert (await plane.join(str(token), "atlas"))[1].name == "atlas"


async def test_a_plain_port_is_told_apart(tmp_path):
    async with secure(tls_config(tmp_path)) as plane:
        server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        wish = joining.Application(
            address=f"127.0.0.1:{port}", token=parse_join_token(await plane.token()), name="a", kinds=frozenset(Kind)
        )
        with pytest.raises(ConfigError, match="does not speak TLS"):
            await joining.join(wish, lambda _: None)
        server.close()


async def test_a_name_is_taken_by_who_has_it(tmp_path):
    async with secure(tls_config(tmp_path)) as plane:
        await plane.join(await plane.token(), "atlas")
        with pytest.raises(Conflict, match=r"has joined already.*--host-id atlas"):
            await plane.join(await plane.token(), "atlas")
        assert (await plane.join(await plane.token(name="atlas")))[1].name == "atlas"
        with pytest.raises(InvalidRequest, match="for host atlas, not borealis"):
            await plane.join(await plane.token(name="atlas"), "borealis")


async def test_approval_is_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr(joining, "POLL_S", 0.02)
    async with secure(tls_config(tmp_path, join_approval=True)) as plane:
        waiting = asyncio.get_running_loop().create_future()
        joining_host = asyncio.create_task(plane.join(await plane.token(), "atlas", waiting.set_result))
        async with asyncio.timeout(20):
            assert await waiting == "atlas"
        with pytest.raises(grpc.aio.AioRpcError, match="nobody waits under the name borealis"):
            await plane.access.ApproveNode(pb.ApproveNodeRequest(host_id="borealis"))
        assert not joining_host.done()
        await plane.access.ApproveNode(pb.ApproveNodeRequest(host_id="atlas"))
        credentials, _ = await joining_host
        assert credentials.leaf.identity == ATLAS


async def test_who_waits_for_approval_waits_through_a_restart_of_the_control_plane(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(joining, "POLL_S", 0.02)
    waiting = asyncio.get_running_loop().create_future()
    async with secure(tls_config(tmp_path, join_approval=True)) as plane:
        joining_host = asyncio.create_task(plane.join(await plane.token(), "atlas", waiting.set_result))
        async with asyncio.timeout(20):
            await waiting
    await until(lambda: asyncio.sleep(0, "cannot reach" in caplog.text or joining_host.done()))
    async with secure(tls_config(tmp_path, join_approval=True, listen=plane.address)) as plane:
        await plane.access.ApproveNode(pb.ApproveNodeRequest(host_id="atlas"))
        credentials, _ = await joining_host
        assert credentials.leaf.identity == ATLAS


async def test_what_joined_is_still_known_after_a_restart(tmp_path):
    config = tls_config(tmp_path)
    async with secure(config) as plane:
        credentials = await plane.member("node", "atlas")
        ca = plane.admin.ca_pem
    async with secure(config) as plane:
        assert plane.admin.ca_pem == ca
        async with control_channel([plane.address], credentials) as channel:
            assert (await hello(channel, "atlas")).HasField("welcome")
        with pytest.raises(Conflict):
            await plane.join(await plane.token(), "atlas")


async def test_secrets_are_the_owners_alone(tmp_path):
    async with secure(tls_config(tmp_path)) as plane:
        token = parse_join_token(await plane.token())
        for path in ("ca.key", "admin-identity/identity.pem"):
            assert stat.S_IMODE((plane.folder / path).stat().st_mode) == 0o600
        database = b"".join(path.read_bytes() for path in Path(tmp_path).glob("hive.sqlite3*"))
        assert token.token_id.encode() in database
        assert token.secret.encode() not in database


async def test_without_tls_nobody_joins(tmp_path):
    config = tls_config(tmp_path, tls="auto")
    stop, address = asyncio.Event(), asyncio.get_running_loop().create_future()
    task = asyncio.create_task(app.run(config, stop=stop, ready=address.set_result))
    async with control_channel([await address]) as channel:
        stub = access_service_pb2_grpc.AccessServiceStub(channel)
        error = await refusal(stub.CreateJoinToken(pb.CreateJoinTokenRequest()))
        assert "set control.tls: on" in error.details()
    stop.set()
    await task
    assert not Path(config.control.state_dir).exists()


# --- what a certificate is good for ---


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
                    error = await refusal(hello(channel, f"the-{kind}"))
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


# --- certificates that are wrong (faults 4.14) ---


@pytest.mark.parametrize("wrong", ["expired", "another CA", "no name", "a name of another cluster", "nobody signed it"])
async def test_a_wrong_certificate_is_refused_with_its_reason(tmp_path, wrong):
    async with secure(tls_config(tmp_path)) as plane:
        own, ca = Maker(plane.folder), plane.admin.ca_pem
        credentials, words = {
            "expired": lambda: (own.credentials(ATLAS, days=-1), "certificate of host atlas expired on .*join again"),
            "another CA": lambda: (Maker().credentials(ATLAS, ca_pem=ca), "does not take our certificate.*join again"),
            "no name": lambda: (own.credentials(), r"names no host, gateway or operator .*SAN"),
            "a name of another cluster": lambda: (own.credentials("spiffe://other/host/atlas"), "names no host"),
            "nobody signed it": lambda: (signed_by_nobody(ca), "does not take our certificate"),
        }[wrong]()
        async with control_channel([plane.address], credentials) as channel:
            error = await refusal(hello(channel, "atlas"))
        if error.code() is grpc.StatusCode.UNAVAILABLE:
            said = await asyncio.to_thread(tls_trouble.why, plane.address, credentials)
        else:
            assert error.code() is grpc.StatusCode.UNAUTHENTICATED
            said = error.details()
        assert said is not None
        with pytest.raises(AssertionError, match=words):
            raise AssertionError(said)
        assert not (await hosts(plane.channel)).hosts


def signed_by_nobody(ca_pem: bytes) -> tls.Credentials:
    """Nobody's key is everybody's: what it signs must be worth nothing."""
    from cryptography import x509
    from cryptography.hazmat.primitives import serialization

    maker = Maker()
    maker.key = serialization.load_pem_private_key(tls.nobody_key(), None)
    maker.certificate = x509.load_pem_x509_certificate(tls.NOBODY_CERTIFICATE)
    return maker.credentials(ATLAS, ca_pem=ca_pem)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ("expired", "control plane at .* has expired"),
        ("names", "is not for the name control.geniehive.internal .*control_plane.server_name"),
        ("another CA", "another CA than the one that this program trusts"),
    ],
)
async def test_a_wrong_certificate_of_the_control_plane_is_named(tmp_path, wrong, words):
    ca, other = Maker(), Maker()
    names = ("other.example",) if wrong == "names" else (CONTROL_NAME,)
    maker = other if wrong == "another CA" else ca
    key, chain = maker.server(*names, days=-1 if wrong == "expired" else 1)
    credentials = grpc.ssl_server_credentials([(key, chain)], ca.pem, require_client_auth=True)
    server = grpc.aio.server()
    port = server.add_secure_port("127.0.0.1:0", credentials)
    await server.start()
    mine = ca.credentials(ATLAS)
    async with control_channel([f"127.0.0.1:{port}"], mine) as channel:
        assert (await refusal(hosts(channel))).code() is grpc.StatusCode.UNAVAILABLE
    said = await asyncio.to_thread(tls_trouble.why, f"127.0.0.1:{port}", mine)
    await server.stop(0)
    with pytest.raises(AssertionError, match=words):
        raise AssertionError(said)


async def test_a_certificate_that_ends_while_its_connection_is_open_opens_nothing_more(tmp_path):
    async with (
        secure(tls_config(tmp_path, certificate_ttl_s=2)) as plane,
        control_channel([plane.address], await plane.member("node", "atlas")) as channel,
    ):
        await hosts(channel)

        async def refused() -> str:
            try:
                await hosts(channel)
            except grpc.aio.AioRpcError as error:
                return error.details() or ""
            return ""

        assert "has expired" in await until(refused)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")  # nobody should ask for it; this asks in vain
async def test_old_tls_is_refused(tmp_path, version):
    async with secure(tls_config(tmp_path)) as plane:
        context = tls_trouble.client_context(tls.as_nobody(plane.admin.ca_pem))
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        context.set_ciphers("ALL:@SECLEVEL=0")
        context.minimum_version = context.maximum_version = version
        host, _, port = plane.address.rpartition(":")
        with pytest.raises((ssl.SSLError, ConnectionResetError)):
            await asyncio.open_connection(host, int(port), ssl=context)
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_2
        _, writer = await asyncio.open_connection(host, int(port), ssl=context)
        assert writer.get_extra_info("cipher")[1] == "TLSv1.2"
        writer.close()


# --- renewal, and your own CA ---


async def test_a_renewed_certificate_has_a_fresh_key_and_the_same_name(tmp_path):
    async with secure(tls_config(tmp_path)) as plane:
        before = await plane.member("node", "atlas")
        after = await joining.renew(plane.address, before)
        assert after.leaf.identity == ATLAS
        assert after.key_pem != before.key_pem
        assert after.leaf.sha256 != before.leaf.sha256
        with pytest.raises(GenieHiveError):
            await joining.renew(plane.address, tls.as_nobody(before.ca_pem))


async def test_your_own_ca_signs_instead(tmp_path):
    ca = Maker()
    (tmp_path / "ca.pem").write_bytes(ca.pem)
    (tmp_path / "ca.key").write_bytes(tls.key_pem(ca.key))
    files = {"ca_cert_file": str(tmp_path / "ca.pem"), "ca_key_file": str(tmp_path / "ca.key")}
    async with secure(tls_config(tmp_path, **files)) as plane:
        credentials = await plane.member("node", "atlas")
        assert credentials.ca_pem == ca.pem
        async with control_channel([plane.address], ca.credentials(Identity(Kind.HOST, "made-by-hand"))) as channel:
            assert (await hello(channel, "made-by-hand")).HasField("welcome")


async def test_without_the_cas_key_all_certificates_are_the_operators(tmp_path):
    ca = Maker()
    key, chain = ca.server("hub.example")
    for name, data in (("ca.pem", ca.pem), ("server.key", key), ("server.pem", chain)):
        (tmp_path / name).write_bytes(data)
    files = {
        "ca_cert_file": str(tmp_path / "ca.pem"),
        "tls_cert_file": str(tmp_path / "server.pem"),
        "tls_key_file": str(tmp_path / "server.key"),
    }
    stop, address = asyncio.Event(), asyncio.get_running_loop().create_future()
    task = asyncio.create_task(app.run(tls_config(tmp_path, **files), stop=stop, ready=address.set_result))
    admin = msgspec.structs.replace(ca.credentials(Identity(Kind.ADMIN, "me")), server_name="hub.example")
    async with control_channel([await address], admin) as channel:
        assert not (await hosts(channel)).hosts
        access = access_service_pb2_grpc.AccessServiceStub(channel)
        error = await refusal(access.CreateJoinToken(pb.CreateJoinTokenRequest()))
        assert "control.ca_key_file is not set" in error.details()
    stop.set()
    await task


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"ca_cert_file": "missing.pem"}, "control.ca_cert_file: .*missing.pem cannot be read"),
        ({"ca_cert_file": "leaf.pem", "ca_key_file": "ca.key"}, "is not a CA's"),
        ({"ca_cert_file": "ca.pem", "ca_key_file": "other.key"}, "is not the key of"),
        ({"ca_cert_file": "ca.pem", "ca_key_file": "ca.pem"}, "no private key"),
    ],
)
async def test_files_that_cannot_be_a_ca_are_named(tmp_path, files, words):
    ca = Maker()
    (tmp_path / "ca.pem").write_bytes(ca.pem)
    (tmp_path / "ca.key").write_bytes(tls.key_pem(ca.key))
    (tmp_path / "other.key").write_bytes(tls.new_key())
    (tmp_path / "leaf.pem").write_bytes(ca.credentials(ATLAS).chain_pem)
    given = {key: str(tmp_path / name) for key, name in files.items()}
    with pytest.raises(ConfigError, match=words):
        await app.run(tls_config(tmp_path, **given), stop=asyncio.Event(), ready=lambda _: None)


@pytest.mark.parametrize("lost", ["ca.key", "ca.pem"])
def test_half_a_ca_is_not_made_whole_by_another(tmp_path, lost) -> None:
    embedded(tmp_path, now=time.time())
    (tmp_path / lost).unlink()
    with pytest.raises(ConfigError, match=f"{lost} is missing.*restore it from a backup"):
        embedded(tmp_path, now=time.time())
    assert not (tmp_path / lost).exists()


def test_nobodys_key_is_nobodys() -> None:
    from cryptography import x509
    from cryptography.hazmat.primitives import serialization

    key = serialization.load_pem_private_key(tls.nobody_key(), None)
    assert key.public_key() == x509.load_pem_x509_certificate(tls.NOBODY_CERTIFICATE).public_key()
