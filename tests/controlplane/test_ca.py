"""Renewal, and the CA: one of our own, yours, or none."""

from __future__ import annotations

import asyncio
import time

import msgspec
import pytest

from controlplane import app
from controlplane.ca import embedded
from geniehive import joining, tls
from geniehive.dial import control_channel
from geniehive.errors import ConfigError, GenieHiveError
from geniehive.identity import Identity, Kind
from geniehive.v1 import access_service_pb2 as pb
from geniehive.v1 import (
    access_service_pb2_grpc,
)
from tests.controlplane.members import ATLAS, hello, hosts, refusal
from tests.controlplane.tls_edge import Maker, secure, tls_config


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
