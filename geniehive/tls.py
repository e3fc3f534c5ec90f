"""Keys and certificates of the cluster's own TLS: the floor that all daemons and the CLI stand on.

Python's gRPC can demand certificates of clients, or not ask for any; it cannot ask and take none. So who has none
(a host that joins, an operator with a key) shows the certificate of *nobody*, whose key everybody knows. It proves
nothing and opens nothing. Its key usage keeps it from signing others, and the control plane looks at each certificate
again itself: only what its own CA signed has a name.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import re
from collections.abc import Sequence
from functools import cached_property
from typing import Final, NamedTuple

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from geniehive.errors import ConfigError
from geniehive.identity import CONTROL_NAME, Identity, identity_of

_PEM_CERTIFICATE: Final = re.compile(rb"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----\n?", re.DOTALL)

NOBODY_CERTIFICATE: Final = b"""\
-----BEGIN CERTIFICATE-----
MIIBbjCCARSgAwIBAgIBATAKBggqhkjOPQQDAjAkMSIwIAYDVQQDDBlub2JvZHku
Z2VuaWVoaXZlLmludGVybmFsMCAXDTI0MDEwMTAwMDAwMFoYDzk5OTkxMjMxMjM1
OTU5WjAkMSIwIAYDVQQDDBlub2JvZHkuZ2VuaWVoaXZlLmludGVybmFsMFkwEwYH
KoZIzj0CAQYIKoZIzj0DAQcDQgAEYsqD4+UmOE1qPn6uDmUL1+jR1ItB9ujNczD2
bXfwdGt0TejTRUfczF+EtD9uHKAfHkqDs62e0XGvagIcXk2+Z6M1MDMwDAYDVR0T
AQH/BAIwADAOBgNVHQ8BAf8EBAMCB4AwEwYDVR0lBAwwCgYIKwYBBQUHAwIwCgYI
KoZIzj0EAwIDSAAwRQIhAI3Rph+O4VCt4RQk8EutR3dUDfr5Cb7UspV7fhJL095u
AiBKmT/dgpblvd2FY5WjyQeUtWHJRjv7/j59w69NqQAwcA==
-----END CERTIFICATE-----
"""


class Credentials(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """What a daemon shows and whom it trusts; all PEM. `server_name` is whom it expects to answer."""

    key_pem: bytes
    chain_pem: bytes
    ca_pem: bytes
    server_name: str = CONTROL_NAME

    @cached_property
    def leaf(self) -> Leaf:
        """The facts of its certificate."""
        return leaf_of(self.chain_pem)


class Leaf(NamedTuple):
    """What a certificate says; times in seconds since the Unix epoch. `identity` is None where it has none of ours."""

    identity: Identity | None
    not_before: float
    not_after: float
    sha256: str

    @property
    def half_life(self) -> float:
        """When it is due to be renewed."""
        return (self.not_before + self.not_after) / 2

    def remaining(self, now: float) -> float:
        """The share of its life that is left at `now`, from 0 to 1."""
        return max(0.0, min(1.0, (self.not_after - now) / max(self.not_after - self.not_before, 1.0)))


def leaf_of(pem: bytes) -> Leaf:
    """The facts of the first certificate. Raises ValueError if there is none."""
    return facts_of(x509.load_pem_x509_certificate(pem))


def facts_of(certificate: x509.Certificate) -> Leaf:
    """The facts of a certificate."""
    return Leaf(
        identity=_identity_in(certificate),
        not_before=certificate.not_valid_before_utc.timestamp(),
        not_after=certificate.not_valid_after_utc.timestamp(),
        sha256=certificate.fingerprint(hashes.SHA256()).hex(),
    )


def _identity_in(certificate: x509.Certificate) -> Identity | None:
    """The one identity in the alternative names; two would be one too many."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        return None
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    return identity_of(uris[0]) if len(uris) == 1 else None


def new_key() -> bytes:
    """A fresh private key (ECDSA on P-256, which every TLS of today takes), as PEM."""
    return key_pem(ec.generate_private_key(ec.SECP256R1()))


def key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """A private key as PEM, not encrypted: the file's mode protects it."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def certificate_request(private_key_pem: bytes) -> bytes:
    """A PKCS #10 request (DER) for the key. It names nobody: the control plane decides who the key is."""
    key = serialization.load_pem_private_key(private_key_pem, None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ConfigError("the key of a certificate request must be an elliptic curve key; remove it to get a new one")
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    return request.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)


def certificates_in(pem: bytes) -> list[bytes]:
    """Every certificate of a PEM text, each as PEM; what is between them (keys, comments) is left out."""
    return _PEM_CERTIFICATE.findall(pem)


def bundle_sha256(pem: bytes) -> str:
    """The hash of a bundle of CA certificates, whatever stands around them: what a join token carries."""
    digest = hashlib.sha256()
    for certificate in certificates_in(pem):
        digest.update(x509.load_pem_x509_certificate(certificate).public_bytes(serialization.Encoding.DER))
    return digest.hexdigest()


def nobody_key() -> bytes:
    """The key of nobody: it is made of its name, so that everybody has it."""
    digest = hashlib.sha256(b"nobody.geniehive.internal").digest()
    return key_pem(ec.derive_private_key(int.from_bytes(digest, "big") >> 1, ec.SECP256R1()))


def as_nobody(ca_pem: bytes, server_name: str = CONTROL_NAME) -> Credentials:
    """Credentials that prove nothing, towards a control plane that `ca_pem` vouches for."""
    return Credentials(
        key_pem=nobody_key(), chain_pem=NOBODY_CERTIFICATE, ca_pem=ca_pem, server_name=server_name or CONTROL_NAME
    )


def utc(unix_s: float) -> dt.datetime:
    """A time in seconds since the Unix epoch as certificates want it."""
    return dt.datetime.fromtimestamp(unix_s, dt.UTC)


def names_of(hosts: Sequence[str]) -> list[x509.GeneralName]:
    """Host names and addresses as alternative names of a certificate."""
    import ipaddress  # noqa: PLC0415 - for the control plane alone

    found: list[x509.GeneralName] = []
    for host in dict.fromkeys(hosts):
        try:
            found.append(x509.IPAddress(ipaddress.ip_address(host)))
        except ValueError:
            found.append(x509.DNSName(host))
    return found
