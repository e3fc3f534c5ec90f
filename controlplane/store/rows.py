"""Resources to rows and back: which columns stand for themselves, and what the document leaves out.

Measurements are left out, as heartbeats are never stored: after a restart an old number would look
like a fresh one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec
from sqlalchemy import Table

from controlplane.events import Kind
from controlplane.store import tables
from geniehive.errors import StoreError
from geniehive.resources import (
    AccessKey,
    Asset,
    AuditEntry,
    BenchmarkSample,
    Command,
    Host,
    HostObserved,
    LeaseState,
    Observed,
    Resource,
    Role,
    Service,
)

Row = dict[str, Any]
ResourceT = TypeVar("ResourceT", bound=msgspec.Struct)


@dataclass(frozen=True, kw_only=True)
class Mapped:
    """How one kind of resource lies in its table."""

    table: Table
    key: str
    row: Callable[[Any], Row]


def _document(resource: Resource) -> str:
    return msgspec.json.encode(resource).decode()


def host_row(host: Host) -> Row:
    """The row of a host, without measurements and lease: those are of the running moment."""
    kept = msgspec.structs.replace(host, observed=HostObserved(), heartbeat_age_seconds=None, lease=LeaseState.UP)
    return {"host_id": host.host_id, "availability": host.availability.value, "document": _document(kept)}


def service_row(service: Service) -> Row:
    """The row of a service, without measurements and assets: those have a table."""
    kept = msgspec.structs.replace(service, observed=Observed(), assets=())
    return {
        "service_id": service.service_id,
        "host_id": service.host_id,
        "endpoint": service.endpoint,
        "document": _document(kept),
    }


def asset_rows(service: Service) -> list[Row]:
    """The rows of a service's assets, in their order."""
    return [
        {
            "service_id": service.service_id,
            "position": position,
            "asset_id": asset.asset_id,
            "family": asset.family,
            "document": _document(asset),
        }
        for position, asset in enumerate(service.assets)
    ]


def role_row(role: Role) -> Row:
    """The row of a role."""
    return {"role_id": role.role_id, "operation": role.operation.value, "document": _document(role)}


def command_row(command: Command) -> Row:
    """The row of a command."""
    return {
        "command_id": command.command_id,
        "host_id": command.host_id,
        "state": command.state.value,
        "created_at_ms": command.created_at_ms,
        "document": _document(command),
    }


def sample_row(sample: BenchmarkSample) -> Row:
    """The row of a benchmark sample."""
    return {
        "sample_id": sample.sample_id,
        "service_id": sample.service_id,
        "workload": sample.workload,
        "measured_at_ms": sample.measured_at_ms,
        "quality": sample.quality,
        "document": _document(sample),
    }


def key_row(key: AccessKey) -> Row:
    """The row of a token; a revoked one has no hash."""
    return {
        "name": key.name,
        "secret_sha256": key.secret_sha256.hex() or None,
        "revoked_at": key.revoked_at,
        "document": _document(key),
    }


def audit_row(entry: AuditEntry) -> Row:
    """The row of an audit entry; the database counts its id."""
    return {
        "at_ms": entry.at_ms,
        "actor": entry.actor,
        "action": entry.action,
        "subject": entry.subject,
        "outcome": entry.outcome,
    }


MAPPED: Mapping[Kind, Mapped] = {
    Kind.HOST: Mapped(table=tables.hosts, key="host_id", row=host_row),
    Kind.SERVICE: Mapped(table=tables.services, key="service_id", row=service_row),
    Kind.ROLE: Mapped(table=tables.roles, key="role_id", row=role_row),
    Kind.COMMAND: Mapped(table=tables.commands, key="command_id", row=command_row),
    Kind.SAMPLE: Mapped(table=tables.benchmark_samples, key="sample_id", row=sample_row),
    Kind.ACCESS_KEY: Mapped(table=tables.access_keys, key="name", row=key_row),
}


def decode(document: str, cls: type[ResourceT], where: str) -> ResourceT:
    """The resource of a document; `where` names the row in the error of one that cannot be read."""
    try:
        return msgspec.json.decode(document, type=cls)
    except msgspec.DecodeError as error:
        raise StoreError(
            f"the database has a record that this version cannot read ({where}: {error}); it was damaged, or written"
            " by a newer GenieHive: start that version, or restore a backup"
        ) from error


def with_assets(services: Iterable[Service], assets: Mapping[str, list[Asset]]) -> tuple[Service, ...]:
    """Services with the assets of their table put back."""
    return tuple(msgspec.structs.replace(each, assets=tuple(assets.get(each.service_id, ()))) for each in services)
