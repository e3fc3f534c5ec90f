"""Where a request goes: the names of the snapshot, and this gateway's own open requests."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import count
from typing import Protocol

from gateway.exchange import Exchange
from geniehive.errors import GenieHiveError
from geniehive.resources import Operation
from geniehive.routing.candidate import Candidate
from geniehive.routing.ledger import NO_ASK, Ask, Ledger
from geniehive.routing.receipt import Decision, decide, named
from geniehive.routing.resolve import resolve
from geniehive.routing.strategy import LEARNING, LIMIT, order
from geniehive.routing.table import RoutingTable
from geniehive.routing.weigh import weigh

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


def _unread(now: float, _put_before: bytes) -> Ask:
    return Ask(now)


class Router:
    """Decides without waiting: one look at the table, one at the counts."""

    def __init__(self, view: View, load: Load, *, receipts: bool = True) -> None:
        self._view = view
        self._load = load
        self._receipts = receipts
        self._turns = count()

    def candidates(
        self, name: str, operation: Operation | None, exchange: Exchange, ask_of: AskOf = _unread
    ) -> tuple[Candidate, ...]:
        """Who could answer, best first; what that was decided on is kept for the receipt of the exchange.

        Without an operation it is whatever the name stands for.

        Raises what `resolve` raises, and NotReady before the first snapshot.
        """
        table = self._view.current()
        try:
            found = resolve(table, name, operation)
        except GenieHiveError:
            if self._receipts:  # with who was looked at, where that is why
                exchange.decision = Decision(named(name), table.remembered(name, operation))
            raise
        counts, turn = self._load.counts, next(self._turns)
        ledger, ask = self._load.ledger, NO_ASK
        learns = found.strategy in LEARNING
        if learns:  # only then the prompt is looked at, and the ledger hears of the request
            exchange.ask = ask = ask_of(exchange.now(), found.role.role_id.encode() if found.role else b"")
        ordered = order(table, found, counts, turn, ask=ask, ledger=ledger, limit=LIMIT)
        if self._receipts:
            exchange.decision = made = decide(name, found, ordered, table.observed, counts)
            if learns:
                made.weighed = weigh(table, found, ordered, counts, ask, ledger)
        return ordered
