"""A whole control plane with mTLS on a free port, and who joins it, for tests in one process."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc.aio
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from controlplane import app
from geniehive import joining, tls
from geniehive.config import Config, ControlConfig
from geniehive.dial import control_channel
from geniehive.identity import Identity, Kind
from geniehive.join_token import parse_join_token
from geniehive.membership import Joined, Membership
from geniehive.tls import Credentials
from geniehive.v1 import access_service_pb2 as pb
from geniehive.v1 import access_service_pb2_grpc, cluster_service_pb2_grpc
from tests.controlplane.edge import DEADLINE_S, config_for

EVERY = frozenset(Kind) - {Kind.CONTROL}


def tls_config(folder: Path, *, keys: bool = False, **control) -> Config:
    given = {"listen": "127.0.0.1:0", "tls": "on", "state_dir": str(folder / "state")} | control
    return config_for(folder, keys=keys, control=ControlConfig(**given))


@dataclass
class Secure:
    """A running control plane, and its administrator's channel."""

    address: str
    folder: Path
    admin: Credentials
    channel: grpc.aio.Channel

    @property
    def access(self):
        return access_service_pb2_grpc.AccessServiceStub(self.channel)

    @property
    def cluster(self):
        return cluster_service_pb2_grpc.ClusterServiceStub(self.channel)

    async def token(self, kind: str = "node", name: str = "", ttl: int = 0) -> str:
        request = pb.CreateJoinTokenRequest(kind=kind, host_id=name, ttl_seconds=ttl)
        return (await self.access.CreateJoinToken(request)).join_token

    async def join(self, token: str, name: str = "", waiting=lambda _: None) -> tuple[Credentials, Joined]:
        wish = joining.Application(
            address=self.address, token=parse_join_token(token), name=name, kinds=EVERY, proposed_name="some-host"
        )
        return await joining.join(wish, waiting)

    async def member(self, kind: str, name: str) -> Credentials:
        """The credentials of a fresh member."""
        return (await self.join(await self.token(kind, name)))[0]


@asynccontextmanager
async def secure(config: Config) -> AsyncIterator[Secure]:
    stop, address = asyncio.Event(), asyncio.get_running_loop().create_future()
    task = asyncio.create_task(app.run(config, stop=stop, ready=address.set_result))
    await asyncio.wait({task, address}, return_when=asyncio.FIRST_COMPLETED)
    if task.done():
        task.result()
    folder = Path(config.control.state_dir)
    admin = Membership(folder / "admin-identity").credentials()
    assert admin is not None
    async with control_channel([address.result()], admin) as channel:
        try:
            yield Secure(address.result(), folder, admin, channel)
        finally:
            stop.set()
            async with asyncio.timeout(DEADLINE_S):
                await task


class Maker:
    """A CA of the tests: makes certificates that a good one never would."""

    def __init__(self, folder: Path | None = None) -> None:
        if folder is not None:  # the cluster's own
            self.key = serialization.load_pem_private_key((folder / "ca.key").read_bytes(), None)
            self.certificate = x509.load_pem_x509_certificate((folder / "ca.pem").read_bytes())
            return
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.certificate = self._build("some other CA", self.key.public_key(), ca=True)

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    def credentials(
        self, identity: Identity | str = "", *, days: float = 1, ca_pem: bytes = b"", **more
    ) -> Credentials:
        """Credentials whose certificate ends in `days` (or ended, if negative)."""
        key = ec.generate_private_key(ec.SECP256R1())
        uri = identity.uri if isinstance(identity, Identity) else identity
        names = [x509.UniformResourceIdentifier(uri)] if uri else []
        certificate = self._build("member", key.public_key(), days=days, names=names, **more)
        chain = certificate.public_bytes(serialization.Encoding.PEM)
        return Credentials(key_pem=tls.key_pem(key), chain_pem=chain, ca_pem=ca_pem or self.pem)

    def server(self, *names: str, days: float = 1) -> tuple[bytes, bytes]:
        """Key and certificate of a server."""
        key = ec.generate_private_key(ec.SECP256R1())
        made = self._build(
            "server", key.public_key(), days=days, names=tls.names_of(names), usage=ExtendedKeyUsageOID.SERVER_AUTH
        )
        return tls.key_pem(key), made.public_bytes(serialization.Encoding.PEM)

    def _build(self, subject, public_key, *, ca=False, days=1.0, names=(), usage=ExtendedKeyUsageOID.CLIENT_AUTH):
        now = dt.datetime.now(dt.UTC)
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)])
        builder = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name if ca else self.certificate.subject)
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(days=30))
            .not_valid_after(now + dt.timedelta(days=days))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        )
        if not ca:
            builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        return builder.sign(self.key, hashes.SHA256())
