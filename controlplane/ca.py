"""The cluster's certificate authority: its own, made on first need, or one that the operator brings.

The embedded CA is a key (0600) and a certificate of ten years in the control plane's state folder. It signs
certificates that live for hours: what is stolen is soon worth nothing, so there are no revocation lists. A bundle that
is brought has the issuing CA first; with its key this process signs as before, without it nobody can join here.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from geniehive.errors import ConfigError, InvalidRequest, PermissionDenied
from geniehive.identity import CONTROL_NAME, Identity, Kind
from geniehive.tls import bundle_sha256, certificates_in, facts_of, key_pem, names_of, new_key, utc

YEARS: Final = 10
_YEAR_S: Final = 365.25 * 86400
BACKDATED_S: Final = 300.0
"""Certificates begin so much earlier, or a tenth of their life: the clocks of hosts differ."""
_LEAST_RSA: Final = 2048

_Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


class _Life(NamedTuple):
    """When a certificate is made, for how long, and from when on at the earliest; seconds."""

    now: float
    ttl_s: float
    not_before: float


@dataclass(frozen=True, kw_only=True)
class Authority:
    """A CA. `bundle_pem`: the issuing CA first, then what vouches for it."""

    certificate: x509.Certificate
    bundle_pem: bytes
    key: _Key | None

    @property
    def sha256(self) -> str:
        """What join tokens carry."""
        return bundle_sha256(self.bundle_pem)

    @property
    def not_after(self) -> float:
        """When it ends, in seconds since the Unix epoch."""
        return facts_of(self.certificate).not_after

    def issue(
        self, request_der: bytes, identity: Identity, *, ttl_s: float, now: float, not_before: float = 0
    ) -> bytes:
        """A certificate for the key of a PKCS #10 request, with its chain, PEM.

        The request proves that its sender has the key; names in it count for nothing. It is not valid before
        `not_before`, in seconds since the Unix epoch.

        Raises:
            InvalidRequest: It is no such request, or for a key that is too weak.
            PermissionDenied: This control plane has no CA key.
        """
        usage = [ExtendedKeyUsageOID.CLIENT_AUTH]
        uri = x509.UniformResourceIdentifier(identity.uri)
        return self._sign(_public_key_of(request_der), identity, [uri], usage, _Life(now, ttl_s, not_before))

    def server(self, hosts: Sequence[str], *, ttl_s: float, now: float) -> tuple[bytes, bytes]:
        """A fresh key and certificate of the control plane itself: key and chain, PEM."""
        private = new_key()
        key = serialization.load_pem_private_key(private, None)
        identity = Identity(Kind.CONTROL)
        names = [x509.UniformResourceIdentifier(identity.uri), *names_of([CONTROL_NAME, *hosts])]
        usage = [ExtendedKeyUsageOID.SERVER_AUTH]
        return private, self._sign(key.public_key(), identity, names, usage, _Life(now, ttl_s, 0))

    def _sign(
        self,
        key: object,
        identity: Identity,
        names: Sequence[x509.GeneralName],
        usage: Sequence[x509.ObjectIdentifier],
        life: _Life,
    ) -> bytes:
        if self.key is None:
            raise PermissionDenied("this control plane issues no certificates: control.ca_key_file is not set")
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"geniehive {identity.kind}")])
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self.certificate.subject)
            .public_key(key)  # type: ignore[arg-type]  # one of the kinds that `_public_key_of` lets through
            .serial_number(x509.random_serial_number())
            .not_valid_before(utc(max(life.now - min(BACKDATED_S, life.ttl_s / 10), life.not_before)))
            .not_valid_after(utc(min(life.now + life.ttl_s, self.not_after)))
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(sign=True), critical=True)
            .add_extension(x509.ExtendedKeyUsage(usage), critical=False)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
        )
        made = builder.sign(self.key, hashes.SHA256())
        # The issuing CA goes along: who trusts only the root above it needs it.
        return made.public_bytes(serialization.Encoding.PEM) + certificates_in(self.bundle_pem)[0]


def _usage(*, sign: bool = False, ca: bool = False) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=sign,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=ca,
        crl_sign=ca,
        encipher_only=False,
        decipher_only=False,
    )


def _public_key_of(request_der: bytes) -> object:
    try:
        request = x509.load_der_x509_csr(request_der)
        key = request.public_key()
        valid = request.is_signature_valid
    except (ValueError, InvalidSignature, TypeError):
        raise InvalidRequest("certificate_request is no PKCS #10 request in DER") from None
    if not valid:
        raise InvalidRequest("the certificate request is not signed by its own key")
    if isinstance(key, ec.EllipticCurvePublicKey) or (isinstance(key, rsa.RSAPublicKey) and key.key_size >= _LEAST_RSA):
        return key
    raise InvalidRequest("the key of the certificate request must be ECDSA, or RSA of 2048 bits or more")


def public_key_sha256(request_der: bytes) -> bytes:
    """The hash of the key of a request: who asks again with it is the same one. Raises InvalidRequest."""
    key = _public_key_of(request_der)
    assert isinstance(key, ec.EllipticCurvePublicKey | rsa.RSAPublicKey)  # noqa: S101 - for the type checker alone
    der = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    digest = hashes.Hash(hashes.SHA256())
    digest.update(der)
    return digest.finalize()


def embedded(folder: Path, *, now: float) -> Authority:
    """The CA of a state folder; made if there is none. Raises ConfigError."""
    key_path, certificate_path = folder / "ca.key", folder / "ca.pem"
    missing = [path for path in (key_path, certificate_path) if not path.exists()]
    if len(missing) == 1:
        raise ConfigError(
            f"{missing[0]} is missing, so the CA in {folder} is no use: restore it from a backup; or move away the"
            " other of ca.key and ca.pem, and let everybody join again"
        )
    if missing:
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = _self_signed(key, now)
        _write(key_path, key_pem(key), mode=0o600)
        _write(certificate_path, certificate.public_bytes(serialization.Encoding.PEM), mode=0o644)
    return brought(certificate_path, key_path)


def _self_signed(key: ec.EllipticCurvePrivateKey, now: float) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"GenieHive CA {os.urandom(4).hex()}")])
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(utc(now - BACKDATED_S))
        .not_valid_after(utc(now + YEARS * _YEAR_S))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(ca=True), critical=True)
        .add_extension(identifier, critical=False)
    )
    return builder.sign(key, hashes.SHA256())


def brought(certificate_file: Path, key_file: Path | None) -> Authority:
    """A CA from files. Raises ConfigError: what is wrong with which."""
    bundle = read(certificate_file, "control.ca_cert_file")
    try:
        pems = certificates_in(bundle)
        certificate = x509.load_pem_x509_certificate(pems[0])
    except (ValueError, IndexError):
        raise ConfigError(f"{certificate_file}: no certificate in PEM; put the issuing CA's there") from None
    if key_file is None:
        return Authority(certificate=certificate, bundle_pem=b"".join(pems), key=None)
    _check_is_ca(certificate, certificate_file)
    key = _load_key(key_file)
    if _spki(key.public_key()) != _spki(certificate.public_key()):
        raise ConfigError(f"{key_file} is not the key of the first certificate in {certificate_file}")
    return Authority(certificate=certificate, bundle_pem=b"".join(pems), key=key)


def _check_is_ca(certificate: x509.Certificate, path: Path) -> None:
    try:
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    except x509.ExtensionNotFound:
        constraints = None
    if constraints is None or not constraints.ca:
        raise ConfigError(f"{path}: the first certificate is not a CA's and cannot sign others")


def _load_key(path: Path) -> _Key:
    try:
        key = serialization.load_pem_private_key(read(path, "control.ca_key_file"), None)
    except (ValueError, TypeError):
        raise ConfigError(f"{path}: no private key in PEM without a password") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey):
        raise ConfigError(f"{path}: the CA's key must be ECDSA or RSA")
    return key


def _spki(key: object) -> bytes:
    found: bytes = key.public_bytes(  # type: ignore[attr-defined]  # every public key has it, no common type says so
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return found


def read(path: Path, key: str) -> bytes:
    """A file, or a ConfigError of one line that names the config key."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{key}: {path} cannot be read: {error.strerror or error}", param=key) from None


def _write(path: Path, data: bytes, *, mode: int) -> None:
    """Write a file, whole or not at all. Raises ConfigError."""
    from geniehive.membership import write_file  # noqa: PLC0415 - one way to write secrets, on the floor

    write_file(path, data, mode=mode)
