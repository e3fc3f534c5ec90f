"""The hosts and services as they are, and which of their facts have to be stored.

A node tells its services whole (Hello, Inventory) and then, in heartbeats, what changes often about
them. Only the former is stored: health, measurements, leases and what is loaded are told again by
the node seconds after a restart, and a database that is slow or full must not stop heartbeats.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from difflib import get_close_matches

from msgspec.structs import replace

from controlplane.events import Change, Delete, Kind, Put
from controlplane.health import HealthBook
from controlplane.traffic import TrafficTable
from geniehive.errors import NotFound
from geniehive.resources import (
    Asset,
    AssetState,
    Availability,
    Health,
    Host,
    HostObserved,
    LeaseState,
    Observed,
    Service,
    ServiceState,
)

# How a note about a refused service id begins; such notes are ours, made anew with each list of services.
_CONFLICT = "service id conflict: "

# What a node may say about its own availability; everything else is an operator's to set and lift.
NODE_AVAILABILITIES = frozenset({Availability.AVAILABLE, Availability.BUSY, Availability.PAUSED_BY_USER})


class Fleet:
    """All hosts and services, by id."""

    def __init__(self, hosts: Iterable[Host], services: Iterable[Service]) -> None:
        self.hosts = {host.host_id: host for host in hosts}
        self.verdicts = HealthBook()
        # As the nodes told them; `services` has the gateways' traffic merged in, and the health that counts.
        self._told = {one.service_id: one for one in services if one.host_id in self.hosts}
        self.services = dict(self._told)
        self._of_host: dict[str, set[str]] = {}
        for one in self._told.values():
            self._of_host.setdefault(one.host_id, set()).add(one.service_id)

    def host(self, host_id: str) -> Host:
        """A host; raises NotFound with near misses."""
        found = self.hosts.get(host_id)
        if found is None:
            raise NotFound(f"no host {host_id!r}{_near(host_id, self.hosts)}", param="host_id")
        return found

    def service_on(self, host_id: str, service_id: str) -> Service:
        """A service of a host; raises NotFound with near misses."""
        found = self._told.get(service_id)
        if found is None or found.host_id != host_id:
            near = _near(service_id, self.service_ids(host_id))
            raise NotFound(f"no service {service_id!r} on host {host_id!r}{near}", param="service_id")
        return found

    def service_ids(self, host_id: str) -> set[str]:
        """The services of a host."""
        return set(self._of_host.get(host_id, ()))

    # --- what a node told whole ---

    def admit(self, host: Host, services: Iterable[Service]) -> tuple[Host, tuple[Service, ...]]:
        """Host and services as they count: operators' availability kept, foreign service ids left out with a note."""
        mine = []
        notes = [note for note in host.notes if not note.startswith(_CONFLICT)]
        for one in services:
            owner = self._owner_elsewhere(one.service_id, host.host_id)
            if owner is None:
                mine.append(replace(one, host_id=host.host_id))
            else:
                notes.append(f"{_CONFLICT}{one.service_id} belongs to host {owner}, give it another service_id here")
        known = self.hosts.get(host.host_id)
        availability = host.availability if host.availability in NODE_AVAILABILITIES else Availability.AVAILABLE
        if known is not None and known.availability not in NODE_AVAILABILITIES:
            availability = known.availability
        return replace(host, availability=availability, notes=tuple(notes)), tuple(mine)

    def changes(self, host: Host, services: tuple[Service, ...]) -> tuple[Change, ...]:
        """What has to be stored before these may count."""
        known = self.hosts.get(host.host_id)
        changes: list[Change] = []
        if known is None or durable_host(known) != durable_host(host):
            changes.append(Put(durable_host(host)))
        for one in services:
            before = self._told.get(one.service_id)
            if before is None or _stored_shape(before) != _stored_shape(one):
                changes.append(Put(durable_service(one)))
        gone = self.service_ids(host.host_id) - {one.service_id for one in services}
        return (*changes, *(Delete(Kind.SERVICE, key) for key in sorted(gone)))

    def put_host(self, host: Host) -> None:
        """Add or replace a host."""
        self.hosts[host.host_id] = host

    def put_services(self, host_id: str, services: tuple[Service, ...], traffic: TrafficTable) -> set[str]:
        """Replace all services of a host; the ids of old and new ones."""
        before = self.service_ids(host_id)
        after = {one.service_id for one in services}
        for key in before - after:
            del self._told[key], self.services[key]
            traffic.forget(key)
            self.verdicts.forget(key)
        for one in services:
            known = self._told.get(one.service_id)
            if known is not None and known.host_id != host_id:
                self._of_host[known.host_id].discard(one.service_id)
            self._told[one.service_id] = _carry_over(known, one)
        self._of_host[host_id] = after
        self.merge(after, traffic)
        return before | after

    def drop_host(self, host_id: str, traffic: TrafficTable) -> set[str]:
        """Remove a host with its services; their ids."""
        gone = self.put_services(host_id, (), traffic)
        del self.hosts[host_id], self._of_host[host_id]
        return gone

    # --- what changes often ---

    def set_lease(self, host_id: str, lease: LeaseState) -> None:
        """Note where a host stands."""
        self.hosts[host_id] = replace(self.hosts[host_id], lease=lease)

    def measure(self, host_id: str, observed: HostObserved, states: Iterable[ServiceState]) -> set[str]:
        """Take a heartbeat's measurements; the services that they are of. Unknown ones wait for an inventory."""
        self.hosts[host_id] = replace(self.hosts[host_id], observed=observed)
        found = set()
        for state in states:
            service = self._told.get(state.service_id)
            if service is not None and service.host_id == host_id:
                self._told[state.service_id] = _measured(service, state)
                found.add(state.service_id)
        return found

    def unmeasure(self, host_id: str) -> set[str]:
        """Measurements of a host are too old to count: unknown from now on. The services that they were of."""
        self.hosts[host_id] = replace(self.hosts[host_id], observed=HostObserved())
        found = self.service_ids(host_id)
        for key in found:
            self._told[key] = replace(self._told[key], observed=Observed())
        return found

    def merge(self, service_ids: Iterable[str], traffic: TrafficTable) -> None:
        """Bring the gateways' traffic, and what speaks against a service's health, into what the nodes told."""
        for key in service_ids:
            told = self._told.get(key)
            if told is not None:
                merged, health = traffic.merge(key, told.observed), self.verdicts.weigh(key, told.health)
                same = merged is told.observed and health is told.health
                self.services[key] = told if same else replace(told, observed=merged, health=health)

    def told_health(self, service_ids: Iterable[str]) -> Mapping[str, Health]:
        """The nodes' own word on those of the services that are known."""
        return {key: self._told[key].health for key in service_ids if key in self._told}

    def _owner_elsewhere(self, service_id: str, host_id: str) -> str | None:
        """The other host that has this service id, unless it is gone."""
        found = self._told.get(service_id)
        if found is None or found.host_id == host_id or self.hosts[found.host_id].lease is LeaseState.OFFLINE:
            return None
        return found.host_id


def durable_host(host: Host) -> Host:
    """A host as it is stored."""
    return replace(host, lease=LeaseState.UP, boot_epoch=0, observed=HostObserved(), heartbeat_age_seconds=None)


def durable_service(service: Service) -> Service:
    """A service as it is stored; what was loaded is kept as a first guess after a restart."""
    return replace(service, health=Health(), observed=Observed())


def _stored_shape(service: Service) -> Service:
    """What of a service is worth a write."""
    assets = tuple(replace(one, loaded=None, vram_bytes=None) for one in service.assets)
    return replace(durable_service(service), assets=assets)


def _carry_over(before: Service | None, service: Service) -> Service:
    """A service told whole, with health and measurements kept where it tells none."""
    if before is None or before.host_id != service.host_id:
        return service
    health = before.health if service.health == Health() else service.health
    observed = before.observed if service.observed == Observed() else service.observed
    return replace(service, health=health, observed=observed)


def _measured(service: Service, state: ServiceState) -> Service:
    told = {one.asset_id: one for one in state.assets}
    assets = service.assets
    if told:
        assets = tuple(_measured_asset(one, told.get(one.asset_id)) for one in assets)
    return replace(service, health=state.health, observed=state.observed, assets=assets)


def _measured_asset(asset: Asset, state: AssetState | None) -> Asset:
    return asset if state is None else replace(asset, loaded=state.loaded, vram_bytes=state.vram_bytes)


def _near(wanted: str, known: Iterable[str]) -> str:
    """A hint for a name that is not known."""
    found = get_close_matches(wanted, sorted(known), n=3, cutoff=0.5)
    return f"; did you mean {', '.join(found)}?" if found else ""
