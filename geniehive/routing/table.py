"""The index that gateways route by: a snapshot, by every name that a client may use.

Built whole whenever the shape of the cluster changes, and swapped as one reference. New measurements
make a copy that shares the index. What `resolve` found is remembered here, since it can only change
with the shape.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from geniehive.config import ScoredConfig
from geniehive.resources import Asset, Host, HostObserved, Observed, Operation, Service, Snapshot
from geniehive.routing.apply import apply_observed
from geniehive.routing.candidate import Resolution, Tier
from geniehive.routing.eligibility import operations, tier, unavailable

_LATEST = ":latest"  # Ollama's tag for what has none
_WEIGHTS = ScoredConfig()


class Entry(NamedTuple):
    """An asset that a name leads to; `match` is "asset", "alias" or "service"."""

    match: str
    service: Service
    asset: Asset


class Able(NamedTuple):
    """An asset that could do an operation; `reason` says why not now, `place` how good it is before load counts."""

    key: tuple[str, str]
    service: Service
    asset: Asset
    host: Host | None
    reason: str
    place: Tier


class RoutingTable:
    """A snapshot, indexed. Treat it as immutable."""

    def __init__(self, snapshot: Snapshot, default_strategy: str = "scored", weights: ScoredConfig = _WEIGHTS) -> None:
        self.default_strategy = default_strategy
        self.weights = weights  # of `scored`
        self.observed: Mapping[str, Observed] = {name: s.observed for name, s in snapshot.services.items()}
        self._hosts_observed: Mapping[str, HostObserved] = {}
        self._shape = snapshot
        self._by_name = _index(snapshot)
        self._memo: dict[tuple[str, Operation | None], Resolution] = {}
        self._able: dict[Operation, list[Able]] = {}

    @property
    def shape(self) -> Snapshot:
        """The snapshot as of its revision; its measurements are as old as that."""
        return self._shape

    @property
    def snapshot(self) -> Snapshot:
        """The snapshot with the latest measurements. Made anew at each call: not for the request path."""
        return apply_observed(self._shape, self.observed, self._hosts_observed)

    def with_observed(self, services: Mapping[str, Observed], hosts: Mapping[str, HostObserved]) -> RoutingTable:
        """The same shape with newer measurements; what they do not name stays as it was."""
        table = RoutingTable.__new__(RoutingTable)
        table.default_strategy, table.weights = self.default_strategy, self.weights
        table.observed = {**self.observed, **services}
        table._hosts_observed = {**self._hosts_observed, **hosts}  # noqa: SLF001 - a copy of its own class
        table._shape, table._by_name, table._memo = self._shape, self._by_name, self._memo  # noqa: SLF001 - see above
        table._able = self._able  # noqa: SLF001 - see above
        return table

    def entries(self, name: str) -> tuple[Entry, ...]:
        """What a name leads to directly: assets by id, alias or service id; empty if nothing."""
        return self._by_name.get(name) or self._by_name.get(name + _LATEST) or ()

    def able(self, operation: Operation) -> list[Able]:
        """Every asset that could do this; worked out once for all roles."""
        found = self._able.get(operation)
        if found is None:
            hosts, services = self._shape.hosts, self._shape.services.values()
            found = self._able[operation] = [
                _able(service, asset, host, reason)
                for service in services
                for host in (hosts.get(service.host_id),)
                for reason in (unavailable(service, host),)
                for asset in service.assets
                if operation in operations(service, asset)
            ]
        return found

    def names(self) -> list[str]:
        """Every name that a client may use, roles included, sorted."""
        return sorted(self._by_name.keys() | self._shape.roles.keys())

    def remembered(self, name: str, operation: Operation | None) -> Resolution | None:
        """What was found for this name before, at this shape."""
        return self._memo.get((name, operation))

    def remember(self, operation: Operation | None, resolution: Resolution) -> Resolution:
        """Keep what was found; only names that exist are kept, so this is bounded."""
        self._memo[resolution.name, operation] = resolution
        return resolution


def _able(service: Service, asset: Asset, host: Host | None, reason: str) -> Able:
    place = () if host is None or reason else tier(service, asset, host)
    return Able((service.service_id, asset.asset_id), service, asset, host, reason, place)


def _index(snapshot: Snapshot) -> dict[str, tuple[Entry, ...]]:
    """Entries by name. One asset of one service appears once under a name, as its best match."""
    found: dict[str, dict[tuple[str, str], Entry]] = {}
    for match in ("asset", "alias", "service"):
        for service in snapshot.services.values():
            for asset in service.assets:
                for name in _names(match, service, asset):
                    key = (service.service_id, asset.asset_id)
                    found.setdefault(name, {}).setdefault(key, Entry(match, service, asset))
    return {name: tuple(entries[key] for key in sorted(entries)) for name, entries in found.items()}


def _names(match: str, service: Service, asset: Asset) -> tuple[str, ...]:
    match match:
        case "asset":
            return (asset.asset_id,)
        case "alias":
            return asset.aliases
        case _:
            return (service.service_id,)
