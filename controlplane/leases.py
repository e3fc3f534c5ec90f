"""Which hosts are up: a table of leases that heartbeats renew and silence ends.

    UP ──ttl──▶ STALE ──grace──▶ OFFLINE          renewed: any ──▶ UP

Times are monotonic seconds given as arguments, so a jump of the wall clock moves nothing. Time in which
the control plane itself stood still (stopped, starved) is credited to every lease.

If most hosts fall silent at once, the fault is more likely here than there: the table then holds
every lease for one extra grace, and says so, before it lets them go.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, auto

from geniehive.resources import LeaseState

# Below this many hosts "more than half of them" says nothing about the control plane.
MASS_MIN_HOSTS = 4


class LeaseInput(Enum):
    """What can happen to a lease."""

    RENEWED = auto()
    TTL_PASSED = auto()
    GRACE_PASSED = auto()


# Every legal move; what is not here changes nothing.
TRANSITIONS: Mapping[tuple[LeaseState, LeaseInput], LeaseState] = {
    (LeaseState.UP, LeaseInput.RENEWED): LeaseState.UP,
    (LeaseState.STALE, LeaseInput.RENEWED): LeaseState.UP,
    (LeaseState.OFFLINE, LeaseInput.RENEWED): LeaseState.UP,
    (LeaseState.UP, LeaseInput.TTL_PASSED): LeaseState.STALE,
    (LeaseState.STALE, LeaseInput.GRACE_PASSED): LeaseState.OFFLINE,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseTerms:
    """How long leases last, in seconds, and how often nodes should renew them.

    `measured_s`: for how long measurements count, where the lease lasts longer than that, or is held.
    """

    ttl_s: float = 15.0
    grace_s: float = 60.0
    heartbeat_interval_s: float = 5.0
    measured_s: float = 30.0

    @property
    def silence_s(self) -> float:
        """Seconds without a heartbeat after which a stream is closed."""
        return 3 * self.ttl_s


@dataclass(frozen=True, slots=True)
class Lease:
    """One host's lease: where it stands and the last renewal, in monotonic seconds."""

    state: LeaseState
    renewed_at: float


@dataclass(frozen=True, slots=True)
class Expiry:
    """What a look at the clock found: moved leases by host id, and whether a hold began or ended."""

    moved: Mapping[str, LeaseState]
    held: int = 0
    released: bool = False


class LeaseTable:
    """The leases of all hosts."""

    def __init__(self, terms: LeaseTerms) -> None:
        self.terms = terms
        self._leases: dict[str, Lease] = {}
        self._stale_at: dict[str, float] = {}
        self._suspect_since: float | None = None

    def state(self, host_id: str) -> LeaseState:
        """Where a host stands; a host without a lease is OFFLINE."""
        lease = self._leases.get(host_id)
        return LeaseState.OFFLINE if lease is None else lease.state

    def renew(self, host_id: str, now: float) -> bool:
        """Renew or begin a lease; whether the host came up by it."""
        before = self.state(host_id)
        self._leases[host_id] = Lease(TRANSITIONS[before, LeaseInput.RENEWED], now)
        self._stale_at.pop(host_id, None)
        return before is not LeaseState.UP

    def forget(self, host_id: str) -> None:
        """Drop a lease."""
        self._leases.pop(host_id, None)
        self._stale_at.pop(host_id, None)

    def credit(self, pause_s: float, now: float) -> None:
        """Do not count seconds in which we ourselves stood still: whoever spoke meanwhile could not be heard."""
        for host_id, lease in self._leases.items():
            self._leases[host_id] = Lease(lease.state, min(now, lease.renewed_at + pause_s))
        self._stale_at = {host_id: min(now, at + pause_s) for host_id, at in self._stale_at.items()}
        if self._suspect_since is not None:
            self._suspect_since = min(now, self._suspect_since + pause_s)

    def expire(self, now: float) -> Expiry:
        """Move every lease whose time has passed, unless so many would go that we suspect ourselves."""
        moved = dict.fromkeys(self._past_grace(now), LeaseState.OFFLINE)
        overdue = self._past_ttl(now)
        released = False
        if not overdue:
            released, self._suspect_since = self._suspect_since is not None, None
        elif self._suspect_since is None and (silent := self._mass_silence(now)):
            self._suspect_since = now
            return Expiry(self._move(moved, LeaseInput.GRACE_PASSED), held=silent)
        elif self._suspect_since is not None and now < self._suspect_since + self.terms.grace_s:
            return Expiry(self._move(moved, LeaseInput.GRACE_PASSED))
        self._stale_at |= dict.fromkeys(overdue, now)
        self._move(dict.fromkeys(overdue, LeaseState.STALE), LeaseInput.TTL_PASSED)
        self._move(moved, LeaseInput.GRACE_PASSED)
        return Expiry(moved | dict.fromkeys(overdue, LeaseState.STALE), released=released)

    def _move(self, hosts: dict[str, LeaseState], cause: LeaseInput) -> dict[str, LeaseState]:
        for host_id in hosts:
            lease = self._leases[host_id]
            self._leases[host_id] = Lease(TRANSITIONS[lease.state, cause], lease.renewed_at)
        return hosts

    def _past_ttl(self, now: float) -> list[str]:
        return [
            host_id
            for host_id, lease in self._leases.items()
            if lease.state is LeaseState.UP and now - lease.renewed_at >= self.terms.ttl_s
        ]

    def _past_grace(self, now: float) -> list[str]:
        """Hosts that have been stale for a grace; counted from when they went stale, which a hold may delay."""
        return [
            host_id
            for host_id, lease in self._leases.items()
            if lease.state is LeaseState.STALE and now - self._stale_at[host_id] >= self.terms.grace_s
        ]

    def _mass_silence(self, now: float) -> int:
        """How many hosts are silent if that is more than half of enough hosts, else 0.

        Heartbeats come spread over an interval, so leases lost at one moment run out one by one. A host
        that was silent for half a TTL is therefore counted with those whose TTL has passed, and so is one
        that went stale within the last TTL.
        """
        ttl = self.terms.ttl_s
        recent = sum(1 for at in self._stale_at.values() if now - at <= ttl)
        up = [lease for lease in self._leases.values() if lease.state is LeaseState.UP]
        silent = recent + sum(1 for lease in up if now - lease.renewed_at >= ttl / 2)
        total = recent + len(up)
        return silent if total >= MASS_MIN_HOSTS and 2 * silent > total else 0
