"""[pure] The names in certificates: who somebody is.

Everybody in the cluster has a certificate of the cluster's CA, and its name is a URI in there, as SPIFFE has it:
`spiffe://geniehive/host/HOST_ID`, `/gateway/ID`, `/operator/ID`, `/admin/ID`; the control plane's is
`spiffe://geniehive/control`. Host names and addresses change and are not checked: the control plane also goes by
`CONTROL_NAME`, whatever is dialled.
"""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Final, NamedTuple

TRUST_DOMAIN: Final = "spiffe://geniehive"
CONTROL_NAME: Final = "control.geniehive.internal"
NAME: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,251}[A-Za-z0-9])?")


class Kind(StrEnum):
    """What a certificate speaks for."""

    HOST = "host"
    GATEWAY = "gateway"
    OPERATOR = "operator"  # a person or program that may what the scope of this name may
    ADMIN = "admin"  # the same, with the scope admin
    CONTROL = "control"


class Identity(NamedTuple):
    """Who somebody is: "host", "atlas". The control plane has no name of its own."""

    kind: Kind
    name: str = ""

    @property
    def uri(self) -> str:
        """The name as it stands in the certificate."""
        return f"{TRUST_DOMAIN}/{self.kind}" + (f"/{self.name}" if self.name else "")

    def __str__(self) -> str:
        return f"{self.kind} {self.name}" if self.name else "the control plane"


def identity_of(uri: str) -> Identity | None:
    """The identity that a URI names; None where it names none of this cluster."""
    kind, _, name = uri.removeprefix(f"{TRUST_DOMAIN}/").partition("/")
    if not uri.startswith(f"{TRUST_DOMAIN}/") or kind not in set(Kind):
        return None
    found = Identity(Kind(kind), name)
    if found.kind is Kind.CONTROL:
        return None if name else found
    return found if NAME.fullmatch(name) else None
