"""Which streams are kept, so that another service can go on with them when they are cut."""

from __future__ import annotations

from collections.abc import Callable

from msgspec.structs import replace

from gateway.plan import Kept, Plan
from geniehive.config import GatewayConfig
from geniehive.resources import Operation
from geniehive.routing.candidate import Candidate


class Keeper:
    """Makes plans whose streams are kept, where somebody could go on with them."""

    def __init__(self, limits: GatewayConfig) -> None:
        self._most = limits.max_resume_bytes
        self.on = limits.max_resume_bytes > 0 and limits.max_resumptions > 0
        """Whether streams are continued at all."""

    def kept(self, plan: Plan, operation: Operation, made: Callable[[Candidate, int], Kept | None]) -> Plan:
        """The plan; `operation` is what whoever goes on is asked for.

        `made` makes what keeps the stream of a candidate, up to so many characters of text.
        """
        candidates = plan.candidates
        if len(candidates) < 2 or not self.on:
            return plan

        def keep(candidate: Candidate) -> Kept | None:
            return made(candidate, self._most) if resumable(candidate, candidates) else None

        return replace(plan, operation=operation, keep=keep)


def resumable(candidate: Candidate, candidates: tuple[Candidate, ...]) -> bool:
    """Whether a cut stream of this candidate could be continued by another one, and may be."""
    role = candidate.role
    if role is not None and role.routing_policy.no_resume:
        return False
    return any(each is not candidate and same_model(each, candidate) for each in candidates)


def same_model(one: Candidate, other: Candidate) -> bool:
    """Whether both have the same model: its id, or a common alias."""
    if one.asset.asset_id == other.asset.asset_id:
        return True
    names = {name.casefold() for name in (one.asset.asset_id, *one.asset.aliases)}
    return any(name.casefold() in names for name in (other.asset.asset_id, *other.asset.aliases))
