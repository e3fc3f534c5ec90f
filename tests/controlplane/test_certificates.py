"""Certificates that are wrong, on either side, and connections that are too old."""

from __future__ import annotations

import asyncio
import ssl

import grpc
import grpc.aio
import pytest

from geniehive import tls, tls_trouble
from geniehive.dial import control_channel
from geniehive.identity import CONTROL_NAME
from tests.controlplane.edge import until
from tests.controlplane.members import ATLAS, hosts, refusal, silence
from tests.controlplane.tls_edge import Maker, secure, tls_config


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
            error = await refusal(silence(channel))
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
