from __future__ import annotations

import pytest
from msgspec.structs import replace

from controlplane.events import Delete, Kind, Put
from controlplane.fleet import Fleet
from controlplane.traffic import TrafficTable
from geniehive.errors import NotFound
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
    Service,
    ServiceState,
)

ATLAS = Host(host_id="atlas")
CHAT = Service(service_id="chat", host_id="atlas", assets=(Asset(asset_id="m", loaded=False),))
HEALTHY = Health(status=HealthStatus.HEALTHY)


def fleet() -> Fleet:
    return Fleet([ATLAS], [CHAT])


def test_what_changes_often_is_never_worth_a_write() -> None:
    busy = replace(
        CHAT,
        health=HEALTHY,
        observed=Observed(running=3),
        assets=(Asset(asset_id="m", loaded=True, vram_bytes=5),),
    )
    host = replace(ATLAS, boot_epoch=9, observed=HostObserved(cpu_utilization=1.0))
    assert fleet().changes(host, (busy,)) == ()


def test_facts_are_written_without_what_changes_often() -> None:
    found = fleet().changes(
        replace(ATLAS, address="10.0.0.1", boot_epoch=9), (replace(CHAT, endpoint="http://x", health=HEALTHY),)
    )
    assert found == (Put(replace(ATLAS, address="10.0.0.1")), Put(replace(CHAT, endpoint="http://x")))


def test_a_service_that_is_not_listed_is_deleted() -> None:
    assert fleet().changes(ATLAS, ()) == (Delete(Kind.SERVICE, "chat"),)


def test_a_list_without_health_and_measurements_keeps_what_heartbeats_told() -> None:
    found = fleet()
    found.measure("atlas", HostObserved(), [ServiceState(service_id="chat", health=HEALTHY)])
    found.put_services("atlas", (replace(CHAT, endpoint="http://x"),), TrafficTable())
    assert found.services["chat"].health == HEALTHY


def test_a_heartbeat_says_what_is_loaded_and_leaves_the_rest_of_an_asset() -> None:
    found = fleet()
    state = ServiceState(service_id="chat", assets=(AssetState(asset_id="m", loaded=True), AssetState(asset_id="x")))
    assert found.measure("atlas", HostObserved(), [state]) == {"chat"}
    found.merge(["chat"], TrafficTable())
    assert found.services["chat"].assets == (Asset(asset_id="m", loaded=True),)


def test_a_heartbeat_cannot_speak_for_services_of_others() -> None:
    found = Fleet([ATLAS, Host(host_id="borea")], [CHAT])
    assert found.measure("borea", HostObserved(), [ServiceState(service_id="chat", health=HEALTHY)]) == set()
    assert found.services["chat"].health == Health()


def test_a_service_id_of_another_host_is_left_out_with_a_note_until_that_host_is_offline() -> None:
    found = Fleet([ATLAS, Host(host_id="borea")], [CHAT])
    for _ in range(2):  # a second list makes no second note
        host, services = found.admit(found.hosts["borea"], [CHAT])
        assert services == ()
        assert len(host.notes) == 1
        assert "chat belongs to host atlas" in host.notes[0]
        found.put_host(host)
    found.set_lease("atlas", LeaseState.OFFLINE)
    host, services = found.admit(found.hosts["borea"], [CHAT])
    assert host.notes == ()
    assert services == (replace(CHAT, host_id="borea"),)
    found.put_services("borea", services, TrafficTable())
    assert (found.service_ids("atlas"), found.service_ids("borea")) == (set(), {"chat"})


@pytest.mark.parametrize(
    ("stored", "told", "counts"),
    [
        (Availability.AVAILABLE, Availability.BUSY, Availability.BUSY),
        (Availability.PAUSED_BY_USER, Availability.AVAILABLE, Availability.AVAILABLE),
        (Availability.DRAINING, Availability.AVAILABLE, Availability.DRAINING),
        (Availability.QUARANTINED, Availability.BUSY, Availability.QUARANTINED),
        (Availability.AVAILABLE, Availability.DRAINING, Availability.AVAILABLE),
    ],
)
def test_what_an_operator_set_only_an_operator_lifts(
    stored: Availability, told: Availability, counts: Availability
) -> None:
    found = Fleet([replace(ATLAS, availability=stored)], [])
    assert found.admit(replace(ATLAS, availability=told), [])[0].availability is counts


def test_a_wrong_name_gets_near_misses() -> None:
    with pytest.raises(NotFound, match="did you mean atlas"):
        fleet().host("altas")
    with pytest.raises(NotFound, match="did you mean chat"):
        fleet().service_on("atlas", "chatt")
