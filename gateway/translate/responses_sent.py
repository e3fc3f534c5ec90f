"""[pure] A response as far as an engine with the route itself has written it, for another one to go on with.

Some engines (llama.cpp) give their events no numbers and no places: then they are counted here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from gateway.resume_sent import Channel, Json, Unclear
from gateway.sse import Rewrite
from gateway.translate.native_sent import REFUSAL, TEXT, THOUGHT, NativeTranscript, object_of, text_of
from gateway.translate.responses_stream import ResponseStream

_PARTS: Final = {"output_text": "text", "refusal": "refusal", "reasoning_text": "thought"}
_CHANNELS: Final[dict[str, Channel]] = {"text": TEXT, "refusal": REFUSAL, "thought": THOUGHT}
_DELTAS: Final = {f"response.{part}.delta": kind for part, kind in _PARTS.items()}
_TALKS: Final = frozenset({"message", "reasoning"})
_ARGUED: Final = "response.function_call_arguments.delta"
_WAITS: Final = frozenset({"response.in_progress", "response.queued"})
_PARTS_END: Final = "response.content_part.done"
_ENDINGS: Final = frozenset(
    {*(f"response.{part}.done" for part in _PARTS), "response.function_call_arguments.done", _PARTS_END}
)
"""Events that tell once more what has been told; the end of the item, or another part of it, follows."""


class ResponseTranscript(NativeTranscript):
    """One response; `make` makes its translation, from the response as it was created.

    `tell` makes events of that translation the client's.
    """

    def __init__(
        self,
        most: int,
        able: Callable[[], bool],
        make: Callable[[Json], ResponseStream],
        tell: Callable[[ResponseStream], Rewrite],
    ) -> None:
        super().__init__(most, able)
        self._make = make
        self._tell = tell
        self._stream: ResponseStream | None = None
        self._item: Json | None = None  # the one that is being written
        self._items = 0
        self._kind = ""  # of the part that is being written
        self._ending = False  # whether the item that is being written is about to end
        self._next = 0

    def onward(self, rewrite: Rewrite | None) -> Rewrite | None:
        """See NativeTranscript."""
        return rewrite if self._stream is None else self._tell(self._stream)

    def _ready(self) -> bool:
        """Not where a part of text has yet to begin, or has ended and its item has not."""
        if self._stream is None:
            return False
        self._stream.follow_number(self._next)
        if self._item is None:
            return True
        return not self._ending and (bool(self._kind) or self._item["type"] not in _TALKS)

    def _event(self, event: Json) -> None:
        kind, number = text_of(event.get("type")), event.get("sequence_number")
        self._next = number + 1 if type(number) is int else self._next + 1
        if self._stream is None:
            self._begin(event)
        elif kind == "response.output_item.added":
            self._begin_item(object_of(event.get("item")), event.get("output_index"))
        elif kind == "response.content_part.added":
            self._begin_part(object_of(event.get("part")))
        elif kind in _DELTAS:
            self._more(_DELTAS[kind], event)
        elif kind == _ARGUED and self._item is not None and self._item["type"] == "function_call":
            self._stream.follow_call(self._argue(event.get("delta")))
        elif kind in _ENDINGS:
            self._ending = True
            self._kind = "" if kind == _PARTS_END else self._kind
        elif kind == "response.output_item.done" and self._item is not None:
            self._stream.follow_item(object_of(event.get("item")), self._items - 1)
            self._item, self._kind, self._ending = None, "", False
        elif kind not in _WAITS:
            raise Unclear

    def _begin(self, event: Json) -> None:
        if event.get("type") != "response.created":
            raise Unclear
        response = object_of(event.get("response"))
        text_of(response.get("id"))
        self._stream = self._make(response)

    def _begin_item(self, item: Json, place: object) -> None:
        kind = text_of(item.get("type"))
        if self._item is not None or self._stream is None or (place is not None and place != self._items):
            raise Unclear
        self._item = item
        self._items += 1
        if kind == "function_call" and not item.get("namespace") and not item.get("arguments"):
            call = self._begin_call(item.get("call_id"), item.get("name"))
            self._stream.follow_call(call, text_of(item.get("id", call.call_id)))
        elif kind not in _TALKS or item.get("content") or item.get("summary"):
            raise Unclear

    def _begin_part(self, part: Json) -> None:
        kind = _PARTS.get(text_of(part.get("type")))
        item = self._item
        if kind is None or item is None or self._kind or self._stream is None or item.get("type") not in _TALKS:
            raise Unclear
        if part.get("text") or part.get("refusal") or (kind == "thought") is not (item["type"] == "reasoning"):
            raise Unclear
        self._kind, self._ending = kind, False
        self._stream.follow_part(kind, text_of(item.get("id")))
        self._say(_CHANNELS[kind], "")

    def _more(self, kind: str, event: Json) -> None:
        if kind == "thought" and not self._kind:  # llama.cpp does not say that it begins
            self._begin_part({"type": "reasoning_text"})
        if kind != self._kind:
            raise Unclear
        text, logprobs = text_of(event.get("delta")), event.get("logprobs")
        self._say(_CHANNELS[self._kind], text)
        if self._stream is not None:
            self._stream.follow_text(text, tuple(logprobs) if isinstance(logprobs, list) else ())
