"""Where a request goes: the names of the snapshot, and this gateway's own open requests."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import count
from typing import Protocol

from gateway.exchange import Exchange
from geniehive.errors import GenieHiveError
from geniehive.resources import Operation
from geniehive.routing.candidate import Candidate
from geniehive.routing.receipt import Decision, decide, named
from geniehive.routing.resolve import resolve
from geniehive.routing.strategy import order
from geniehive.routing.table import RoutingTable


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


class Router:
    """Decides without waiting: one look at the table, one at the counts."""

    def __init__(self, view: View, load: Load, *, receipts: bool = True) -> None:
        self._view = view
        self._load = load
        self._receipts = receipts
        self._turns = count()

    def candidates(self, name: str, operation: Operation, exchange: Exchange) -> tuple[Candidate, ...]:
        """Who could answer, best first; what that was decided on is kept for the receipt of the exchange.

        Raises what `resolve` raises, and NotReady before the first snapshot.
        """
        table = self._view.current()
        try:
            found = resolve(table, name, operation)
        except GenieHiveError:
            if self._receipts:  # with who was looked at, where that is why
                exchange.decision = Decision(named(name), table.remembered(name, operation))
            raise
        ordered = order(table, found, self._load.counts, next(self._turns))
        if self._receipts:
            exchange.decision = decide(name, found, ordered, table.observed, self._load.counts)
        return ordered
