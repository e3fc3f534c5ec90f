"""What a service's health counts as: the node agent's word, and what speaks against it.

The node agent looks at its engines every few seconds and is believed. Two others may differ:

* The prober, which asks from here. A probe that answers differently from the node's word counts instead
  of it: at once if it is better, after `PROBES_IN_A_ROW` of them if it is worse.
* Traffic. `FAILURES_IN_A_ROW` requests that a service failed, over at least `FAILING_FOR_S`, with no
  success between them, make it unhealthy, whatever node and probes say. One that had requests open all
  the while may merely be full, and refuse what comes on top: it has to fail for `FAILING_BUSY_FOR_S`.
  After `EJECTED_S` it is let back for a trial: one success forgets everything, one failure more ejects
  it again for twice as long, up to `EJECTED_AT_MOST_S`.

Both end when the node agent's own word changes: then it has seen something that they have not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

from controlplane.events import Finding
from geniehive.resources import Health, HealthStatus

PROBES_IN_A_ROW: Final = 2
FAILURES_IN_A_ROW: Final = 5
FAILING_FOR_S: Final = 2.0
FAILING_BUSY_FOR_S: Final = 30.0
EJECTED_S: Final = 5.0
EJECTED_AT_MOST_S: Final = 10.0

# Of at least this many probes, if more than half fail in one round, the fault is likely here.
SUSPECT_FROM: Final = 4

_RANK: Final = {HealthStatus.UNHEALTHY: 0, HealthStatus.LOADING: 1, HealthStatus.UNKNOWN: 2, HealthStatus.HEALTHY: 3}


class Ended(NamedTuple):
    """Requests of a service that ended well and that failed; `busy` is whether others are still open there."""

    succeeded: int
    failed: int
    busy: bool = False


@dataclass(slots=True)
class _Case:
    """What speaks for or against one service."""

    told: HealthStatus
    probed: Finding | None = None
    bad_probes: int = 0
    failures: int = 0
    failing_since: float = 0.0
    busy: bool = True  # whether it had requests open in every report of this row of failures
    ejections: int = 0
    ejected_until: float | None = None


class HealthBook:
    """The cases of all services."""

    def __init__(self) -> None:
        self._cases: dict[str, _Case] = {}

    def weigh(self, service_id: str, told: Health) -> Health:
        """The health that counts, where the node agent told `told`."""
        case = self._cases.get(service_id)
        if case is None:
            return told
        if case.told is not told.status:
            self._cases[service_id] = _Case(told.status)
            return told
        if case.ejected_until is not None:
            reason = f"traffic: {case.failures} requests in a row failed; tried again in a moment"
            return Health(status=HealthStatus.UNHEALTHY, reason=reason)
        if case.probed is not None and case.probed.status not in {None, told.status}:
            return Health(status=case.probed.status or told.status, reason=_said(case.probed))
        return told

    def forget(self, service_id: str) -> None:
        """The service is gone."""
        self._cases.pop(service_id, None)

    # --- probes ---

    def probed(self, findings: Mapping[str, Finding], told: Mapping[str, Health]) -> frozenset[str]:
        """Take a round of probes; the services whose health may differ now. `told` is the nodes' word."""
        if _suspicious(findings):
            return frozenset()
        known = [key for key in findings if key in told]
        for key in known:
            self._probed(self._case(key, told[key].status), findings[key])
        return frozenset(known)

    def _probed(self, case: _Case, finding: Finding) -> None:
        if finding.status is None:
            case.probed, case.bad_probes = None, 0
            return
        worse = _RANK[finding.status] < _RANK[case.told]
        case.bad_probes = case.bad_probes + 1 if worse else 0
        if not worse or case.bad_probes >= PROBES_IN_A_ROW:
            case.probed = finding

    # --- traffic ---

    def traffic(self, service_id: str, told: Health, ended: Ended, now: float) -> bool:
        """Take what ended since the last report; whether the service's health may differ now."""
        succeeded, failed, busy = ended
        if succeeded:
            case = self._cases.get(service_id)
            if case is None or not case.failures:
                return False
            was_out = case.ejected_until is not None
            case.failures, case.ejections, case.ejected_until = 0, 0, None
            return was_out
        if not failed:
            return False
        case = self._case(service_id, told.status)
        if not case.failures:
            case.failing_since, case.busy = now, True
        case.failures += failed
        case.busy = case.busy and busy
        if case.ejected_until is not None or not _hopeless(case, now):
            return False
        case.ejected_until = now + min(EJECTED_S * 2**case.ejections, EJECTED_AT_MOST_S)
        case.ejections += 1
        return True

    def expire(self, now: float) -> frozenset[str]:
        """Let back for a trial whose time is over; these services."""
        due = [key for key, case in self._cases.items() if case.ejected_until is not None and now >= case.ejected_until]
        for key in due:
            self._cases[key].ejected_until = None
        return frozenset(due)

    def _case(self, service_id: str, told: HealthStatus) -> _Case:
        """The case of a service, as of what its node told."""
        case = self._cases.get(service_id)
        if case is None or case.told is not told:
            case = self._cases[service_id] = _Case(told)
        return case


def _hopeless(case: _Case, now: float) -> bool:
    """Whether it failed too often for too long; one that was let back for a trial has no second one."""
    patience = FAILING_BUSY_FOR_S if case.busy else FAILING_FOR_S
    lasting = now - case.failing_since >= patience
    return lasting and (case.ejections > 0 or case.failures >= FAILURES_IN_A_ROW)


def _suspicious(findings: Mapping[str, Finding]) -> bool:
    """Whether so many probes failed that rather the way from here is broken."""
    bad = sum(finding.status is HealthStatus.UNHEALTHY for finding in findings.values())
    return len(findings) >= SUSPECT_FROM and 2 * bad > len(findings)


def _said(finding: Finding) -> str:
    return f"probe: {finding.reason}" if finding.reason else ""
