"""Joining a real control plane: who gets a certificate, by which token, and who does not."""

from __future__ import annotations

import asyncio
import logging
import stat
from pathlib import Path

import grpc
import grpc.aio
import pytest

from controlplane import app
from geniehive import joining, tls
from geniehive.dial import control_channel
from geniehive.errors import ConfigError, Conflict, InvalidRequest, PermissionDenied, Unauthenticated
from geniehive.identity import Kind
from geniehive.join_token import parse_join_token
from geniehive.v1 import access_service_pb2 as pb
from geniehive.v1 import (
    access_service_pb2_grpc,
)
from tests.controlplane.edge import until
from tests.controlplane.members import ATLAS, hello, refusal
from tests.controlplane.tls_edge import secure, tls_config


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
