"""Small clusters to route in."""

from geniehive.resources import (
    Asset,
    Availability,
    Health,
    HealthStatus,
    Host,
    LeaseState,
    Observed,
    Operation,
    Role,
    RoutingPolicy,
    Service,
    Snapshot,
)
from geniehive.routing.table import RoutingTable

HEALTHY = Health(status=HealthStatus.HEALTHY)


def host(host_id="h1", **fields):
    return Host(host_id=host_id, **fields)


def service(service_id, host_id="h1", assets=("qwen",), **fields):
    named = tuple(Asset(asset_id=each, loaded=True) if isinstance(each, str) else each for each in assets)
    return Service(
        **{
            "service_id": service_id,
            "host_id": host_id,
            "operations": (Operation.CHAT,),
            "assets": named,
            "health": HEALTHY,
            **fields,
        }
    )


def role(role_id, **policy):
    operation = policy.pop("operation", Operation.CHAT)
    return Role(role_id=role_id, operation=operation, routing_policy=RoutingPolicy(**policy))


def table(*things, strategy="scored"):
    return RoutingTable(
        Snapshot(
            hosts={t.host_id: t for t in things if isinstance(t, Host)} or {"h1": host()},
            services={t.service_id: t for t in things if isinstance(t, Service)},
            roles={t.role_id: t for t in things if isinstance(t, Role)},
        ),
        strategy,
    )


def ids(candidates):
    return [candidate.service.service_id for candidate in candidates]


__all__ = [
    "HEALTHY",
    "Asset",
    "Availability",
    "Health",
    "HealthStatus",
    "LeaseState",
    "Observed",
    "Operation",
    "host",
    "ids",
    "role",
    "service",
    "table",
]
