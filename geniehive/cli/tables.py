"""What each listing shows: asks the control plane, and makes rows of the answer."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from geniehive.cli import cells
from geniehive.cli.output import Listing
from geniehive.resources import Asset, Command, Host, Role, Service

if TYPE_CHECKING:
    from geniehive.cli.client import ClusterClient

Held = tuple[Service, Asset]


async def fetch_services(cluster: ClusterClient, host: str = "") -> tuple[Service, ...]:
    """The services of one host, or of all."""
    from geniehive import codec
    from geniehive.v1 import cluster_service_pb2 as pb

    answer = await cluster.call("ListServices", pb.ListServicesRequest(host_id=host))
    return tuple(codec.service_from_pb(service) for service in answer.services)


async def fetch_hosts(cluster: ClusterClient) -> tuple[Host, ...]:
    """Every known host."""
    from geniehive import codec
    from geniehive.v1 import cluster_service_pb2 as pb

    answer = await cluster.call("ListHosts", pb.ListHostsRequest())
    return tuple(codec.host_from_pb(host) for host in answer.hosts)


async def ps(cluster: ClusterClient, *, everything: bool) -> Listing:
    """Models in memory, one row for each service that holds one."""
    held = [
        (service, asset)
        for service in await fetch_services(cluster)
        for asset in service.assets
        if everything or asset.loaded
    ]
    return Listing(
        columns=("MODEL", "SERVICE", "ENGINE", "HEALTH", "LOADED", "RUNNING", "WAITING", "IN-FLIGHT", "TOK/S", "VRAM",
                 "CONTEXT", "TTFT", "KV", "SLOTS", "HOST"),
        wide=4,
        rows=[_ps_row(service, asset) for service, asset in held],
        values=[{"model": asset, "service_id": service.service_id, "host_id": service.host_id,
                 "health": service.health, "observed": service.observed} for service, asset in held],
        empty="no model is in memory; geniehive models lists all",
    )  # fmt: skip


def _ps_row(service: Service, asset: Asset) -> Sequence[str]:
    seen = service.observed
    return (
        asset.asset_id, service.service_id, cells.text(service.runtime.engine), service.health.status.value,
        cells.loaded(asset), cells.count(seen.running), cells.count(seen.waiting), cells.count(seen.in_flight),
        cells.count(seen.tokens_per_second, 1), cells.size(asset.vram_bytes), cells.tokens(asset.context_size),
        cells.seconds(seen.ttft_seconds), cells.percent(seen.kv_cache_usage), cells.count(seen.slots),
        service.host_id,
    )  # fmt: skip


async def nodes(cluster: ClusterClient) -> Listing:
    """Hosts."""
    hosts = await fetch_hosts(cluster)
    found = await fetch_services(cluster)
    return Listing(
        columns=("HOST", "STATUS", "HEARTBEAT", "SERVICES", "CPU", "RAM FREE", "GPUS", "VRAM", "NAME", "ADDRESS",
                 "OS", "AGENT", "TRUST", "LABELS", "NOTES"),
        wide=7,
        rows=[_node_row(host, [service for service in found if service.host_id == host.host_id]) for host in hosts],
        values=hosts,
        empty="no host has joined yet; start a node agent: geniehive node",
    )  # fmt: skip


def _node_row(host: Host, services: Sequence[Service]) -> Sequence[str]:
    facts, seen = host.facts, host.observed
    healthy = sum(1 for service in services if service.health.status.value == "healthy")
    vram = cells.pair(
        cells.total(gpu.vram_used_bytes for gpu in seen.gpus), cells.total(gpu.vram_total_bytes for gpu in facts.gpus)
    )
    heartbeat = cells.age(host.heartbeat_age_seconds)
    return (
        host.host_id, cells.host_status(host), heartbeat if heartbeat == cells.UNKNOWN else f"{heartbeat} ago",
        f"{healthy}/{len(services)}", cells.percent(seen.cpu_utilization),
        cells.pair(seen.ram_available_bytes, facts.ram_total_bytes), str(len(facts.gpus)), vram,
        cells.text(host.display_name), cells.text(host.address),
        cells.text(" ".join(part for part in (facts.os, facts.arch) if part)), cells.text(facts.agent_version),
        cells.text(host.trust_tier), cells.joined(f"{key}={value}" for key, value in sorted(host.labels.items())),
        cells.text("; ".join(host.notes)),
    )  # fmt: skip


async def models(cluster: ClusterClient, host: str = "") -> Listing:
    """Models, merged over services."""
    merged: dict[str, list[Held]] = {}
    for service in await fetch_services(cluster, host):
        for asset in service.assets:
            merged.setdefault(asset.asset_id, []).append((service, asset))
    ordered = sorted(merged.items())
    return Listing(
        columns=("MODEL", "KIND", "LOADED", "HOSTS", "CONTEXT", "FAMILY", "QUANT", "SIZE", "PARAMS", "ALIASES",
                 "CAPABILITIES", "SERVICES"),
        wide=4,
        rows=[_model_row(name, held) for name, held in ordered],
        values=[{**_fields(held[0][1]), "services": [_holder(service, asset) for service, asset in held]}
                for _, held in ordered],
        empty="no models yet; geniehive services shows which engines answer",
    )  # fmt: skip


def _fields(asset: Asset) -> dict[str, Any]:
    fields = {name: getattr(asset, name) for name in asset.__struct_fields__}
    return {name: value for name, value in fields.items() if name not in {"loaded", "vram_bytes"}}


def _holder(service: Service, asset: Asset) -> dict[str, Any]:
    return {"service_id": service.service_id, "host_id": service.host_id, "health": service.health.status,
            "loaded": asset.loaded, "vram_bytes": asset.vram_bytes}  # fmt: skip


def _model_row(name: str, held: Sequence[Held]) -> Sequence[str]:
    assets = [asset for _, asset in held]
    asset = assets[0]
    kinds = asset.operations or held[0][0].operations
    return (
        name, cells.joined(kind.value for kind in kinds), cells.loaded_count(assets),
        cells.joined(sorted({service.host_id for service, _ in held})),
        cells.tokens(max((one.context_size for one in assets if one.context_size), default=None)),
        cells.text(asset.family), cells.text(asset.quantization), cells.size(asset.size_bytes),
        cells.text(asset.parameter_size), cells.joined(sorted({alias for one in assets for alias in one.aliases})),
        cells.joined(asset.capabilities), cells.joined(service.service_id for service, _ in held),
    )  # fmt: skip


async def services(cluster: ClusterClient, host: str = "") -> Listing:
    """Services."""
    found = await fetch_services(cluster, host)
    return Listing(
        columns=("SERVICE", "HOST", "KIND", "ENGINE", "HEALTH", "MODELS", "RUNNING", "WAITING", "IN-FLIGHT",
                 "ENDPOINT", "PROTOCOL", "VERSION", "TTFT", "TOK/S", "VRAM", "REASON"),
        wide=7,
        rows=[_service_row(service) for service in found],
        values=found,
        empty="no services yet; a node agent announces them: geniehive node",
    )  # fmt: skip


def _service_row(service: Service) -> Sequence[str]:
    seen = service.observed
    why = "; ".join(part for part in (service.health.reason, *service.notes) if part)
    return (
        service.service_id, service.host_id, cells.operations(service), cells.text(service.runtime.engine),
        service.health.status.value if service.reachable else f"{service.health.status.value},unreachable",
        cells.loaded_count(service.assets), cells.count(seen.running), cells.count(seen.waiting),
        cells.count(seen.in_flight), cells.text(service.endpoint), cells.text(service.protocol),
        cells.text(service.runtime.version), cells.seconds(seen.ttft_seconds),
        cells.count(seen.tokens_per_second, 1), cells.size(seen.vram_used_bytes), cells.text(why),
    )  # fmt: skip


async def roles(cluster: ClusterClient) -> Listing:
    """Roles."""
    from geniehive import codec
    from geniehive.v1 import cluster_service_pb2 as pb

    answer = await cluster.call("ListRoles", pb.ListRolesRequest())
    found = tuple(codec.role_from_pb(role) for role in answer.roles)
    return Listing(
        columns=("ROLE", "KIND", "STRATEGY", "FALLBACKS", "DESCRIPTION", "PREFERS", "NEEDS"),
        wide=2,
        rows=[_role_row(role) for role in found],
        values=found,
        empty="no roles; roles_path in the control plane's config names a file of them",
    )


def _role_row(role: Role) -> Sequence[str]:
    policy = role.routing_policy
    needs = [*policy.assets, *([f"context>={policy.min_context}"] if policy.min_context else [])]
    if policy.require_loaded:
        needs.append("loaded")
    return (
        role.role_id, role.operation.value, cells.text(policy.strategy), cells.joined(policy.fallback_roles),
        cells.text(role.description or role.display_name), cells.joined(policy.preferred_families), cells.joined(needs),
    )  # fmt: skip


async def commands(cluster: ClusterClient, host: str = "") -> Listing:
    """Orders to nodes."""
    from geniehive import command_codec
    from geniehive.v1 import cluster_service_pb2 as pb

    answer = await cluster.call("ListCommands", pb.ListCommandsRequest(host_id=host))
    return command_listing([command_codec.command_from_pb(command) for command in answer.commands], time.time() * 1000)


def command_listing(found: Iterable[Command], now_ms: float) -> Listing:
    """Orders as a table."""
    known = tuple(found)
    return Listing(
        columns=("COMMAND", "HOST", "KIND", "SERVICE", "MODEL", "STATE", "AGE", "MESSAGE"),
        rows=[
            (
                one.command_id, one.host_id, one.kind.value, cells.text(one.service_id), cells.text(one.asset_id),
                one.state.value, cells.age(max(0.0, now_ms - one.created_at_ms) / 1000), cells.text(one.message),
            )
            for one in known
        ],
        values=known,
        empty="no orders were given",
    )  # fmt: skip
