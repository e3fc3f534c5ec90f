"""What a daemon keeps once it has joined: a folder with its key, its certificate, the CA, and where it joined.

`identity.pem` is the private key and the certificate chain in one file (0600), so that a renewal replaces both at once;
tools that want a key and a certificate (`grpcurl -cert … -key …`) take the one file for both. `ca.pem` is whom it
trusts, `joined.json` the control plane's addresses and the name it was given.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from geniehive.errors import ConfigError
from geniehive.identity import Kind

if TYPE_CHECKING:
    from geniehive.tls import Credentials  # loads cryptography, which plain gRPC needs not

_KEY: Final = re.compile(rb"-----BEGIN [A-Z ]*PRIVATE KEY-----.+?-----END [A-Z ]*PRIVATE KEY-----\n?", re.DOTALL)


class Joined(msgspec.Struct, frozen=True, kw_only=True):
    """Where a daemon belongs, and as what."""

    addresses: tuple[str, ...]
    kind: Kind
    name: str
    server_name: str


class Membership:
    """One such folder. Files are read again when they changed: a sibling process may have renewed them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._seen: tuple[int, ...] = ()
        self._kept: Credentials | None = None

    @property
    def identity_path(self) -> Path:
        """Key and certificate."""
        return self.folder / "identity.pem"

    @property
    def ca_path(self) -> Path:
        """Whom it trusts."""
        return self.folder / "ca.pem"

    def joined(self) -> Joined | None:
        """Where it belongs; None where it has not joined. Raises ConfigError if the file is damaged."""
        path = self.folder / "joined.json"
        try:
            return msgspec.json.decode(path.read_bytes(), type=Joined)
        except FileNotFoundError:
            return None
        except (OSError, msgspec.MsgspecError) as error:
            raise ConfigError(f"{path} cannot be read ({error}): remove {self.folder} and join again") from None

    def credentials(self) -> Credentials | None:
        """What it shows; None where it has not joined. Raises ConfigError if a file is damaged."""
        joined = self.joined()
        if joined is None:
            return None
        try:
            seen = tuple(path.stat().st_mtime_ns for path in (self.identity_path, self.ca_path))
            if seen != self._seen or self._kept is None:
                pem = self.identity_path.read_bytes()
                self._kept = credentials_of(pem, self.ca_path.read_bytes(), joined.server_name)
                self._seen = seen
        except (OSError, ValueError) as error:
            raise ConfigError(f"{self.folder} cannot be read ({error}): remove it and join again") from None
        return self._kept

    def prepare(self) -> None:
        """See that the folder can be written. Raises ConfigError."""
        trial = self.folder / "trial"
        write_file(trial, b"", mode=0o600)
        trial.unlink(missing_ok=True)

    def keep(self, credentials: Credentials, joined: Joined) -> None:
        """Write everything; `joined.json` comes last, so that what is there is whole. Raises ConfigError."""
        self.renew(credentials)
        write_file(self.folder / "joined.json", msgspec.json.encode(joined), mode=0o600)

    def renew(self, credentials: Credentials) -> None:
        """Replace key, certificate and CA. Raises ConfigError."""
        write_file(self.ca_path, credentials.ca_pem, mode=0o644)
        write_file(self.identity_path, credentials.key_pem + credentials.chain_pem, mode=0o600)


def credentials_of(identity_pem: bytes, ca_pem: bytes, server_name: str) -> Credentials:
    """Credentials from the text of an identity file. Raises ValueError."""
    from geniehive.tls import Credentials, certificates_in  # noqa: PLC0415 - loads cryptography, for TLS alone

    key, chain = _KEY.search(identity_pem), certificates_in(identity_pem)
    if key is None or not chain:
        raise ValueError("no private key and certificate in PEM")
    found = Credentials(key_pem=key[0], chain_pem=b"".join(chain), ca_pem=ca_pem, server_name=server_name)
    _ = found.leaf  # a certificate that cannot be read is told of here
    return found


def write_file(path: Path, data: bytes, *, mode: int) -> None:
    """Write a file whole or not at all, in a folder that only this user can enter. Raises ConfigError."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        temporary.unlink(missing_ok=True)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(file.fileno(), mode)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror or error}; choose another state_dir") from None


def folder_of(state_dir: str, kind: Kind) -> Path:
    """Where a daemon of the state folder keeps its membership."""
    return Path(state_dir) / f"{'node' if kind is Kind.HOST else kind}-identity"
