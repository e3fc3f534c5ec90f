"""The receipts of one worker: the last so many finished requests, and those that are open.

The request path hands over references (`keep`); they become receipts when somebody asks. What a query
does not find here may be at another worker of the same gateway: see `gateway.siblings`.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Collection, Iterator

import msgspec

from gateway.exchange import Exchange
from geniehive.routing.receipt import OUTCOMES, Decision, Facts, Receipt, outcome_of, receipt


class Query(msgspec.Struct, frozen=True, kw_only=True):
    """Which receipts are wanted; an empty field asks for nothing in particular."""

    request_id: str = ""
    """This one, with everything; else many, without what was decided on."""
    limit: int = 50
    model: str = ""
    """As the client asked, or as the engine that was tried last has it."""
    service_id: str = ""
    """Any attempt at it."""
    status: str = ""
    """An outcome's word, an HTTP status such as 502, or a class of them such as 5xx."""
    principal: str | None = None
    """Requests of this key alone; None is of all."""


class Page(msgspec.Struct, frozen=True, kw_only=True):
    """What one worker has; receipts newest first."""

    kept: int
    """Receipts of finished requests that it keeps."""
    receipts: list[Receipt]


class Receipts:
    """Keeps at most `limit` finished requests."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.open_exchanges: Callable[[], Collection[Exchange]] = tuple
        """The requests that are being answered; set once there is a front that answers them."""
        self._ring: deque[Facts] = deque(maxlen=limit)

    def keep(self, exchange: Exchange, status: int) -> None:
        """A request is over; one that was not routed leaves no receipt."""
        if exchange.decision is not None:
            self._ring.append(facts(exchange, exchange.decision, status))

    def page(self, query: Query) -> Page:
        """What this worker has of what is asked for."""
        found: list[Receipt] = []
        for each in self._newest_first():
            if len(found) == query.limit:
                break
            if wanted(query, each):
                found.append(receipt(each, whole=bool(query.request_id)))
        return Page(kept=len(self._ring), receipts=found)

    def _newest_first(self) -> Iterator[Facts]:
        """By arrival, open ones among the others; the ring is in order of the ends."""
        now_open = (facts(each, each.decision, None) for each in self.open_exchanges() if each.decision is not None)
        return iter(sorted((*self._ring, *now_open), key=lambda each: each.began, reverse=True))


def facts(exchange: Exchange, decision: Decision, status: int | None) -> Facts:
    """What is known of a request now; `status` is None while it is open. Nothing of the request itself is held."""
    return Facts(
        exchange.request_id,
        getattr(exchange.principal, "name", ""),
        exchange.operation,
        decision,
        exchange.tried,
        exchange.began,
        exchange.now(),
        time.time(),
        status,
        exchange.stream,
        exchange.body_bytes,
        exchange.body_seconds,
        exchange.overhead_seconds,
        exchange.queue_seconds,
        exchange.upstream_seconds,
        exchange.first_byte,
        exchange.failure,
        exchange.queue_position,
    )


def wanted(query: Query, seen: Facts) -> bool:
    """Whether a query asks for this one."""
    if query.request_id and query.request_id != seen.request_id:
        return False
    if query.principal is not None and query.principal != seen.principal:
        return False
    if query.model and query.model not in _models(seen):
        return False
    if query.service_id and all(query.service_id != each.candidate.service.service_id for each in seen.tried):
        return False
    return not query.status or _has_status(query.status, seen)


def is_status(word: str) -> bool:
    """Whether a word may stand in `Query.status`."""
    return word in OUTCOMES or (len(word) == 3 and word[0] in "12345" and (word[1:] == "xx" or word.isdigit()))


def _models(seen: Facts) -> tuple[str, ...]:
    last = (seen.tried[-1].candidate.asset.asset_id,) if seen.tried else ()
    return (seen.decision.model, *last)


def _has_status(word: str, seen: Facts) -> bool:
    if word in OUTCOMES:
        return outcome_of(seen) == word
    return seen.status is not None and str(seen.status).startswith(word.removesuffix("xx"))
