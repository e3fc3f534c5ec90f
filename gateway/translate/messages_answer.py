"""[pure] A chat completion as an Anthropic message, whole or as its stream of events.

https://platform.claude.com/docs/en/build-with-claude/streaming. The tokens of the prompt are known only when the
engine is through: `message_start` says 0, and `message_delta` the truth, as cumulative usage. Thoughts carry no
signature; whoever sends them back gets them to the model all the same.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import msgspec

from gateway.translate.calls import CallBook, OpenCall
from gateway.translate.chat import Call, Said, Usage, read
from gateway.translate.chunks import ChunkReader
from gateway.translate.parts import Json

_STOPPED: Final = {
    "stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use", "function_call": "tool_use",
    "content_filter": "refusal",
}  # fmt: skip


def answer(body: bytes, message_id: str, new_id: Callable[[], str], *, thoughts: bool) -> bytes:
    """A whole message. Raises UpstreamUnavailable if the body is no chat completion."""
    said = read(body)
    content: list[Json] = []
    if said.thought and thoughts:
        content.append({"type": "thinking", "thinking": said.thought, "signature": ""})
    if said.text or said.refusal:
        content.append({"type": "text", "text": said.text or said.refusal})
    for call in said.calls:
        made = {"type": "tool_use", "id": call.call_id or new_id(), "name": call.name}
        content.append({**made, "input": _input(call.arguments)})
    reason, sequence = _stopped(said, called=bool(said.calls), refused=bool(said.refusal))
    message = {**_message(message_id, said.model), "content": content, "stop_reason": reason}
    return msgspec.json.encode({**message, "stop_sequence": sequence, "usage": _usage(said.usage or Usage())})


class MessageStream(ChunkReader):
    """One stream; call it with whole events of the engine, `[DONE]` included, for those of the message."""

    def __init__(self, message_id: str, model: str, new_id: Callable[[], str], *, thoughts: bool) -> None:
        super().__init__()
        self._message_id = message_id
        self._model = model
        self.thoughts = thoughts
        """Whether the client gets what the model thinks."""
        self._book = CallBook(new_id)
        self._blocks = 0
        self._open = ""  # the kind of the block that takes text now: "text" or "thinking"
        self._last = Said()
        self._usage: Usage | None = None
        self._refused = False

    # What the client was told by an engine that wrote the message itself, so that a translation may follow it:

    def follow_start(self) -> None:
        """The message has begun."""
        self.begun = True

    def follow_block(self, kind: str) -> None:
        """A block of text or thoughts has begun."""
        self._open = kind
        self._blocks += 1

    def follow_call(self, piece: Call) -> None:
        """A piece of a tool call; the first one begins its block."""
        self._call(piece)
        self._out.clear()

    def follow_stop(self) -> None:
        """The block that was being written is at its end."""
        self._close_all()
        self._out.clear()

    def _take(self, said: Said) -> None:
        if not self.begun:
            self._start(said.model or self._model)
        if said.thought and self.thoughts:
            self._say("thinking", said.thought)
        if said.text or said.refusal:
            self._refused = self._refused or bool(said.refusal)
            self._say("text", said.text or said.refusal)
        for piece in said.calls:
            self._call(piece)
        if said.finish:
            self._last = said
            self._close_all()
        if said.usage is not None:
            self._usage = said.usage
            if self._last.finish and not said.finish:
                self._finish()  # usage comes last, in a chunk of its own

    def _start(self, model: str) -> None:
        self.begun = True
        message = {**_message(self._message_id, model), "content": [], "stop_reason": None, "stop_sequence": None}
        self._write({"type": "message_start", "message": {**message, "usage": _usage(Usage())}})

    def _say(self, kind: str, text: str) -> None:
        if self._open != kind:
            self._close_all(last=False)
            empty = {"thinking": "", "signature": ""} if kind == "thinking" else {"text": ""}
            self._begin_block({"type": kind, **empty})
            self._open = kind
        delta = {"type": f"{kind}_delta", kind: text}
        self._write({"type": "content_block_delta", "index": self._blocks - 1, "delta": delta})

    def _call(self, piece: Call) -> None:
        call = self._book.find(piece)
        if call is None:
            self._close_all(last=False)
            call = self._book.begin(piece, self._blocks)
            self._begin_block({"type": "tool_use", "id": call.call_id, "name": call.name, "input": {}})
        if piece.arguments and not call.closed:
            call.arguments += piece.arguments
            delta = {"type": "input_json_delta", "partial_json": piece.arguments}
            self._write({"type": "content_block_delta", "index": call.place, "delta": delta})

    def _begin_block(self, block: Json) -> None:
        self._write({"type": "content_block_start", "index": self._blocks, "content_block": block})
        self._blocks += 1

    def _close_all(self, *, last: bool = True) -> None:
        """End the blocks that are complete; all of them where the answer ends."""
        ending: list[int] = [self._blocks - 1] if self._open else []
        self._open = ""
        closing: list[OpenCall] = self._book.closing(last=last)
        for index in (*ending, *(call.place for call in closing)):
            self._write({"type": "content_block_stop", "index": index})

    def _finish(self) -> None:
        if self._over or not self.begun:
            return
        self._over = True
        self._close_all()
        reason, sequence = _stopped(self._last, called=bool(self._book.calls), refused=self._refused)
        delta = {"stop_reason": reason, "stop_sequence": sequence}
        self._write({"type": "message_delta", "delta": delta, "usage": _usage(self._usage or Usage())})
        self._write({"type": "message_stop"})

    def _write(self, event: Json) -> None:
        self._out.append(b"event: %b\ndata: %b\n\n" % (event["type"].encode(), msgspec.json.encode(event)))


def _message(message_id: str, model: str) -> Json:
    return {"id": message_id, "type": "message", "role": "assistant", "model": model}


def _usage(usage: Usage) -> Json:
    """Anthropic counts what was read from the cache apart from the rest of the prompt."""
    return {
        "input_tokens": max(0, usage.prompt - usage.cached),
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": usage.cached,
        "output_tokens": usage.completion,
    }


def _stopped(said: Said, *, called: bool, refused: bool) -> tuple[str, str | None]:
    """`stop_reason` and `stop_sequence`; some engines say "stop" behind a tool call."""
    reason = _STOPPED.get(said.finish, "end_turn")
    if reason == "end_turn":
        if called:
            return "tool_use", None
        if refused:
            return "refusal", None
        if said.stop_sequence is not None:
            return "stop_sequence", said.stop_sequence
    return reason, None


def _input(arguments: str) -> Any:
    """The arguments as an object; what the model wrote is kept as text where it wrote no object."""
    try:
        value = msgspec.json.decode(arguments or "{}")
    except (msgspec.DecodeError, RecursionError):
        return {"arguments": arguments}
    return value if isinstance(value, dict) else {"arguments": arguments}
