"""What resolution yields: services that could answer, services that could not and why.

Made once for a shape of the cluster, and read many times for each request: as structs, since a field of one is
found in half the time of a named tuple's.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from geniehive.resources import Asset, Host, Operation, Role, Service

Tier = tuple[int, ...]  # smaller is better; strategies reorder only within one


class Candidate(msgspec.Struct, frozen=True, eq=False):
    """One asset of one service that could answer; `role` is the role that led to it, if one did.

    Equal to itself alone, so that what is remembered of it is found by it, and goes with the shape that it is of.
    """

    service: Service
    asset: Asset
    host: Host
    tier: Tier = ()
    role: Role | None = None


class Dropped(NamedTuple):
    """One service that was looked at and could not answer, with the reason in words."""

    service_id: str
    asset_id: str
    reason: str


class Resolution(msgspec.Struct, frozen=True):
    """What a name leads to. `candidates` are in tiers, best first, and by service id within one."""

    name: str
    match: str  # "asset", "alias", "service" or "role"
    operation: Operation
    strategy: str
    candidates: tuple[Candidate, ...]
    dropped: tuple[Dropped, ...] = ()
    role: Role | None = None
