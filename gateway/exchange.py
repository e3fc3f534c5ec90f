"""One request on its way through the gateway: its id, what was decided about it, where its time went."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable, Iterator
from itertools import count

import msgspec

from gateway.answers import Ending, Stream
from gateway.deadline import Deadline
from gateway.plan import Cut
from gateway.server.request import Request
from geniehive.errors import GenieHiveError, UpstreamError
from geniehive.inert import INERT_HEADERS
from geniehive.resources import Operation
from geniehive.routing.candidate import Candidate, Resolution
from geniehive.routing.ledger import Ask
from geniehive.routing.receipt import Decision, Tried
from geniehive.routing.steady import Steadied

_MOST_NAMES = 4096
_ENDS = tuple(f"{low:02x}" for low in range(256))
_MILLISECONDS = tuple(f"{hundredth / 100:.2f}" for hundredth in range(1000))
_AT_ONCE = "x-geniehive-attempts: 1\r\nx-geniehive-queue-ms: 0\r\n"
_ALWAYS = "".join(f"{name}: {value}\r\n" for name, value in {"server": "geniehive", **INERT_HEADERS}.items())


class Exchange(msgspec.Struct, eq=False):
    """Mutable, written by the one task that serves the request; times are seconds of the monotonic clock."""

    request: Request
    request_id: str
    loop: asyncio.AbstractEventLoop
    names: Names
    began: float
    """When it arrived."""
    # Not the loop's own time: uvloop's is as old as the last round of the loop, and in whole milliseconds.
    now: Callable[[], float] = time.monotonic
    body_seconds: float = 0.0
    """Waited for the client's body."""
    body_bytes: int = 0
    """Of the client's body, as it came."""
    queue_seconds: float = 0.0
    """Waited for a place at a service."""
    queue_position: int | None = None
    """Where it stood in the shortest line when it joined, from 1; None if it did not have to wait."""
    upstream_seconds: float = 0.0
    """Waited for engines, until the first byte of the answer."""
    decision: Decision | None = None
    """What it was routed by; None until it was, and where no receipts are kept."""
    found: Resolution | None = None
    """What the model's name led to."""
    ask: Ask | None = None
    """What the strategy knew of it; None for one that learns nothing from requests."""
    stream: bool = False
    """Whether a stream was asked for."""
    attempts: int = 0
    tried: list[Tried] = []
    candidate: Candidate | None = None
    cut: Cut | None = None
    """The stream that broke off, while the client's is still open."""
    first_byte: float | None = None
    """When the answer of an engine began."""
    overhead_seconds: float | None = None
    """Spent in the gateway itself before the answer, once that is known."""
    failure: str = ""
    """What went wrong in the end, in our words; empty where an attempt's reason says it."""
    principal: object = None
    operation: Operation | None = None
    """What the route is for; None for routes that reach no engine."""
    tail: str = ""
    """What follows the path of a route that takes a name, decoded."""
    response: Stream | None = None
    """Set once the status is committed."""
    ending: Ending | None = None
    """How its stream says that it broke; None is as chat completions do."""
    steadied: Steadied | None = None
    """What was done to keep its prompt's beginning warm."""
    stream_type: str = ""
    """Media type of its stream, where that is not server-sent events; nothing but data may be in it then."""
    interrupted: bool = False
    """Whether the gateway ended this request."""
    interruption: GenieHiveError | None = None
    """Why it did."""
    scope: Deadline | None = None
    """The deadline of what it waits for now, or waited for last."""

    def attempt(self, candidate: Candidate) -> Tried:
        """One more attempt begins."""
        self.attempts += 1
        self.candidate = candidate
        tried = Tried(candidate, self.now())
        self.tried.append(tried)
        return tried

    def failed(self, error: GenieHiveError) -> None:
        """Remember what went wrong; an engine's own words are left out, since they may quote the request."""
        if not self.tried or not (self.tried[-1].reason or isinstance(error, UpstreamError)):
            self.failure = error.message

    def deadline(self, seconds: float, more: Callable[[], float] | None = None) -> Deadline:
        """A scope that ends after so many seconds, or at once when it was interrupted; one at a time.

        `more` is asked at its end for how many seconds it goes on.
        """
        scope = Deadline(self.request.connection.alarm, self.now() + (0 if self.interrupted else seconds), more)
        self.scope = scope
        return scope

    def rearm(self, seconds: float) -> None:
        """Move the end of the current scope to so many seconds from now: there was progress."""
        if self.scope is not None and not self.interrupted and not self.scope.expired():
            self.scope.reschedule(self.now() + seconds)

    def interrupt(self, reason: GenieHiveError) -> None:
        """End what the request waits for now: its handler finishes it with this error."""
        self.interrupted, self.interruption = True, reason
        if self.scope is not None and not self.scope.expired():
            self.scope.reschedule(self.now())

    def headers(self, *, decided: bool = True) -> dict[str, str]:
        """The answer headers that tell who answered, and what that cost; `decided` is whether that is known."""
        return dict(line.split(": ", 1) for line in self.lines(decided=decided).split("\r\n")[:-1])

    def lines(self, *, decided: bool = True) -> str:
        """The same as they are sent, each line with its end."""
        spent = self.now() - self.began - self.body_seconds - self.queue_seconds - self.upstream_seconds
        spent = max(spent, 0.0)
        attempts, queued, candidate = self.attempts, self.queue_seconds, self.candidate
        if attempts:
            self.overhead_seconds = spent
        who = "" if candidate is None or not decided else self.names.lines(candidate)
        tries = _AT_ONCE if attempts == 1 and not queued else _tries(attempts, queued)
        hundredths = int(spent * 100_000 + 0.5)
        shown = _MILLISECONDS[hundredths] if hundredths < len(_MILLISECONDS) else f"{spent * 1000:.2f}"
        return f"{_ALWAYS}x-request-id: {self.request_id}\r\n{who}{tries}x-geniehive-overhead-ms: {shown}\r\n"


def _tries(attempts: int, queue_seconds: float) -> str:
    return f"x-geniehive-attempts: {attempts}\r\nx-geniehive-queue-ms: {queue_seconds * 1000:.0f}\r\n"


class Names:
    """The headers that name a candidate, made once for each: there are as many as services have models."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[Candidate, str]] = {}  # by identity: a candidate is costly to compare

    def lines(self, candidate: Candidate) -> str:
        """Each with its line's end."""
        known = self._known.get(id(candidate))
        if known is None or known[0] is not candidate:
            if len(self._known) >= _MOST_NAMES:  # the cluster has changed its shape since
                self._known.clear()
            known = self._known[id(candidate)] = (candidate, _lines_of(candidate))
        return known[1]


def _lines_of(candidate: Candidate) -> str:
    return (
        f"x-geniehive-service: {printable(candidate.service.service_id)}\r\n"
        f"x-geniehive-host: {printable(candidate.host.host_id)}\r\n"
        f"x-geniehive-model: {printable(candidate.asset.asset_id)}\r\n"
    )


def request_ids() -> Iterator[str]:
    """Ids that nobody has had: chance for the worker, a count for the request. They are names, not secrets."""
    worker = secrets.token_hex(6)
    for block in count(secrets.randbits(24)):
        begin = f"req_{worker}{block:010x}"
        for end in _ENDS:
            yield begin + end


def printable(text: str) -> str:
    """Text that may stand in a header; ids come from engines, which may call a model anything."""
    return text if text.isascii() and text.isprintable() else ascii(text)[1:-1]
