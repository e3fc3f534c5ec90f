"""What a worker routes by: one reference to a routing table, swapped whole.

Readers take `view.table` once and use that; they never see half an update. When the control plane is
gone the last table stays, marked stale.
"""

from __future__ import annotations

from collections.abc import Callable

from geniehive.config import ScoredConfig
from geniehive.errors import NotReady
from geniehive.resources import HostObserved, Observed, Snapshot, SnapshotDelta
from geniehive.routing.apply import apply_delta
from geniehive.routing.table import RoutingTable

_WEIGHTS = ScoredConfig()


def no_picture() -> NotReady:
    """What whoever needs to know the cluster is told before the first snapshot."""
    return NotReady("the gateway has no picture of the cluster yet: is the control plane running?", retry_after_s=1)


class RoutingView:
    """The current table and how fresh it is. Written by `RoutingWatch` alone."""

    def __init__(self, default_strategy: str = "scored", weights: ScoredConfig = _WEIGHTS) -> None:
        self._default_strategy = default_strategy
        self._weights = weights
        self.table: RoutingTable | None = None
        self.connected = False
        self.certificate_end: Callable[[], float | None] = lambda: None
        """End of what is shown to the control plane, in Unix seconds; None without TLS."""
        self._followers: list[Callable[[Snapshot], None]] = []

    def follow(self, call: Callable[[Snapshot], None]) -> None:
        """Call with every new shape of the cluster, and with the one that is known now."""
        self._followers.append(call)
        if self.table is not None:
            call(self.table.shape)

    @property
    def stale(self) -> bool:
        """Whether the table may be out of date because the control plane does not answer."""
        return self.table is not None and not self.connected

    def current(self) -> RoutingTable:
        """The table. Raises NotReady before the first snapshot."""
        if self.table is None:
            raise no_picture()
        return self.table

    def replace(self, snapshot: Snapshot) -> None:
        """Route by this snapshot from now on."""
        self.table = RoutingTable(snapshot, self._default_strategy, self._weights)
        for call in self._followers:
            call(snapshot)

    def change(self, delta: SnapshotDelta, revision: int) -> None:
        """Apply a change of shape. ValueError if it does not follow on what is here."""
        self.replace(apply_delta(self.current().snapshot, delta, revision))

    def measure(self, services: dict[str, Observed], hosts: dict[str, HostObserved]) -> None:
        """Apply new measurements."""
        if self.table is not None:
            self.table = self.table.with_observed(services, hosts)

    def forget_measurements(self) -> None:
        """What was measured is too old to count; shape and health stay, for nothing newer is known."""
        if self.table is not None:
            shape = self.table.shape
            self.measure(dict.fromkeys(shape.services, Observed()), dict.fromkeys(shape.hosts, HostObserved()))
