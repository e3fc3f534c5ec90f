from __future__ import annotations

from msgspec.structs import replace

from controlplane.snapshots import SnapshotBook
from geniehive.resources import Health, HealthStatus, Host, HostObserved, Observed, Service, Snapshot

HOST = Host(host_id="h")
SERVICE = Service(service_id="s", host_id="h")


def book() -> SnapshotBook:
    return SnapshotBook(Snapshot(epoch=3, revision=1, hosts={"h": HOST}, services={"s": SERVICE}))


def test_a_measurement_leaves_the_revision_and_goes_the_slow_lane() -> None:
    found = book()
    busy = replace(SERVICE, observed=Observed(running=2))
    found.touch(hosts={"h"}, services={"s"})
    assert found.shape({"h": HOST}, {"s": busy}, {}) is None
    assert found.observed_moved
    batch = found.observed({"h": HOST}, {"s": busy})
    assert batch is not None
    assert (batch.revision, dict(batch.services), dict(batch.hosts)) == (1, {"s": Observed(running=2)}, {})
    assert found.snapshot.services["s"] == busy


def test_measurements_that_came_back_to_where_they_were_are_not_sent() -> None:
    found = book()
    found.touch(services={"s"})
    found.shape({"h": HOST}, {"s": replace(SERVICE, observed=Observed(running=2))}, {})
    assert found.observed({"h": HOST}, {"s": SERVICE}) is None


def test_health_is_shape_and_carries_the_measurements_with_it() -> None:
    found = book()
    sick = replace(SERVICE, health=Health(status=HealthStatus.UNHEALTHY), observed=Observed(running=0))
    found.touch(services={"s"})
    published = found.shape({"h": HOST}, {"s": sick}, {})
    assert published is not None
    assert (published.epoch, published.revision, published.delta.base_revision) == (3, 2, 1)
    assert published.delta.services == (sick,)
    assert not found.observed_moved


def test_what_nobody_named_is_not_compared() -> None:
    found = book()
    assert found.shape({"h": replace(HOST, address="10.0.0.1")}, {"s": SERVICE}, {}) is None


def test_what_is_gone_is_named_once_and_the_old_snapshot_keeps_it() -> None:
    found = book()
    before = found.snapshot
    found.touch(hosts={"h"}, services={"s", "never"})
    published = found.shape({}, {}, {})
    assert published is not None
    assert (published.delta.removed_host_ids, published.delta.removed_service_ids) == (("h",), ("s",))
    assert not found.snapshot.hosts
    assert before.hosts == {"h": HOST}


def test_a_hosts_measurements_are_batched_too() -> None:
    found = book()
    warm = replace(HOST, observed=HostObserved(cpu_utilization=0.5))
    found.touch(hosts={"h"})
    assert found.shape({"h": warm}, {"s": SERVICE}, {}) is None
    batch = found.observed({"h": warm}, {"s": SERVICE})
    assert batch is not None
    assert dict(batch.hosts) == {"h": HostObserved(cpu_utilization=0.5)}
