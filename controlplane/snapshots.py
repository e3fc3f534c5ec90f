"""The picture that gateways route by, and how it changes: two lanes.

Shape (hosts, services, assets, health, roles, keys, availability) goes out at once and counts the revision
up; measurements wait for `observed` and leave the revision as it is. Whoever changes something names
its id here; only what was named is compared, so a heartbeat costs the same in a fleet of any size.
A snapshot is immutable: each change makes a new one, and readers keep the one they have.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

from msgspec.structs import replace

from controlplane.events import Publish, PublishObserved
from geniehive.resources import (
    AccessKey,
    Host,
    HostObserved,
    Observed,
    Role,
    Service,
    ServiceBenchmarks,
    Snapshot,
    SnapshotDelta,
)

T = TypeVar("T", Host, Service, Role, ServiceBenchmarks, AccessKey)

_NO_OBSERVED = Observed()
_NO_HOST_OBSERVED = HostObserved()
_NO_BENCHMARKS: Mapping[str, ServiceBenchmarks] = {}
_NO_KEYS: Mapping[str, AccessKey] = {}


def _host_shape(host: Host) -> Host:
    return replace(host, observed=_NO_HOST_OBSERVED, heartbeat_age_seconds=None)


def _service_shape(service: Service) -> Service:
    return replace(service, observed=_NO_OBSERVED)


def _role_shape(role: Role) -> Role:
    return role


def _benchmarks_shape(benchmarks: ServiceBenchmarks) -> ServiceBenchmarks:
    return benchmarks


def _key_shape(key: AccessKey) -> AccessKey:
    return key


class SnapshotBook:
    """The last published snapshot, and the ids that may have moved since."""

    def __init__(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
        self._hosts: set[str] = set()
        self._services: set[str] = set()
        self._roles: set[str] = set()
        self._keys: set[str] = set()
        self._moved_hosts: set[str] = set()
        self._moved_services: set[str] = set()

    @property
    def observed_moved(self) -> bool:
        """Whether measurements wait to be published."""
        return bool(self._moved_hosts or self._moved_services)

    def touch(self, *, hosts: set[str] | None = None, services: set[str] | None = None) -> None:
        """Name what may have moved."""
        self._hosts |= hosts or set()
        self._services |= services or set()

    def touch_roles(self, roles: set[str]) -> None:
        """Name roles that may have moved."""
        self._roles |= roles

    def touch_key(self, name: str) -> None:
        """Name a token that may have moved."""
        self._keys.add(name)

    def shape(
        self,
        hosts: Mapping[str, Host],
        services: Mapping[str, Service],
        roles: Mapping[str, Role],
        benchmarks: Mapping[str, ServiceBenchmarks] = _NO_BENCHMARKS,
        keys: Mapping[str, AccessKey] = _NO_KEYS,
    ) -> Publish | None:
        """A delta with what was named and has another shape; None if nothing has.

        Benchmarks go with their service: those of a service that is not known are not published. With its first
        token a cluster is one that asks for keys, and stays so.
        """
        now = self.snapshot
        put_hosts, gone_hosts = _compare(self._hosts, now.hosts, hosts, _host_shape)
        put_services, gone_services = _compare(self._services, now.services, services, _service_shape)
        put_roles, gone_roles = _compare(self._roles, now.roles, roles, _role_shape)
        measured = {key: benchmarks[key] for key in self._services & services.keys() & benchmarks.keys()}
        put_marks, gone_marks = _compare(self._services, now.benchmarks, measured, _benchmarks_shape)
        put_keys, gone_keys = _compare(self._keys, now.access_keys, keys, _key_shape)
        self._note_moved(put_hosts, put_services, hosts, services)
        self._hosts, self._services, self._roles, self._keys = set(), set(), set(), set()
        changed = (put_hosts, gone_hosts, put_services, gone_services, put_roles, gone_roles, put_marks, gone_marks)
        if not any(changed) and not (put_keys or gone_keys):
            return None
        delta = SnapshotDelta(
            base_revision=now.revision,
            hosts=put_hosts,
            services=put_services,
            roles=put_roles,
            removed_host_ids=gone_hosts,
            removed_service_ids=gone_services,
            removed_role_ids=gone_roles,
            benchmarks=put_marks,
            removed_benchmarks=gone_marks,
            access_keys=put_keys,
            removed_access_keys=gone_keys,
            keys_required=now.keys_required or bool(put_keys),
        )
        self.snapshot = replace(
            now,
            revision=now.revision + 1,
            hosts=_after(now.hosts, {one.host_id: one for one in put_hosts}, gone_hosts),
            services=_after(now.services, {one.service_id: one for one in put_services}, gone_services),
            roles=_after(now.roles, {one.role_id: one for one in put_roles}, gone_roles),
            benchmarks=_after(now.benchmarks, {one.service_id: one for one in put_marks}, gone_marks),
            access_keys=_after(now.access_keys, {one.name: one for one in put_keys}, gone_keys),
            keys_required=delta.keys_required,
        )
        return Publish(now.epoch, self.snapshot.revision, delta)

    def observed(self, hosts: Mapping[str, Host], services: Mapping[str, Service]) -> PublishObserved | None:
        """The measurements that moved since the last time; None if none did."""
        now = self.snapshot
        host_changes = {
            key: hosts[key].observed
            for key in sorted(self._moved_hosts & now.hosts.keys() & hosts.keys())
            if hosts[key].observed != now.hosts[key].observed
        }
        service_changes = {
            key: services[key].observed
            for key in sorted(self._moved_services & now.services.keys() & services.keys())
            if services[key].observed != now.services[key].observed
        }
        self._moved_hosts, self._moved_services = set(), set()
        if not (host_changes or service_changes):
            return None
        self.snapshot = replace(
            now,
            hosts=now.hosts | {key: replace(now.hosts[key], observed=one) for key, one in host_changes.items()},
            services=now.services
            | {key: replace(now.services[key], observed=one) for key, one in service_changes.items()},
        )
        return PublishObserved(now.epoch, now.revision, service_changes, host_changes)

    def _note_moved(
        self,
        put_hosts: tuple[Host, ...],
        put_services: tuple[Service, ...],
        hosts: Mapping[str, Host],
        services: Mapping[str, Service],
    ) -> None:
        """What goes out whole in a delta carries its measurements; the rest of what was named waits."""
        whole_hosts = {one.host_id for one in put_hosts}
        whole_services = {one.service_id for one in put_services}
        self._moved_hosts = (self._moved_hosts | (self._hosts & hosts.keys())) - whole_hosts
        self._moved_services = (self._moved_services | (self._services & services.keys())) - whole_services


def _compare(
    named: set[str], before: Mapping[str, T], after: Mapping[str, T], shape: Callable[[T], T]
) -> tuple[tuple[T, ...], tuple[str, ...]]:
    """What was named and has a new shape, and the ids that are gone, both by id."""
    put, gone = [], []
    for key in sorted(named):
        if key not in after:
            if key in before:
                gone.append(key)
        elif key not in before or shape(before[key]) != shape(after[key]):
            put.append(after[key])
    return tuple(put), tuple(gone)


def _after(before: dict[str, T], put: Mapping[str, T], gone: tuple[str, ...]) -> dict[str, T]:
    if not put and not gone:
        return before  # it is never changed, so the next snapshot may have it too
    after = {**before, **put}
    for key in gone:
        after.pop(key, None)
    return after
