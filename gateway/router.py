"""Where a request goes: the names of the snapshot, and this gateway's own open requests."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import count
from typing import Protocol

from msgspec.structs import replace

from gateway.circuit import Circuits
from gateway.exchange import Exchange
from gateway.permits import Permits
from geniehive.errors import GenieHiveError, NoServiceAvailable
from geniehive.resources import Operation
from geniehive.routing.candidate import Candidate, Resolution
from geniehive.routing.eligibility import operations
from geniehive.routing.ledger import NO_ASK, Ask, Ledger
from geniehive.routing.receipt import NOBODY, Decision, decide, named
from geniehive.routing.resolve import resolve
from geniehive.routing.strategy import LEARNING, LIMIT, Ordered, decided
from geniehive.routing.table import RoutingTable

AskOf = Callable[[float, bytes], Ask]
"""What is known of a request at a time, with what the gateway puts ahead of its prompt."""


class View(Protocol):
    """What this gateway knows of the cluster."""

    def current(self) -> RoutingTable:
        """The picture to route by, swapped whole. Raises NotReady before there is one."""
        ...


class Load(Protocol):
    """This gateway's open requests."""

    @property
    def counts(self) -> Mapping[str, int]:
        """By service id."""
        ...

    @property
    def ledger(self) -> Ledger:
        """What this worker learned from its requests."""
        ...


_MOST_KEPT = 1024  # what keys with limits are answered, by name and limits


def _unread(now: float, _put_before: bytes) -> Ask:
    return Ask(now)


class Router:
    """Decides without waiting: one look at the table, one at the counts."""

    def __init__(
        self, view: View, load: Load, circuits: Circuits, *, receipts: bool = True, permits: Permits | None = None
    ) -> None:
        self._view = view
        self._permits = permits or Permits()
        self._load = load
        self._circuits = circuits
        self._receipts = receipts
        self._turns = count()
        self._kept: dict[tuple[int, frozenset[str]], tuple[Resolution, Resolution]] = {}

    def candidates(
        self, name: str, operation: Operation | None, exchange: Exchange, ask_of: AskOf = _unread
    ) -> tuple[Candidate, ...]:
        """Who could answer, best first; what that was decided on is kept for the receipt of the exchange.

        Without an operation it is the first that the name is for: of routes that are only allowed through.
        Raises what `resolve` raises, PermissionDenied or TooManyRequests where the key's limits say so, and NotReady
        before the first snapshot.
        """
        table = self._view.current()
        if operation is None:
            exchange.operation = operation = purpose(table, name)
        allowed = self._permits.check(exchange, name, operation, table)
        try:
            found = resolve(table, name, operation)
            if allowed is not None:
                found = self._only(found, allowed)
        except GenieHiveError:
            if self._receipts:  # with who was looked at, where that is why
                exchange.decision = Decision(named(name), table.remembered(name, operation))
            raise
        counts, ledger, ask = self._load.counts, self._load.ledger, NO_ASK
        ordered, parts, kept_back = found.candidates, (), NOBODY
        alone = len(ordered) == 1
        if found.strategy in LEARNING and (not alone or ledger.knows(ordered[0])):
            # Only then the prompt is looked at, and the ledger hears of the request: who has no choice learns nothing.
            exchange.ask = ask = ask_of(exchange.now(), found.role.role_id.encode() if found.role else b"")
        exchange.found = found
        if not alone:
            ordered, parts = decided(table, found, counts, next(self._turns), ask, ledger, LIMIT)
        if self._circuits.known:
            (ordered, parts), kept_back = self._circuits.arrange(Ordered(ordered, parts), exchange.now())
            if len(ordered) < len(found.candidates) and _all(ordered, kept_back):
                every = decided(table, found, counts, next(self._turns), ask, ledger)
                (ordered, parts), kept_back = self._circuits.arrange(every, exchange.now())
        if self._receipts:
            exchange.decision = decide(name, found, ordered, table.observed, counts, parts, kept_back)
        return ordered

    def _only(self, found: Resolution, assets: frozenset[str]) -> Resolution:
        """The same answer to the same question, so that what strategies remember of it is found again."""
        key = (id(found), assets)
        known = self._kept.get(key)
        if known is None or known[0] is not found:
            if len(self._kept) >= _MOST_KEPT:
                self._kept.clear()
            known = self._kept[key] = (found, only(found, assets))
        return known[1]


def purpose(table: RoutingTable, name: str) -> Operation:
    """What a name is for first of all; what leads nowhere is refused for that, whatever it is asked for."""
    for entry in table.entries(name):
        for operation in operations(entry.service, entry.asset):
            return operation
    role = table.shape.roles.get(name)
    return Operation.CHAT if role is None else role.operation


def _all(ordered: tuple[Candidate, ...], kept_back: Mapping[str, str]) -> bool:
    """Whether nobody is left who takes work."""
    return all(each.service.service_id in kept_back for each in ordered)


def only(found: Resolution, assets: frozenset[str]) -> Resolution:
    """What a name leads to, of these assets alone. Raises NoServiceAvailable if none of them can answer now."""
    kept = tuple(each for each in found.candidates if each.asset.asset_id in assets)
    if not kept:
        raise NoServiceAvailable(
            f"model {found.name!r}: no service can answer now with a model that this key may ask for",
            param="model",
            retry_after_s=5,
        )
    return found if len(kept) == len(found.candidates) else replace(found, candidates=kept)
