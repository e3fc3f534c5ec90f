"""Where a daemon has its credentials from: files that an operator named, or what it got when it joined.

Asked anew for each connection, so a certificate that was replaced on disk is used from the next dial on. A set that
cannot be read (replaced this very moment) leaves the last one in place.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from geniehive.config import Config, ControlPlaneConfig
from geniehive.errors import ConfigError
from geniehive.identity import CONTROL_NAME, Kind
from geniehive.membership import Membership, folder_of

if TYPE_CHECKING:
    from geniehive.tls import Credentials  # loads cryptography, which plain gRPC needs not

_log = logging.getLogger(__name__)


class CredentialSource(Protocol):
    """See the module."""

    @property
    def membership(self) -> Membership | None:
        """The folder to renew, where this daemon renews its certificate itself."""

    def current(self) -> Credentials | None:
        """What to show now; None is plain gRPC."""


class Plain:
    """No TLS: a control plane on this machine."""

    membership: Membership | None = None

    def current(self) -> Credentials | None:
        """None."""
        return None


class FromMembership:
    """What was got by joining."""

    def __init__(self, membership: Membership) -> None:
        self.membership: Membership | None = membership
        self._read = membership.credentials
        self._last = membership.credentials()

    def current(self) -> Credentials | None:
        """The newest that can be read."""
        try:
            self._last = self._read() or self._last
        except ConfigError as error:
            _log.warning("%s", error.message)
        return self._last


class FromFiles:
    """Certificate, key and CA that the operator named; all three are read again when one changes."""

    membership: Membership | None = None

    def __init__(self, config: ControlPlaneConfig) -> None:
        names = (config.cert_file, config.key_file, config.ca_file)
        self._paths = tuple(Path(name).expanduser() for name in names if name)
        self._config = config
        self._seen: tuple[int, ...] = ()
        self._last = self._load()

    def current(self) -> Credentials | None:
        """The newest that can be read."""
        try:
            if self._seen != self._stamps():
                self._last = self._load()
        except (ConfigError, OSError) as error:
            _log.warning("keeping the certificate that was read before: %s", error)
        return self._last

    def _stamps(self) -> tuple[int, ...]:
        return tuple(path.stat().st_mtime_ns for path in self._paths)

    def _load(self) -> Credentials:
        from geniehive.membership import credentials_of  # noqa: PLC0415 - loads cryptography, for TLS alone
        from geniehive.tls import as_nobody  # noqa: PLC0415 - see above

        config = self._config
        try:
            self._seen = self._stamps()
            ca = Path(config.ca_file).expanduser().read_bytes()
            if not config.cert_file:
                return as_nobody(ca, config.server_name)
            own = [Path(name).expanduser().read_bytes() for name in (config.key_file, config.cert_file) if name]
            return credentials_of(b"".join(own), ca, config.server_name or CONTROL_NAME)
        except OSError as error:
            raise ConfigError(f"control_plane: {error.filename} cannot be read: {error.strerror}") from None
        except ValueError as error:
            raise ConfigError(f"control_plane.cert_file {config.cert_file}: {error}") from None


def source_for(config: Config, kind: Kind) -> CredentialSource:
    """How a node agent or gateway of this config shows itself. Raises ConfigError."""
    if config.control_plane.ca_file:
        return FromFiles(config.control_plane)
    state_dir = config.node.state_dir if kind is Kind.HOST else config.gateway.state_dir
    membership = Membership(folder_of(state_dir, kind))
    joined = membership.joined()
    if joined is not None and set(joined.addresses) & set(config.control_plane.targets):
        return FromMembership(membership)
    return Plain()
