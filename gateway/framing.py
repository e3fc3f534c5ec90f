"""[pure] How a stream is written to a client: what the gateway itself puts into it, besides the events that pass.

Nearly all clients speak server-sent events; Ollama's clients want a JSON object a line. An exchange has
one framing, and whatever ends a stream or keeps a client waiting asks it for the bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Protocol

from gateway.errors import error_event, passed_on
from gateway.sse import DONE
from geniehive.errors import GenieHiveError


class Framing(Protocol):
    """One way to write a stream."""

    @property
    def headers(self) -> Mapping[str, str]:
        """Headers of the answer, names in lower case."""
        ...

    @property
    def comment(self) -> bytes:
        """What keeps a client waiting; empty where nothing can."""
        ...

    def end(self) -> bytes:
        """What ends a stream that came to its end without the engine's own last mark."""
        ...

    def failed(self, error: GenieHiveError, said: bytes | None = None) -> bytes:
        """What ends a stream that could not be finished; `said` is the error event of the engine."""
        ...


class EventStream:
    """Server-sent events, as OpenAI ends and breaks them."""

    headers: Final = {"content-type": "text/event-stream", "cache-control": "no-cache", "x-accel-buffering": "no"}
    comment: Final = b": keepalive\n\n"

    def end(self) -> bytes:
        """See Framing."""
        return DONE

    def failed(self, error: GenieHiveError, said: bytes | None = None) -> bytes:
        """See Framing."""
        return error_event(error) if said is None else b"data: " + passed_on(502, said) + b"\n\n"


EVENT_STREAM: Final[Framing] = EventStream()
