"""[pure] A stream of chat completions, chunk by chunk: what the translations into other dialects have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Final

from gateway.sse import data_of, split_events
from gateway.translate.chat import Said, read

_DONE: Final = b"[DONE]"


class ChunkReader(ABC):
    """One stream; call it with whole events of the engine, `[DONE]` included. What follows goes into `_out`."""

    def __init__(self) -> None:
        self.begun = False
        """Whether its first event is out."""
        self._over = False
        self._out: list[bytes] = []

    def __call__(self, block: bytes) -> bytes:
        """The events that follow from these. Raises UpstreamUnavailable for what is no chunk of a chat completion."""
        for event in split_events(block):
            data = data_of(event)
            if data is None:
                self._out.append(event)  # comments and the like keep the connection
            elif data == _DONE:
                self._finish()
            elif not self._over:
                self._take(read(data))
        out, self._out = b"".join(self._out), []
        return out

    @abstractmethod
    def _take(self, said: Said) -> None:
        """One chunk."""

    @abstractmethod
    def _finish(self) -> None:
        """The end, once; a second call does nothing."""
