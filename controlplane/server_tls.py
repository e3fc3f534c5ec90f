"""The control plane's own side of TLS: its certificate, whom it trusts, and whom it takes a peer for.

gRPC asks for the certificate at each handshake, from a thread of its own; `ServerTls.fetch` then answers from what is
at hand, and makes or reads a new one where it is due. Streams that are open are not touched by that.

Every peer shows a certificate, be it nobody's (see `geniehive.tls`). gRPC has checked that it is signed by the CA, or
is nobody's own; `Peers` looks again by itself, so that a name counts only under a signature of this cluster's CA.
"""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import grpc
import psutil
from cryptography import x509
from cryptography.exceptions import InvalidSignature

from controlplane import ca
from controlplane.ca import Authority
from geniehive.config import ControlConfig
from geniehive.config_check import is_loopback, parse_address
from geniehive.errors import ConfigError, Unauthenticated
from geniehive.identity import CONTROL_NAME, Identity
from geniehive.tls import NOBODY_CERTIFICATE, Leaf, certificates_in, facts_of, leaf_of

KNOWN_LIMIT: Final = 4096
"""Certificates of peers that are remembered, so that each is looked at once."""

_log = logging.getLogger(__name__)
_EVERYWHERE: Final = frozenset({"", "0.0.0.0", "::"})  # noqa: S104 - compared, not bound
_NOBODY: Final = leaf_of(NOBODY_CERTIFICATE).sha256


def wanted(config: ControlConfig) -> bool:
    """Whether this control plane speaks TLS."""
    return config.tls == "on" or (config.tls == "auto" and not is_loopback(parse_address(config.listen)[0]))


def authority_of(config: ControlConfig, *, now: float) -> Authority:
    """The CA: the operator's, else the embedded one. Raises ConfigError."""
    if not config.ca_cert_file:
        return ca.embedded(Path(config.state_dir), now=now)
    key_file = Path(config.ca_key_file).expanduser() if config.ca_key_file else None
    return ca.brought(Path(config.ca_cert_file).expanduser(), key_file)


class ServerTls:
    """The server's certificate, kept fresh."""

    def __init__(self, config: ControlConfig, authority: Authority, now: Callable[[], float]) -> None:
        self._config = config
        self.authority = authority
        self._now = now
        self._lock = threading.Lock()
        self._stamps: tuple[int, ...] = ()
        self._leaf: Leaf | None = None
        self._dns_names: list[str] = []
        self._made = self._make()

    @property
    def leaf(self) -> Leaf:
        """The facts of the certificate that is shown now."""
        assert self._leaf is not None  # noqa: S101 - `_make` has set it
        return self._leaf

    @property
    def server_name(self) -> str:
        """The name by which our own clients know the certificate: one that it has."""
        names = self._dns_names
        return CONTROL_NAME if CONTROL_NAME in names or not names else names[0]

    def credentials(self) -> grpc.ServerCredentials:
        """For the listening port. No client gets in without a certificate."""
        made: grpc.ServerCredentials = grpc.dynamic_ssl_server_credentials(
            self._made, self.fetch, require_client_authentication=True
        )
        return made

    def fetch(self) -> Any:
        """The certificate for a handshake, on gRPC's thread; None is the last one."""
        with self._lock:
            try:
                if not self._due():
                    return None
                self._made = self._make()
            except (ConfigError, OSError) as error:
                _log.warning("the control plane keeps its certificate: %s", error)
                return None
            return self._made

    def _due(self) -> bool:
        if self._config.tls_cert_file:
            return self._stamps != tuple(path.stat().st_mtime_ns for path in self._paths())
        return self._now() >= self.leaf.half_life

    def _make(self) -> Any:
        if self._config.tls_cert_file:
            self._stamps = tuple(path.stat().st_mtime_ns for path in self._paths() if path.exists())
            key, chain = self._brought()
        else:
            key, chain = self.authority.server(
                server_names(self._config), ttl_s=self._config.certificate_ttl_s, now=self._now()
            )
        self._leaf = leaf_of(chain)
        self._dns_names = _dns_names(chain)
        trusted = self.authority.bundle_pem + NOBODY_CERTIFICATE
        return grpc.ssl_server_certificate_configuration([(key, chain)], trusted)

    def _paths(self) -> tuple[Path, ...]:
        names = (self._config.tls_cert_file, self._config.tls_key_file)
        return tuple(Path(name).expanduser() for name in names if name)

    def _brought(self) -> tuple[bytes, bytes]:
        """Key and chain from the operator's files. Raises ConfigError."""
        from geniehive.membership import credentials_of  # noqa: PLC0415 - only where files are named

        text = b"".join(ca.read(path, "control.tls_cert_file") for path in reversed(self._paths()))
        try:
            found = credentials_of(text, b"", "")
        except ValueError as error:
            raise ConfigError(f"control.tls_cert_file {self._config.tls_cert_file}: {error}") from None
        return found.key_pem, found.chain_pem


def server_names(config: ControlConfig) -> list[str]:
    """What the control plane may be dialled by: for tools that check it; our own go by its one name."""
    listen = parse_address(config.listen)[0]
    addresses = [
        entry.address.partition("%")[0]
        for entries in psutil.net_if_addrs().values()
        for entry in entries
        if entry.family in {socket.AF_INET, socket.AF_INET6}
    ]
    own = [] if listen in _EVERYWHERE else [listen]
    return [*own, "localhost", socket.gethostname(), *addresses, *config.tls_names]


def _dns_names(chain: bytes) -> list[str]:
    certificate = x509.load_pem_x509_certificate(chain)
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    return names.get_values_for_type(x509.DNSName)


def local_addresses(address: str) -> tuple[str, ...]:
    """How this machine dials a control plane that listens on an address."""
    host, port = parse_address(address)
    everywhere = host in _EVERYWHERE
    names = ["127.0.0.1", "[::1]"] if everywhere else [f"[{host}]" if ":" in host else host]
    return tuple(f"{name}:{port}" for name in names)


def advertised(address: str) -> str:
    """How other machines dial a control plane that listens on an address; as far as can be told from here."""
    host, port = parse_address(address)
    if host not in _EVERYWHERE:
        return address
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            sock.connect(("192.0.2.1", 9))  # a datagram socket: this only asks for the route outside
            return f"{sock.getsockname()[0]}:{port}"
        except OSError:
            return f"{socket.gethostname()}:{port}"


class Peers:
    """Who a peer is, by its certificate."""

    def __init__(self, bundle_pem: bytes, now: Callable[[], float], barred: Mapping[tuple[str, str], int]) -> None:
        self._trusted = [x509.load_pem_x509_certificate(pem) for pem in certificates_in(bundle_pem)]
        self._now = now
        self._barred = barred
        self._known: dict[bytes, Leaf] = {}

    def identity(self, context: Mapping[str, Sequence[bytes]]) -> Identity | None:
        """The peer of a gRPC auth context; None is nobody.

        Raises:
            Unauthenticated: The certificate is not of this cluster's CA, is over, names nobody, or was taken back.
        """
        pem = next(iter(context.get("x509_pem_cert", ())), None)
        if pem is None:
            return None
        leaf = self._known.get(pem) or self._look(pem)
        if leaf.sha256 == _NOBODY:
            return None
        if leaf.identity is None:
            raise Unauthenticated(
                "the certificate names no host, gateway or operator of this cluster (a URI in its SAN)"
            )
        if self._now() > leaf.not_after:
            raise Unauthenticated(f"the certificate of {leaf.identity} has expired: reconnect with a fresh one")
        if leaf.not_before < self._barred.get((leaf.identity.kind.value, leaf.identity.name), 0):
            raise Unauthenticated(f"{leaf.identity} was removed from this cluster: it must join again")
        return leaf.identity

    def _look(self, pem: bytes) -> Leaf:
        certificate = x509.load_pem_x509_certificate(pem)
        leaf = facts_of(certificate)
        if leaf.sha256 != _NOBODY and not any(_issued(certificate, each) for each in self._trusted):
            raise Unauthenticated("the certificate was not issued by a CA of this cluster")
        while len(self._known) >= KNOWN_LIMIT:
            del self._known[next(iter(self._known))]
        self._known[pem] = leaf
        return leaf


def _issued(certificate: x509.Certificate, by: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(by)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True
