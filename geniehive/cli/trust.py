"""Which certificate the command line shows to a control plane, if any.

In this order: what the config names (`control_plane.ca_file`, `cert_file`); on the control plane's own machine the
administrator's certificate that it keeps in its state folder; what `geniehive login` got; what this host's node agent
or gateway joined with, which may look but not touch. A control plane without TLS is shown none.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import TYPE_CHECKING

from geniehive.config_check import is_loopback, parse_address

if TYPE_CHECKING:
    from pathlib import Path

    from geniehive.config import Config
    from geniehive.membership import Membership
    from geniehive.tls import Credentials


def credentials_for(config: Config, addresses: tuple[str, ...]) -> Credentials | None:
    """See the module. Raises ConfigError where files are damaged."""
    if config.control_plane.ca_file:
        from geniehive.credentials import FromFiles

        return FromFiles(config.control_plane).current()
    for membership in _memberships(config):
        joined = membership.joined()
        if joined is not None and any(_same(one, other) for one in joined.addresses for other in addresses):
            return membership.credentials()
    return None


def own_addresses(config: Config, *, listens: bool) -> tuple[str, ...]:
    """What is asked where neither option nor config say an address: this machine's control plane, or the login's.

    With `listens` the config says where a control plane listens, so that one is meant, whatever other cluster
    this user is logged in to.
    """
    from pathlib import Path

    for folder in (Path(config.control.state_dir) / "admin-identity", *_ups(), operator_folder()):
        if _there(folder):
            from geniehive.membership import Membership

            joined = Membership(folder).joined()
            if joined is not None and (not listens or _may_be(joined.addresses[0], config.control.listen)):
                return joined.addresses[:1]
    return _as_dialled(config.control.listen) if listens else ()


def _may_be(address: str, listen: str) -> bool:
    """Whether a control plane that listens so may be the one at an address."""
    (host, port), (own, own_port) = parse_address(address), parse_address(listen)
    return own_port in {0, port} and (is_loopback(host) or not is_loopback(own))


def _as_dialled(listen: str) -> tuple[str, ...]:
    """How this machine dials a control plane that listens so; empty where its port is chosen as it starts."""
    host, port = parse_address(listen)
    if not port:
        return ()
    host = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - compared, not bound
    return (f"[{host}]:{port}" if ":" in host else f"{host}:{port}",)


def _memberships(config: Config) -> Iterable[Membership]:
    """Those that this user may read. Nothing of TLS is loaded where there is none."""
    from pathlib import Path

    places = [
        Path(config.control.state_dir) / "admin-identity",
        *_ups(),
        operator_folder(),
        Path(config.node.state_dir) / "node-identity",
        Path(config.gateway.state_dir) / "gateway-identity",
    ]
    found = [place for place in places if _there(place)]
    if not found:
        return []
    from geniehive.membership import Membership

    return [Membership(place) for place in found]


def operator_folder() -> Path:
    """Where `geniehive login` keeps a person's certificate: the user's state folder (XDG base directories)."""
    from pathlib import Path

    base = os.environ.get("XDG_STATE_HOME") or str(Path(os.environ.get("HOME") or "~").expanduser() / ".local/state")
    return Path(base) / "geniehive" / "operator-identity"


def _ups() -> list[Path]:
    """Where `geniehive up` keeps the certificate of its administrator, in the state folder that it takes by itself."""
    return [operator_folder().parent / "up" / "admin-identity"]


def _there(folder: Path) -> bool:
    return os.access(folder / "joined.json", os.R_OK) and os.access(folder / "identity.pem", os.R_OK)


def _same(one: str, other: str) -> bool:
    """Whether two addresses are one; all names of loopback are."""
    (host, port), (other_host, other_port) = parse_address(one), parse_address(other)
    return port == other_port and (host == other_host or (is_loopback(host) and is_loopback(other_host)))
