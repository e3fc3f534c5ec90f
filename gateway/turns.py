"""[pure] Who may be asked next, when an attempt has failed.

Other services first, in their order; the role's own before those of its fallback roles, but the last attempt is
kept for a fallback where there is one. Then other models of services that can still be spoken to. Then, where all
is used up, one service gets a second chance: the one that was busy and names the shortest wait, the one that is
loading its model, or the only one that there is. A prompt that is too long goes to larger contexts alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from gateway.verdict import AttemptFailed, Kind
from geniehive.routing.candidate import Candidate

MAX_ATTEMPTS = 4
_MOST_CRASHES = 2  # a request that lets engines fail is not shown to all of them


class Failed(NamedTuple):
    """Who was asked, and what came of it."""

    candidate: Candidate
    error: AttemptFailed


class Turn(NamedTuple):
    """Those who may be asked next, best first; `again` is whether they were asked before."""

    candidates: tuple[Candidate, ...] = ()
    again: bool = False


def following(
    ordered: Sequence[Candidate],
    everybody: Iterable[Candidate],
    failed: Sequence[Failed],
    shut: Callable[[str], bool],
) -> Turn:
    """Whose turn it is after these failures, the last of them last.

    `ordered` are those whom the strategy chose, `everybody` all that there are; of a service that is `shut`
    nothing is to be had in the time that a client may wait.
    """
    if not failed[-1].error.retry or sum(each.error.kind is Kind.CRASH for each in failed) >= _MOST_CRASHES:
        return Turn()
    if len(failed) < MAX_ATTEMPTS:
        pool = (each for each in _pool(ordered, everybody, failed) if not shut(each.service.service_id))
        found = _others(tuple(pool), failed)
        if found:
            return Turn(found)
    return _second_chance(ordered, failed, shut)


def _pool(
    ordered: Sequence[Candidate], everybody: Iterable[Candidate], failed: Sequence[Failed]
) -> Iterable[Candidate]:
    """Who comes into question at all: beyond those that were chosen only for a larger context, or a fallback."""
    seen = {_key(each) for each in ordered}
    rest = [each for each in everybody if _key(each) not in seen]
    narrow = [each for each in failed if each.error.kind is Kind.TOO_LONG]
    if narrow:
        need = max(each.error.context or each.candidate.asset.context_size or 0 for each in narrow)
        return (each for each in (*ordered, *rest) if (each.asset.context_size or 0) > need)
    return (*ordered, *(each for each in rest if each.role is not ordered[0].role))


def _others(pool: tuple[Candidate, ...], failed: Sequence[Failed]) -> tuple[Candidate, ...]:
    asked = {each.candidate.service.service_id for each in failed}
    fresh = tuple(each for each in pool if each.service.service_id not in asked)
    if fresh:
        if len(failed) == MAX_ATTEMPTS - 1:
            first = failed[0].candidate.role
            return tuple(each for each in fresh if each.role is not first) or fresh
        return fresh
    tried = {_key(each.candidate) for each in failed}
    dead = {
        each.candidate.service.service_id
        for each in failed
        if not (each.error.same_service or each.error.kind is Kind.TOO_LONG)
    }
    return tuple(each for each in pool if _key(each) not in tried and each.service.service_id not in dead)


def _second_chance(ordered: Sequence[Candidate], failed: Sequence[Failed], shut: Callable[[str], bool]) -> Turn:
    if len({_key(each.candidate) for each in failed}) < len(failed):
        return Turn()  # it has been given
    alone = len(ordered) == 1
    again = [
        each
        for each in failed
        if (
            (each.error.again and not (alone and each.error.kind is Kind.LOADING))
            or (alone and each.error.same_service)
        )
        and not shut(each.candidate.service.service_id)
    ]
    again.sort(key=lambda each: (each.error.kind is Kind.LOADING, each.error.busy_s or 0.0))
    return Turn(tuple(each.candidate for each in again[:1]), again=True)


def _key(candidate: Candidate) -> tuple[str, str]:
    return candidate.service.service_id, candidate.asset.asset_id
