"""What a request wants of an engine: whom it may ask, what to send, and what becomes of the answer."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

import msgspec

from gateway.resume_sent import Sent
from gateway.sse import Rewrite
from gateway.upstream import UpstreamRequest
from geniehive.errors import GenieHiveError, UpstreamUnavailable
from geniehive.resources import Operation
from geniehive.routing.candidate import Candidate

HELD_BYTES = 8 * 1024 * 1024  # of an answer that is not a stream: held whole, so that a broken one can be replaced


def as_it_is(_candidate: Candidate, content_type: str, body: bytes) -> tuple[str, bytes]:
    """An answer unchanged. Raises UpstreamUnavailable for a web page."""
    if content_type.startswith("text/html"):
        raise UpstreamUnavailable("the engine answered with a web page; is its endpoint right?")
    return content_type, body


class Kept(Protocol):
    """What the client has of a stream, kept for the case that it is cut."""

    @property
    def keep(self) -> Callable[[bytes], None] | None:
        """Takes the events that pass, before they are rewritten."""
        ...

    def sent(self) -> Sent | None:
        """What the client has; None if nobody can go on from there."""
        ...

    def onward(self, rewrite: Rewrite | None) -> Rewrite | None:
        """What the events of whoever goes on become, if until now they became what `rewrite` made of them."""
        ...


class Cut(NamedTuple):
    """A stream that broke off and may be continued: the client's is still open."""

    failure: GenieHiveError
    said: bytes | None
    """What the engine itself reported."""
    kept: Kept
    rewrite: Rewrite | None


class Plan(msgspec.Struct, frozen=True, eq=False):  # a frozen dataclass takes ten times as long to make, a tuple three
    """What to ask, of whom."""

    candidates: tuple[Candidate, ...]
    build: Callable[[Candidate], UpstreamRequest]
    stream: bool = False
    done_marker: bool = False
    """Whether the stream ends with `[DONE]`, and well only behind a finish reason or an event that ends it."""
    json: bool = True
    """Whether an answer is a JSON object, or a stream if and only if one was asked for."""
    streams_vary: bool = False
    """Whether some engines know no streams of this: then one asked too much of them, and they are not at fault."""
    grace_s: float = 2.0
    """For what may follow in a stream once the engine said that it finished."""
    choices: int = 1
    """How many answers a stream has side by side."""
    replayable: Callable[[], bool] = lambda: True
    """Whether the body can be sent again."""
    body_failure: Callable[[], GenieHiveError | None] = lambda: None
    """What went wrong with the client's body while it was passed on."""
    adapt: Callable[[Candidate, str, bytes], tuple[str, bytes]] = as_it_is
    """Content type and body of an answer as the client expects them; raises what the engine hid in status 200."""
    rewrite: Callable[[Candidate], Rewrite | None] = lambda _candidate: None
    """What becomes of the events of a candidate's stream; None leaves their bytes as they are."""
    held_bytes: int = HELD_BYTES
    """Of an answer that is not a stream, at least so many are awaited before it is passed on; 1: it is as it comes."""
    operation: Operation | None = None
    """What a stream is made of, where it could be continued if it is cut."""
    keep: Callable[[Candidate], Kept | None] = lambda _candidate: None
    """What keeps a candidate's stream; None where nobody could go on with it."""
    rest: Callable[[Candidate], UpstreamRequest] | None = None
    """How one is asked to go on with a stream, in OpenAI's words; None is as `build` says."""
