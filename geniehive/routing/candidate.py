"""What resolution yields: services that could answer, services that could not and why."""

from __future__ import annotations

from typing import NamedTuple

from geniehive.resources import Asset, Host, Operation, Role, Service

Tier = tuple[int, ...]  # smaller is better; strategies reorder only within one


class Candidate(NamedTuple):
    """One asset of one service that could answer; `role` is the role that led to it, if one did."""

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


class Resolution(NamedTuple):
    """What a name leads to. `candidates` are in tiers, best first, and by service id within one."""

    name: str
    match: str  # "asset", "alias", "service" or "role"
    operation: Operation
    strategy: str
    candidates: tuple[Candidate, ...]
    dropped: tuple[Dropped, ...] = ()
    role: Role | None = None
