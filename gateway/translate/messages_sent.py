"""[pure] A message as far as an engine with the route itself has written it, for another one to go on with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from gateway.resume_sent import Channel, Json, Sent, Unclear
from gateway.sse import Rewrite
from gateway.translate.messages_answer import MessageStream
from gateway.translate.native_sent import TEXT, THOUGHT, NativeTranscript, object_of, text_of

_KINDS: Final[dict[str, Channel]] = {"text": TEXT, "thinking": THOUGHT}


class MessageTranscript(NativeTranscript):
    """One message; `stream` is a translation that has yet to begin, `thinks` whether thoughts were asked for."""

    def __init__(self, most: int, able: Callable[[], bool], stream: MessageStream, *, thinks: bool) -> None:
        super().__init__(most, able)
        self._stream = stream
        self._thinks = thinks
        self._open = ""  # the kind of the block that is being written
        self._blocks = 0

    def sent(self) -> Sent | None:
        """See gateway.plan.Kept. What the engine thought must come again, if it told."""
        sent = super().sent()
        if sent is not None:
            self._stream.thoughts = self._thinks or sent.thought
            sent.hides = not self._stream.thoughts
        return sent

    def onward(self, _rewrite: Rewrite | None) -> Rewrite:
        """See NativeTranscript."""
        return self._stream

    def _ready(self) -> bool:
        return self._stream.begun

    def _event(self, event: Json) -> None:
        kind = event.get("type")
        if kind == "message_start":
            self._stream.follow_start()
        elif kind == "content_block_start":
            self._begin(event)
        elif kind == "content_block_delta":
            self._more(object_of(event.get("delta")), event.get("index"))
        elif kind == "content_block_stop":
            self._open = ""
            self._stream.follow_stop()
        elif kind != "ping":  # behind a message_delta nothing is left to be said
            raise Unclear

    def _begin(self, event: Json) -> None:
        block = object_of(event.get("content_block"))
        kind = block.get("type")
        if event.get("index") != self._blocks or self._open:
            raise Unclear
        self._blocks += 1
        self._open = text_of(kind)
        if kind == "tool_use" and not block.get("input"):
            self._stream.follow_call(self._begin_call(block.get("id"), block.get("name")))
        elif kind in _KINDS and not block.get(kind):
            self._stream.follow_block(kind)
            self._say(_KINDS[kind], "")
        else:
            raise Unclear

    def _more(self, delta: Json, index: object) -> None:
        kind = delta.get("type")
        if index != self._blocks - 1:
            raise Unclear
        if kind == "input_json_delta" and self._open == "tool_use":
            self._stream.follow_call(self._argue(delta.get("partial_json")))
        elif kind == f"{self._open}_delta" and self._open in _KINDS:
            self._say(_KINDS[self._open], text_of(delta.get(self._open)))
        elif kind != "signature_delta":
            raise Unclear
