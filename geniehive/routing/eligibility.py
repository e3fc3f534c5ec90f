"""Why a service may answer, or may not: host, health, and the wishes of a role."""

from __future__ import annotations

from typing import Final

from geniehive.resources import Asset, Availability, HealthStatus, Host, LeaseState, Operation, RoutingPolicy, Service
from geniehive.routing.candidate import Tier

_HEALTH_RANK: Final = {HealthStatus.HEALTHY: 0, HealthStatus.UNKNOWN: 1, HealthStatus.LOADING: 2}
_TAKES_WORK: Final = (Availability.AVAILABLE, Availability.BUSY)


def operations(service: Service, asset: Asset) -> tuple[Operation, ...]:
    """What the asset can be asked for there: its own word, else the service's."""
    return asset.operations or service.operations


def unavailable(service: Service, host: Host | None) -> str:
    """Why nothing at this service can answer now, in words; empty if it can."""
    if host is None:
        return f"host {service.host_id} is not known"
    if host.lease is not LeaseState.UP:
        return f"host {host.host_id} is {host.lease.value}: its lease ran out"
    if host.availability not in _TAKES_WORK:
        return f"host {host.host_id} is {host.availability.value.replace('_', ' ')}"
    if not service.reachable:
        return "its endpoint listens on its own host only"
    if service.health.status is HealthStatus.UNHEALTHY:
        return f"unhealthy: {service.health.reason or 'the engine does not answer'}"
    return ""


def unfit(policy: RoutingPolicy, asset: Asset) -> str:
    """Why a role does not want this asset wherever it is, in words; empty if it does."""
    if policy.assets and asset.asset_id not in policy.assets:
        return f"the role allows only {', '.join(policy.assets)}"
    if policy.require_loaded and asset.loaded is False:
        return "the role wants a loaded model, and this one is not"
    if policy.min_context and (asset.context_size or policy.min_context) < policy.min_context:
        return f"context {asset.context_size} is below the role's {policy.min_context}"
    return ""


def unwelcome(policy: RoutingPolicy, host: Host) -> str:
    """Why a role wants nothing of this host, in words; empty if it does."""
    return (
        _outside("trust tier", (host.trust_tier,), policy.allowed_trust_tiers, policy.denied_trust_tiers)
        or _outside("device class", (host.device_class,), policy.allowed_device_classes, policy.denied_device_classes)
        or _outside(
            "workload class", host.workload_classes, policy.allowed_workload_classes, policy.denied_workload_classes
        )
    )


def _outside(what: str, have: tuple[str, ...], allowed: tuple[str, ...], denied: tuple[str, ...]) -> str:
    if bad := [value for value in have if value and value in denied]:
        return f"{what} {bad[0]} is denied by the role"
    if allowed and not any(value in allowed for value in have):
        return f"{what} {' '.join(have) or 'none'} is not among the role's {', '.join(allowed)}"
    return ""


def tier(service: Service, asset: Asset, host: Host) -> Tier:
    """How good this asset is there, before load counts: health, then availability, then loaded."""
    return (
        _HEALTH_RANK.get(service.health.status, 3),
        int(host.availability is Availability.BUSY),
        int(asset.loaded is False),
    )


def preference(policy: RoutingPolicy, asset: Asset) -> tuple[int, int]:
    """How much a role likes this asset: listed asset, family. Smaller is better."""
    return place(asset.asset_id, policy.assets), place(asset.family, policy.preferred_families)


def strangeness(policy: RoutingPolicy, host: Host) -> int:
    """How many of the labels that a role prefers are missing on this host."""
    return sum(host.labels.get(name) != value for name, value in policy.preferred_labels.items())


def place(value: str, wanted: tuple[str, ...]) -> int:
    """Where a value stands in a list of wishes, from 0; the list's length if it is not in it."""
    folded = value.casefold()
    return next((place for place, want in enumerate(wanted) if want.casefold() == folded), len(wanted))
