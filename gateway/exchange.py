"""One request on its way through the gateway: its id, what was decided about it, where its time went."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable
from itertools import count

from aiohttp import HttpVersion11, web
from aiohttp.web_urldispatcher import SystemRoute, UrlMappingMatchInfo

from gateway.answers import Ending, Stream
from gateway.deadline import Alarm, Deadline
from gateway.plan import Cut
from geniehive.errors import GenieHiveError, UpstreamError
from geniehive.resources import Operation
from geniehive.routing.candidate import Candidate, Resolution
from geniehive.routing.ledger import Ask
from geniehive.routing.receipt import Decision, Tried
from geniehive.routing.steady import Steadied


class Request(web.Request):
    """aiohttp's request, with a place for the name in its path, for handlers that look there."""

    _names: UrlMappingMatchInfo | None = None
    alarm: Alarm
    """The one timer of its connection."""
    ancient = False
    """Whether it came as HTTP/0.9, which nothing but a status line of HTTP/1 can answer."""

    @property
    def on_writable(self) -> Callable[[], None] | None:
        """What is called when the client takes bytes again, after it had not."""
        found: Callable[[], None] | None = self._protocol.on_writable  # type: ignore[attr-defined]
        return found

    @on_writable.setter
    def on_writable(self, call: Callable[[], None] | None) -> None:
        self._protocol.on_writable = call  # type: ignore[attr-defined]

    @property
    def match_info(self) -> UrlMappingMatchInfo:
        """Names from the path; empty for a route without one."""
        if self._names is None:
            self._names = UrlMappingMatchInfo({}, SystemRoute(web.HTTPNotFound()))
        return self._names

    def renew(self) -> None:
        """Go on as HTTP/1.1 if it is older than HTTP/1."""
        if self._version.major < 1:
            self._version, self.ancient = HttpVersion11, True

    def name(self, key: str, value: str) -> None:
        """Remember a name from the path."""
        self.match_info[key] = value


class Exchange:
    """Mutable, written by the one task that serves the request; times are seconds of the monotonic clock."""

    __slots__ = (
        "_scope",
        "ask",
        "attempts",
        "began",
        "body_bytes",
        "body_seconds",
        "candidate",
        "cut",
        "decision",
        "ending",
        "failure",
        "first_byte",
        "found",
        "interrupted",
        "interruption",
        "loop",
        "now",
        "operation",
        "overhead_seconds",
        "principal",
        "queue_position",
        "queue_seconds",
        "request",
        "request_id",
        "response",
        "steadied",
        "stream",
        "stream_type",
        "tail",
        "tried",
        "upstream_seconds",
    )

    def __init__(self, request: Request, request_id: str, loop: asyncio.AbstractEventLoop) -> None:
        self.request = request
        self.request_id = request_id
        self.loop = loop
        # Not the loop's own time: uvloop's is as old as the last round of the loop, and in whole milliseconds.
        self.now: Callable[[], float] = time.monotonic
        self.began = time.monotonic()
        self.body_seconds = 0.0
        """Waited for the client's body."""
        self.body_bytes = 0
        """Of the client's body, as it came."""
        self.queue_seconds = 0.0
        """Waited for a place at a service."""
        self.queue_position: int | None = None
        """Where it stood in the shortest line when it joined, from 1; None if it did not have to wait."""
        self.upstream_seconds = 0.0
        """Waited for engines, until the first byte of the answer."""
        self.decision: Decision | None = None
        """What it was routed by; None until it was, and where no receipts are kept."""
        self.found: Resolution | None = None
        """What the model's name led to."""
        self.ask: Ask | None = None
        """What the strategy knew of it; None for one that learns nothing from requests."""
        self.stream = False
        """Whether a stream was asked for."""
        self.attempts = 0
        self.tried: list[Tried] = []
        self.candidate: Candidate | None = None
        self.cut: Cut | None = None
        """The stream that broke off, while the client's is still open."""
        self.first_byte: float | None = None
        """When the answer of an engine began."""
        self.overhead_seconds: float | None = None
        """Spent in the gateway itself before the answer, once that is known."""
        self.failure = ""
        """What went wrong in the end, in our words; empty where an attempt's reason says it."""
        self.principal: object = None
        self.operation: Operation | None = None
        """What the route is for; None for routes that reach no engine."""
        self.tail = ""
        """What follows the path of a route that takes a name, decoded."""
        self.response: Stream | None = None
        """Set once the status is committed."""
        self.ending: Ending | None = None
        """How its stream says that it broke; None is as chat completions do."""
        self.steadied: Steadied | None = None
        """What was done to keep its prompt's beginning warm."""
        self.stream_type = ""
        """Media type of its stream, where that is not server-sent events; nothing but data may be in it then."""
        self.interrupted = False
        """Whether the gateway ended this request."""
        self.interruption: GenieHiveError | None = None
        """Why it did."""
        self._scope: Deadline | None = None

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
        self._scope = Deadline(self.request.alarm, self.now() + (0 if self.interrupted else seconds), more)
        return self._scope

    def rearm(self, seconds: float) -> None:
        """Move the end of the current scope to so many seconds from now: there was progress."""
        if self._scope is not None and not self.interrupted and not self._scope.expired():
            self._scope.reschedule(self.now() + seconds)

    def interrupt(self, reason: GenieHiveError) -> None:
        """End what the request waits for now: its handler finishes it with this error."""
        self.interrupted, self.interruption = True, reason
        if self._scope is not None and not self._scope.expired():
            self._scope.reschedule(self.now())

    def headers(self, *, decided: bool = True) -> dict[str, str]:
        """The answer headers that tell who answered, and what that cost; `decided` is whether that is known."""
        spent = max(0.0, self.now() - self.began - self.body_seconds - self.queue_seconds - self.upstream_seconds)
        self.overhead_seconds = spent if self.attempts else None
        found = {"server": "geniehive", "x-request-id": self.request_id}
        if decided and self.candidate is not None:
            found["x-geniehive-service"] = printable(self.candidate.service.service_id)
            found["x-geniehive-host"] = printable(self.candidate.host.host_id)
            found["x-geniehive-model"] = printable(self.candidate.asset.asset_id)
        found["x-geniehive-attempts"] = str(self.attempts)
        found["x-geniehive-queue-ms"] = f"{self.queue_seconds * 1000:.0f}"
        found["x-geniehive-overhead-ms"] = f"{spent * 1000:.2f}"
        return found


class RequestIds:
    """Ids that nobody has had: chance for the worker, a count for the request. They are names, not secrets."""

    def __init__(self) -> None:
        self._worker = secrets.token_hex(6)
        self._next = count(secrets.randbits(32))

    def new(self) -> str:
        """Another one."""
        return f"req_{self._worker}{next(self._next):012x}"


def printable(text: str) -> str:
    """Text that may stand in a header; ids come from engines, which may call a model anything."""
    return text if text.isascii() and text.isprintable() else ascii(text)[1:-1]
