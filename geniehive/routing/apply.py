"""Updates of a snapshot: what a delta or new measurements make of it. Nothing is changed in place."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import msgspec

from geniehive.resources import HostObserved, Observed, Snapshot, SnapshotDelta


def apply_delta(snapshot: Snapshot, delta: SnapshotDelta, revision: int) -> Snapshot:
    """The snapshot at `revision`. ValueError if the delta was made for another base."""
    if delta.base_revision != snapshot.revision:
        raise ValueError(f"delta is for revision {delta.base_revision}, this is {snapshot.revision}")
    return Snapshot(
        epoch=snapshot.epoch,
        revision=revision,
        hosts=_updated(snapshot.hosts, delta.hosts, lambda host: host.host_id, delta.removed_host_ids),
        services=_updated(snapshot.services, delta.services, lambda s: s.service_id, delta.removed_service_ids),
        roles=_updated(snapshot.roles, delta.roles, lambda role: role.role_id, delta.removed_role_ids),
        access_keys=_updated(snapshot.access_keys, delta.access_keys, lambda k: k.name, delta.removed_access_keys),
        benchmarks=_updated(snapshot.benchmarks, delta.benchmarks, lambda b: b.service_id, delta.removed_benchmarks),
        keys_required=snapshot.keys_required or delta.keys_required,
    )


def _updated(
    old: dict[str, Any], changed: Iterable[Any], key: Callable[[Any], str], removed: tuple[str, ...]
) -> dict[str, Any]:
    if not changed and not removed:
        return old
    new = {name: value for name, value in old.items() if name not in removed}
    new.update((key(value), value) for value in changed)
    return new


def apply_observed(snapshot: Snapshot, services: Mapping[str, Observed], hosts: Mapping[str, HostObserved]) -> Snapshot:
    """The snapshot with these measurements; what it does not know is ignored."""
    return msgspec.structs.replace(
        snapshot,
        hosts=_observed(snapshot.hosts, hosts),
        services=_observed(snapshot.services, services),
    )


def _observed(old: dict[str, Any], measured: Mapping[str, Any]) -> dict[str, Any]:
    moved = {
        name: msgspec.structs.replace(old[name], observed=value) for name, value in measured.items() if name in old
    }
    return old | moved if moved else old
