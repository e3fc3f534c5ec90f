"""The record of one routed request: what was known when it was decided, who was tried, how it ended.

While a request is served only references are kept: a `Decision`, a `Tried` for each attempt, and `Facts`
at the end. `receipt` makes the record of them that people and programs read, when somebody asks for it.
Times in `Facts` are seconds of one monotonic clock; in a `Receipt` they are milliseconds from the arrival
of the request. A receipt holds names, numbers and reasons: no keys, no prompts, no answers, and nothing
of what an engine said in its own words, since engines quote requests.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec
from msgspec import UNSET, UnsetType

from geniehive.resources import Availability, Observed, Operation
from geniehive.routing.candidate import Candidate, Dropped, Resolution
from geniehive.routing.steady import Steadied
from geniehive.routing.weigh import UNWEIGHED, weighed

WHOLE_FLEET: Final = 128
"""Services of a cluster whose measurements are kept all together, by one reference."""
MEASURED: Final = 8
"""Candidates, the best ones, whose measurements are kept in a larger cluster."""
LONGEST_NAME: Final = 200
OUTCOMES: Final = ("open", "ok", "failed", "cut", "cancelled")
"""open: it runs. ok: it came to its end. failed: no answer began, or an error is the answer. cut: the answer
began and broke off. cancelled: the client left, or the gateway ended the request."""

NOBODY: Final[Mapping[str, str]] = {}
"""Whom a gateway keeps back, mostly."""
_CLIENT_GONE = 499
_SIGNALS = (
    "running", "waiting", "in_flight", "kv_cache_usage", "tokens_per_second", "ttft_seconds", "latency_seconds",
)  # fmt: skip


class Decision(msgspec.Struct, gc=False):  # never part of a cycle
    """What a request was routed by: references to what was there at that moment.

    `measured` and `own` (requests that this gateway had open) are by service id; `parts` is what the
    strategy kept of the candidates, in their order, where it weighs. `resolution` is None where the name
    led nowhere.
    """

    model: str
    resolution: Resolution | None = None
    ordered: tuple[Candidate, ...] = ()
    measured: Mapping[str, Observed] = {}
    own: Mapping[str, int] = {}
    parts: tuple[Any, ...] = ()
    kept_back: Mapping[str, str] = {}
    """Why the gateway would rather not ask a service, by service id: it failed or was busy lately."""


def decide(
    model: str,
    resolution: Resolution,
    ordered: tuple[Candidate, ...],
    observed: Mapping[str, Observed],
    in_flight: Mapping[str, int],
    parts: tuple[Any, ...] = (),
    kept_back: Mapping[str, str] = NOBODY,
) -> Decision:
    """Keep what a decision saw. `observed` must not change afterwards, `in_flight` may."""
    if len(observed) > WHOLE_FLEET:  # a copy of few, or old receipts would hold old pictures of a whole fleet
        ids = [candidate.service.service_id for candidate in ordered[:MEASURED]]
        observed = {each: observed[each] for each in ids if each in observed}
        in_flight = {each: in_flight[each] for each in ids if each in in_flight}
    return Decision(named(model), resolution, ordered, observed, {**in_flight}, parts, kept_back)


def named(model: str) -> str:
    """A name as receipts keep it: clients may send a megabyte."""
    return model if len(model) <= LONGEST_NAME else model[:LONGEST_NAME]


Told = tuple[int | None, int | None, str | None, int | None, tuple[float, float] | None]
"""What an answer tells of itself, None where it does not: tokens of the prompt, generated tokens, why it stopped,
tokens of the prompt that were in the engine's cache, seconds of reading and of writing by the engine's own clock."""
UNTOLD: Final[Told] = (None, None, None, None, None)


class Tried(msgspec.Struct, gc=False):
    """One attempt, written while it runs."""

    candidate: Candidate
    began: float
    until: float | None = None
    """When the wait was over: its stream began, its whole answer was there, or it had failed."""
    streamed: bool = False
    """Whether that was its first byte; when the first byte of a whole answer came, nobody knows."""
    outcome: str = "open"
    reason: str = ""
    """Why it failed, in our words."""
    note: str = ""
    """What was special about it, in words."""
    loading_at: float | None = None
    """When its model was last known to be loading."""
    status: int | None = None
    """HTTP status of the engine's answer."""
    answer_bytes: int = 0
    resumed: str = ""
    """How it went on with a stream that was cut: prefill, append or repeat; empty for an attempt from the start."""
    told: Told = UNTOLD


class Facts(msgspec.Struct, gc=False):
    """What was written down of one request; `ended` and `status` are None while it is open."""

    request_id: str
    principal: str
    operation: Operation | None
    decision: Decision
    tried: list[Tried]
    began: float
    now: float
    """When this was written down, on the clock of `began`."""
    unix_now: float
    """The same moment in seconds since the Unix epoch."""
    status: int | None
    stream: bool
    body_bytes: int
    body_seconds: float
    overhead_seconds: float | None
    queue_seconds: float
    upstream_seconds: float
    first_byte: float | None
    failure: str
    queue_position: int | None = None
    steadied: Steadied | None = None


class CandidateSeen(msgspec.Struct, frozen=True, kw_only=True):
    """A candidate as the decision saw it; `signals` has the values that were known then, by name."""

    service_id: str
    asset_id: str
    host_id: str
    role_id: str | None
    tier: tuple[int, ...]
    score: float | None
    signals: dict[str, float]
    reasons: tuple[str, ...]


class DroppedSeen(msgspec.Struct, frozen=True, kw_only=True):
    """What was looked at and could not answer, with the reason in words."""

    service_id: str
    asset_id: str
    reason: str


class Attempt(msgspec.Struct, frozen=True, kw_only=True):
    """One attempt; `started_ms` is from the request's arrival, `first_byte_ms` from the attempt's start.

    `resumed` is how it went on with a stream that was cut (prefill, append or repeat); null for one from the start.
    """

    service_id: str
    asset_id: str
    host_id: str
    started_ms: float
    outcome: str
    note: str | None
    error: str | None
    status: int | None
    first_byte_ms: float | None
    duration_ms: float
    resumed: str | None = None


class Timings(msgspec.Struct, frozen=True, kw_only=True):
    """Where the time went, in milliseconds; `first_byte_ms` and `total_ms` from the request's arrival.

    `queue_ms` is the wait for a place at a service, `queue_position` where the request stood then, from 1.
    `body_ms` is the wait for the client's body, `upstream_ms` the wait for engines until a stream began
    or a whole answer was there, `overhead_ms` what the gateway itself took before it.
    """

    body_ms: float
    overhead_ms: float | None
    queue_ms: float
    queue_position: int | None
    upstream_ms: float
    first_byte_ms: float | None
    total_ms: float


class Receipt(msgspec.Struct, frozen=True, kw_only=True):
    """The whole record; in listings without `candidates` and `dropped`. Absent values are unknown."""

    request_id: str
    at_ms: int
    """Arrival, Unix milliseconds."""
    principal: str
    """Name of the key."""
    model: str
    """As the client asked."""
    operation: str | None
    match: str | None
    role_id: str | None
    """The role that led to the service which was tried last, or the one that was asked for."""
    strategy: str | None
    service_id: str | None
    """Tried last: who answered, if anybody did."""
    asset_id: str | None
    host_id: str | None
    outcome: str
    status: int | None
    """What the client got; 499 if it left."""
    error: str | None
    stream: bool
    stream_cut: bool
    finish_reason: str | None
    prompt_tokens: int | None
    completion_tokens: int | None
    cached_tokens: int | None
    """Of the prompt, those that the engine had in its cache."""
    steadied: tuple[str, ...]
    """What a role with `steady_prefix` evened out at the beginning of the prompt."""
    kept_prefix_bytes: int | None
    """Bytes of the prompt behind that, which the engine could not have found in its cache otherwise."""
    request_bytes: int
    answer_bytes: int
    timings: Timings
    attempts: tuple[Attempt, ...]
    candidates: tuple[CandidateSeen, ...] | UnsetType = UNSET
    dropped: tuple[DroppedSeen, ...] | UnsetType = UNSET


def outcome_of(facts: Facts) -> str:
    """How the request ended, in one of `OUTCOMES`."""
    last = facts.tried[-1].outcome if facts.tried else ""
    if facts.status is None:
        return "open"
    if last == "cut" or (last == "failed" and any(each.outcome == "cut" for each in facts.tried)):
        return "cut"  # also where others were asked to go on, and nobody could
    if facts.status == _CLIENT_GONE:
        return "cancelled"
    # A stream that never began may have been answered 200: its status went out with a comment line.
    return "ok" if facts.status < 400 and last != "failed" else "failed"


def receipt(facts: Facts, *, whole: bool = True) -> Receipt:
    """The record of a request; not `whole` is without what was decided on."""
    decision, found = facts.decision, facts.decision.resolution
    last = facts.tried[-1] if facts.tried else None
    prompt_tokens, tokens, finish_reason, cached_tokens, _times = last.told if last else UNTOLD
    at = last.candidate if last else None
    role = (at.role if at else None) or (found.role if found else None)
    outcome = outcome_of(facts)
    return Receipt(
        request_id=facts.request_id,
        at_ms=round((facts.unix_now - (facts.now - facts.began)) * 1000),
        principal=facts.principal,
        model=decision.model,
        operation=facts.operation.value if facts.operation else None,
        match=found.match if found else None,
        role_id=role.role_id if role else None,
        strategy=found.strategy if found else None,
        service_id=at.service.service_id if at else None,
        asset_id=at.asset.asset_id if at else None,
        host_id=at.host.host_id if at else None,
        outcome=outcome,
        status=facts.status,
        error=_error(facts, outcome),
        stream=facts.stream,
        stream_cut=facts.stream and outcome == "cut",
        finish_reason=finish_reason,
        prompt_tokens=prompt_tokens,
        completion_tokens=tokens,
        cached_tokens=cached_tokens,
        steadied=facts.steadied.what if facts.steadied else (),
        kept_prefix_bytes=facts.steadied.kept_bytes if facts.steadied else None,
        request_bytes=facts.body_bytes,
        answer_bytes=last.answer_bytes if last else 0,
        timings=_timings(facts),
        attempts=tuple(_attempt(each, facts) for each in facts.tried),
        candidates=tuple(_candidates(decision)) if whole else UNSET,
        dropped=tuple(_dropped(each) for each in found.dropped) if whole and found else (() if whole else UNSET),
    )


def _error(facts: Facts, outcome: str) -> str | None:
    if outcome in {"ok", "open"}:
        return None
    said = facts.failure or (facts.tried[-1].reason if facts.tried else "")
    return said or ("the client went away" if outcome == "cancelled" else None)


def _timings(facts: Facts) -> Timings:
    return Timings(
        body_ms=_ms(facts.body_seconds),
        overhead_ms=None if facts.overhead_seconds is None else _ms(facts.overhead_seconds),
        queue_ms=_ms(facts.queue_seconds),
        queue_position=facts.queue_position,
        upstream_ms=_ms(facts.upstream_seconds),
        first_byte_ms=None if facts.first_byte is None else _ms(facts.first_byte - facts.began),
        total_ms=_ms(facts.now - facts.began),
    )


def _attempt(tried: Tried, facts: Facts) -> Attempt:
    candidate = tried.candidate
    over = facts.now if tried.until is None or tried.outcome != "failed" else tried.until
    reason = tried.reason or (facts.failure if tried.outcome in {"cut", "cancelled"} else "")
    return Attempt(
        service_id=candidate.service.service_id,
        asset_id=candidate.asset.asset_id,
        host_id=candidate.host.host_id,
        started_ms=_ms(tried.began - facts.began),
        outcome=tried.outcome,
        note=tried.note or None,
        error=reason or None,
        status=tried.status,
        first_byte_ms=_ms(tried.until - tried.began) if tried.streamed and tried.until is not None else None,
        duration_ms=_ms(over - tried.began),
        resumed=tried.resumed or None,
    )


def _candidates(decision: Decision) -> list[CandidateSeen]:
    seen = []
    strategy = decision.resolution.strategy if decision.resolution else ""
    for place, candidate in enumerate(decision.ordered):
        made = weighed(strategy, decision.parts[place]) if place < len(decision.parts) else UNWEIGHED
        seen.append(
            CandidateSeen(
                service_id=candidate.service.service_id,
                asset_id=candidate.asset.asset_id,
                host_id=candidate.host.host_id,
                role_id=candidate.role.role_id if candidate.role else None,
                tier=candidate.tier,
                score=made.score,
                signals={**_signals(decision, candidate.service.service_id), **made.signals},
                reasons=(*reasons(candidate), *made.reasons, *_kept_back(decision, candidate)),
            )
        )
    return seen


def _signals(decision: Decision, service_id: str) -> dict[str, float]:
    seen = decision.measured.get(service_id)
    if seen is None:
        return {}
    known = {name: getattr(seen, name) for name in _SIGNALS}
    own = decision.own.get(service_id, 0)
    return {**{name: value for name, value in known.items() if value is not None}, "own_in_flight": own}


def _kept_back(decision: Decision, candidate: Candidate) -> tuple[str, ...]:
    why = decision.kept_back.get(candidate.service.service_id)
    return (why,) if why else ()


def reasons(candidate: Candidate) -> tuple[str, ...]:
    """Why a candidate was kept, in words: its health and its model's state, and what its role likes in it."""
    service, asset, host, role = candidate.service, candidate.asset, candidate.host, candidate.role
    found = [f"service is {service.health.status.value}"]
    if asset.loaded is not None:
        found.append("model is loaded" if asset.loaded else "model is not loaded")
    if host.availability is not Availability.AVAILABLE:
        found.append(f"host is {host.availability.value}")
    if role is not None:
        found.append(f"by role {role.role_id}")
        families = [family.casefold() for family in role.routing_policy.preferred_families]
        if asset.family.casefold() in families:
            found.append(f"family {asset.family} is choice {families.index(asset.family.casefold()) + 1} of the role")
        wanted = role.routing_policy.preferred_labels.items()
        found.extend(f"label {name}={value}" for name, value in wanted if host.labels.get(name) == value)
    return tuple(found)


def _dropped(dropped: Dropped) -> DroppedSeen:
    return DroppedSeen(service_id=dropped.service_id, asset_id=dropped.asset_id, reason=dropped.reason)


def _ms(seconds: float) -> float:
    return round(max(0.0, seconds) * 1000, 3)
