"""What scenarios cannot say well; the stories are in tests/scenarios."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from controlplane import events as ev
from controlplane.cluster import ClusterState
from controlplane.leases import LeaseTerms
from geniehive.errors import GenieHiveError
from geniehive.resources import (
    Asset,
    AssetState,
    Availability,
    Health,
    HealthStatus,
    Host,
    HostObserved,
    LeaseState,
    Observed,
    Role,
    Service,
    ServiceState,
    ServiceTraffic,
)
from geniehive.routing.apply import apply_delta, apply_observed


def at(seconds: float) -> ev.Instant:
    return ev.Instant(seconds, 1_000 + int(seconds * 1000))


def state(registry: ev.Registry | None = None) -> ClusterState:
    return ClusterState(LeaseTerms(), 4, registry or ev.Registry(), at(0))


def settle(cluster: ClusterState, event: ev.Event, now: ev.Instant) -> list[ev.Effect]:
    """Apply an event, with a store that works."""
    effects = cluster.apply(event, now)
    if effects and isinstance(effects[0], ev.Persist):
        assert len(effects) == 1
        return cluster.apply(ev.Persisted(effects[0].event, effects[0].changes), now)
    return effects


def hello(host_id: str = "atlas", *services: Service, epoch: int = 1) -> ev.HelloReceived:
    host = Host(host_id=host_id, boot_epoch=epoch)
    return ev.HelloReceived(session_id=f"s-{host_id}-{epoch}", host=host, services=services)


def test_nothing_has_changed_until_it_is_stored() -> None:
    cluster = state()
    before = cluster.snapshot
    effects = cluster.apply(hello(), at(1))
    assert [type(one) for one in effects] == [ev.Persist]
    assert cluster.snapshot is before
    assert cluster.host_view("atlas", at(1)) is None
    assert cluster.apply(hello(), at(1)) == effects  # a proposal may be made again


def test_what_is_stored_has_no_lease_no_epoch_and_no_measurements() -> None:
    cluster = state()
    told = hello("atlas", Service(service_id="chat", host_id="", observed=Observed(running=3)))
    (effect,) = cluster.apply(told, at(1))
    assert isinstance(effect, ev.Persist)
    assert effect.changes == (ev.Put(Host(host_id="atlas")), ev.Put(Service(service_id="chat", host_id="atlas")))


def test_measurements_without_a_successor_count_as_unknown_after_a_while() -> None:
    cluster = ClusterState(LeaseTerms(ttl_s=90, measured_s=30), 4, ev.Registry(), at(0))
    settle(cluster, hello("atlas", Service(service_id="chat", host_id="atlas")), at(0))
    state = ServiceState(service_id="chat", health=Health(status=HealthStatus.HEALTHY), observed=Observed(running=3))
    beat = ev.HeartbeatReceived(
        session_id="s-atlas-1", host_id="atlas", boot_epoch=1, sequence=1,
        host=HostObserved(ram_available_bytes=7), services=(state,),
    )  # fmt: skip
    cluster.apply(beat, at(1))
    seen = []
    for second in (30, 31):
        cluster.apply(ev.Tick(), at(second))
        cluster.apply(ev.ObservedDue(), at(second))
        seen.append((cluster.snapshot.services["chat"].observed, cluster.snapshot.hosts["atlas"].observed))
    assert seen == [(Observed(running=3), HostObserved(ram_available_bytes=7)), (Observed(), HostObserved())]
    assert cluster.snapshot.services["chat"].health.status is HealthStatus.HEALTHY


def test_the_age_of_a_heartbeat_is_unknown_until_one_came() -> None:
    cluster = state(ev.Registry(hosts=[Host(host_id="atlas", lease=LeaseState.OFFLINE)]))
    host = cluster.host_view("atlas", at(1))
    assert host is not None
    assert (host.lease, host.heartbeat_age_seconds) == (LeaseState.UP, None)
    settle(cluster, hello(), at(2))
    host = cluster.host_view("atlas", at(5))
    assert host is not None
    assert host.heartbeat_age_seconds == 3.0


def test_a_heartbeat_that_waits_for_its_turn_renews_the_lease_at_once() -> None:
    cluster = state()
    settle(cluster, hello(), at(0))
    late = ev.HeartbeatReceived(session_id="s-atlas-1", host_id="atlas", boot_epoch=1, sequence=1, host=HostObserved())
    cluster.renew(late, at(14))
    assert not any(isinstance(one, ev.Publish) for one in cluster.apply(ev.Tick(), at(20)))
    assert cluster.snapshot.hosts["atlas"].lease is LeaseState.UP


def test_a_model_that_was_loaded_reaches_the_routes_at_once() -> None:
    cluster = state()
    settle(cluster, hello("atlas", Service(service_id="chat", host_id="", assets=(Asset(asset_id="m"),))), at(0))
    beat = ev.HeartbeatReceived(
        session_id="s-atlas-1",
        host_id="atlas",
        boot_epoch=1,
        sequence=1,
        host=HostObserved(),
        services=(ServiceState(service_id="chat", assets=(AssetState(asset_id="m", loaded=True),)),),
    )
    found = [one for one in cluster.apply(beat, at(1)) if isinstance(one, ev.Publish)]
    assert [one.delta.services[0].assets[0].loaded for one in found] == [True]


HOSTS = st.sampled_from(["a", "b", "c"])
SERVICES = st.sets(st.sampled_from(["s1", "s2", "s3"]))
EVENTS = st.one_of(
    st.builds(
        lambda host, ids, epoch: hello(
            host, *(Service(service_id=key, host_id=host) for key in sorted(ids)), epoch=epoch
        ),
        HOSTS,
        SERVICES,
        st.integers(1, 3),
    ),
    st.builds(
        lambda host, epoch, ids, status, running: ev.HeartbeatReceived(
            session_id=f"s-{host}-{epoch}",
            host_id=host,
            boot_epoch=epoch,
            sequence=1,
            host=HostObserved(cpu_utilization=running / 10),
            services=tuple(
                ServiceState(service_id=key, health=Health(status=status), observed=Observed(running=running))
                for key in sorted(ids)
            ),
        ),
        HOSTS,
        st.integers(1, 3),
        SERVICES,
        st.sampled_from(HealthStatus),
        st.integers(0, 3),
    ),
    st.builds(lambda host, epoch: ev.SessionClosed(session_id=f"s-{host}-{epoch}"), HOSTS, st.integers(1, 3)),
    st.builds(
        lambda host, availability: ev.AvailabilityRequested(host_id=host, availability=availability),
        HOSTS,
        st.sampled_from(Availability),
    ),
    st.builds(lambda host: ev.ForgetRequested(host_id=host), HOSTS),
    st.builds(lambda ids: ev.RolesLoaded(roles=tuple(Role(role_id=key) for key in sorted(ids))), SERVICES),
    st.builds(lambda key: ev.GatewayConnected(stream_id=key, gateway_id=key), HOSTS),
    st.builds(lambda key: ev.GatewayGone(stream_id=key), HOSTS),
    st.builds(
        lambda key, ids, n: ev.TrafficReported(
            stream_id=key, services=tuple(ServiceTraffic(service_id=one, in_flight=n) for one in sorted(ids))
        ),
        HOSTS,
        SERVICES,
        st.integers(0, 3),
    ),
    st.just(ev.Tick()),
    st.just(ev.ObservedDue()),
)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(EVENTS, st.floats(0, 20)), max_size=40))
def test_a_gateway_that_applies_every_update_has_the_control_planes_snapshot(steps) -> None:
    cluster, now = state(), 0.0
    gateway = cluster.snapshot
    stored: dict[tuple[ev.Kind, str], object] = {}
    for event, seconds in steps:
        now += seconds
        try:
            effects = cluster.apply(event, at(now))
            if effects and isinstance(persist := effects[0], ev.Persist):
                for change in persist.changes:
                    stored[change.kind, change.key] = change.resource if isinstance(change, ev.Put) else None
                effects = cluster.apply(ev.Persisted(persist.event, persist.changes), at(now))
        except GenieHiveError:
            continue
        for effect in effects:
            if isinstance(effect, ev.Publish):
                gateway = apply_delta(gateway, effect.delta, effect.revision)
            elif isinstance(effect, ev.PublishObserved):
                assert effect.revision == gateway.revision
                gateway = apply_observed(gateway, effect.services, effect.hosts)
        assert gateway == cluster.snapshot
    kept = {key for key, one in stored.items() if one is not None}
    known = {(ev.Kind.HOST, key) for key in cluster.snapshot.hosts}
    known |= {(ev.Kind.SERVICE, key) for key in cluster.snapshot.services}
    known |= {(ev.Kind.ROLE, key) for key in cluster.snapshot.roles}
    assert kept == known
