"""What a key with limits may ask for: which models and roles, which operations, how many at once.

A model may be named in a key's limits by its id or by one of its aliases; then it may be asked for by all of its names,
and through the ids of services that have it. A role has to be named itself; what it leads to is its own business.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import Any

from gateway.auth import Principal
from gateway.exchange import Exchange
from geniehive.errors import PermissionDenied, TooManyRequests
from geniehive.resources import Asset, Operation
from geniehive.routing.table import RoutingTable

_SHOWN = 10
Json = dict[str, Any]


class Permits:
    """Of one worker."""

    def __init__(self) -> None:
        self.open_exchanges: Callable[[], Collection[Exchange]] = tuple
        """The requests that are being answered; set once there is a front that answers them."""

    def check(self, exchange: Exchange, name: str, operation: Operation, table: RoutingTable) -> frozenset[str] | None:
        """Which assets the request may be answered by; None is all that the name leads to.

        Raises PermissionDenied, or TooManyRequests.
        """
        who = exchange.principal
        if not isinstance(who, Principal) or not who.limited:
            return None
        if who.operations and operation not in who.operations:
            can = ", ".join(sorted(who.operations))
            raise PermissionDenied(f"this key may not ask for {operation.value}: it is for {can}")
        if who.max_concurrency is not None:
            self._count(who)
        return assets_for(who, name, table)

    def _count(self, who: Principal) -> None:
        """Refuse one request more than the key may have open; this one is among them already."""
        most = who.max_concurrency or 0
        mine = sum(1 for each in self.open_exchanges() if each.principal is who and each.operation is not None)
        if mine > most:
            raise TooManyRequests(
                f"this key may have {most} requests open at once, and it has: wait for one to end", retry_after_s=1
            )


def assets_for(who: Principal, name: str, table: RoutingTable) -> frozenset[str] | None:
    """The assets behind a name that the caller may have; None is all. Raises PermissionDenied if there is none."""
    if not who.models or name in who.models:
        return None
    allowed = frozenset(entry.asset.asset_id for entry in table.entries(name) if _is_named(entry.asset, who.models))
    if not allowed:
        shown = name[:200]
        raise PermissionDenied(f"this key may not ask for {shown!r}: it is for {_some(who.models)}", param="model")
    return allowed


def _is_named(asset: Asset, models: frozenset[str]) -> bool:
    return asset.asset_id in models or not models.isdisjoint(asset.aliases)


def listed(entries: Iterable[Json], who: object) -> list[Json]:
    """The entries of the catalogue that a caller may ask for."""
    if not isinstance(who, Principal) or not who.limited:
        return list(entries)
    return [entry for entry in entries if _has_name(entry, who) and _has_operation(entry, who)]


def check_name(who: object, name: str, table: RoutingTable) -> None:
    """Raise PermissionDenied if the caller may not ask for this name, whether there is such a thing or not."""
    if isinstance(who, Principal):
        assets_for(who, name, table)


def look(entry: Json, who: object) -> Json:
    """The entry of the catalogue. Raises PermissionDenied if it does nothing that the caller may ask for."""
    if isinstance(who, Principal) and not _has_operation(entry, who):
        can = ", ".join(sorted(who.operations))
        raise PermissionDenied(f"this key may not ask for {entry['id']!r}: it is for {can}", param="model")
    return entry


def _has_name(entry: Json, who: Principal) -> bool:
    names = (entry["id"],) if _is_role(entry) else (entry["id"], *entry["geniehive"]["aliases"])
    return not who.models or not who.models.isdisjoint(names)


def _has_operation(entry: Json, who: Principal) -> bool:
    own = entry["geniehive"]
    return not who.operations or not who.operations.isdisjoint(
        [own["operation"]] if _is_role(entry) else own["operations"]
    )


def _is_role(entry: Json) -> bool:
    return bool(entry["geniehive"]["kind"] == "role")


def _some(names: Iterable[str]) -> str:
    found = sorted(names)
    return ", ".join(found[:_SHOWN]) + (", …" if len(found) > _SHOWN else "")
