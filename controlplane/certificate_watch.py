"""Looks after certificates: the local administrator's is kept fresh, and people hear long before one ends.

On the control plane's own machine the command line needs no login: whoever may read its state folder finds an
administrator's certificate there, as the owner of the CA's key could make one anyway.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from controlplane.join_book import MemberState
from controlplane.join_desk import Loop, Members
from controlplane.server_tls import ServerTls, local_addresses
from geniehive.clock import Clock
from geniehive.config import ControlConfig
from geniehive.errors import ConfigError
from geniehive.identity import Identity, Kind
from geniehive.membership import Joined, Membership, folder_of
from geniehive.tls import Credentials, certificate_request, new_key

LOOK_S: Final = 600.0
REMIND_S: Final = 86400.0
CA_WARN_S: Final = 180 * 86400.0
FILE_WARN_S: Final = 30 * 86400.0
LOCAL: Final = "local"

_log = logging.getLogger(__name__)


class CertificateWatch:
    """See the module."""

    def __init__(self, tls: ServerTls, config: ControlConfig, members: Members, loop: Loop, clock: Clock) -> None:
        self._tls = tls
        self._config = config
        self._members = members
        self._loop = loop
        self._clock = clock
        self._told: dict[str, float] = {}

    async def run(self) -> None:
        """Look now and then, until cancelled."""
        while True:
            self._warn()
            await asyncio.sleep(min(LOOK_S, self._config.certificate_ttl_s / 8))
            self._refresh_admin()

    def write_admin(self, address: str) -> None:
        """Put the local administrator's certificate where the command line finds it. Raises ConfigError."""
        if self._tls.authority.key is None:
            return
        joined = Joined(
            addresses=local_addresses(address), kind=Kind.ADMIN, name=LOCAL, server_name=self._tls.server_name
        )
        self._admin.keep(self._fresh(), joined)

    @property
    def _admin(self) -> Membership:
        return Membership(folder_of(self._config.state_dir, Kind.ADMIN))

    def _fresh(self) -> Credentials:
        key, authority = new_key(), self._tls.authority
        chain = authority.issue(
            certificate_request(key), Identity(Kind.ADMIN, LOCAL), ttl_s=self._config.certificate_ttl_s, now=self._now()
        )
        return Credentials(key_pem=key, chain_pem=chain, ca_pem=authority.bundle_pem)

    def _refresh_admin(self) -> None:
        try:
            known = self._admin.credentials()
            if known is not None and self._now() >= known.leaf.half_life:
                self._admin.renew(self._fresh())
        except ConfigError as error:
            _log.warning("the local administrator's certificate was not renewed: %s", error.message)

    def _warn(self) -> None:
        now = self._now()
        for what, end, host_id in self._ending(now):
            if now - self._told.get(what, -REMIND_S) >= REMIND_S:
                self._told[what] = now
                hours = (end - now) / 3600
                left = f"ends in {hours / 24:.0f} days" if hours > 48 else f"ends in {max(hours, 0):.1f} hours"
                self._loop.tell("certificate.ends", f"{what} {left}", host_id)

    def _ending(self, now: float) -> Iterator[tuple[str, float, str]]:
        """What ends before long: what it is and the fix, when, and the host if it is one's."""
        authority = self._tls.authority
        if authority.not_after - now < CA_WARN_S:
            yield "the CA's certificate (everybody has to join again then: see docs/join.md)", authority.not_after, ""
        if self._config.tls_cert_file and self._tls.leaf.not_after - now < FILE_WARN_S:
            yield "the certificate in control.tls_cert_file (put a new one there)", self._tls.leaf.not_after, ""
        for member in self._members.all.values():
            life = (
                self._config.certificate_ttl_s
                if member.kind in {Kind.HOST, Kind.GATEWAY}
                else self._config.operator_certificate_ttl_s
            )
            if member.state is MemberState.JOINED and 0 < member.expires_at - now < life / 4:
                who = f"the certificate of {member.kind} {member.name} (it was not renewed: is it off?)"
                yield who, member.expires_at, member.name if member.kind == Kind.HOST else ""

    def _now(self) -> float:
        return self._clock.unix_ms() / 1000


def forget_admin(config: ControlConfig) -> None:
    """Without TLS nobody needs the local administrator's certificate."""
    folder: Path = folder_of(config.state_dir, Kind.ADMIN)
    if folder.exists():
        shutil.rmtree(folder, ignore_errors=True)
