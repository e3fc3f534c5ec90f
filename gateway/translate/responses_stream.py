"""[pure] A stream of a chat completion as the events of an OpenAI response.

https://platform.openai.com/docs/api-reference/responses-streaming. Items are reasoning, messages and calls, in the
order in which the engine begins them; each of its pieces goes on at once as the delta of its item. A custom tool's
input is the one thing that waits: it stands inside of a JSON text, which is whole when the call is.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from gateway.translate.calls import CallBook, OpenCall
from gateway.translate.chat import Call, Said, Usage
from gateway.translate.chunks import ChunkReader
from gateway.translate.parts import Json
from gateway.translate.responses_answer import (
    Frame,
    ended,
    message_item,
    reasoning_item,
    text_content,
)
from gateway.translate.tools import custom_input


class _Talk:
    """An item of text that is being written: a message or a thought; `kind` is "text", "refusal" or "thought"."""

    __slots__ = ("item_id", "kind", "logprobs", "parts", "place", "text")

    def __init__(self, kind: str, item_id: str, place: int) -> None:
        self.kind = kind
        self.item_id = item_id
        self.place = place
        self.parts: list[Json] = []
        """Parts of it that are whole."""
        self.text = ""
        self.logprobs: list[Any] = []

    def part(self) -> Json:
        """The part that is being written, as it is now."""
        if self.kind == "thought":
            return {"type": "reasoning_text", "text": self.text}
        if self.kind == "refusal":
            return {"type": "refusal", "refusal": self.text}
        return text_content(self.text, self.logprobs)


class ResponseStream(ChunkReader):
    """One stream; call it with whole events of the engine, `[DONE]` included, for those of the response."""

    def __init__(self, frame: Frame, model: str) -> None:
        super().__init__()
        self._frame = frame
        self._model = model
        self._book = CallBook(lambda: frame.new_id("call"))
        self._items: list[Json] = []  # as they are when they end, by their place
        self._ids: dict[int, str] = {}
        self._talk: _Talk | None = None
        self._sequence = 0
        self._last = Said()
        self._usage: Usage | None = None
        self.response: Json | None = None
        """The whole response, once it is at its end."""

    @property
    def sequence(self) -> int:
        """The number of the next event."""
        return self._sequence

    @property
    def response_id(self) -> str:
        """As the client knows it."""
        return self._frame.response_id

    # What the client was told by an engine that wrote the response itself, so that a translation may follow it:

    def follow_number(self, sequence: int) -> None:
        """The number that the next event has."""
        self.begun, self._sequence = True, sequence

    def follow_part(self, kind: str, item_id: str) -> None:
        """A part has begun, of the item that is being written or of a new one."""
        talk = self._talk
        if talk is None:
            talk = self._talk = _Talk(kind, item_id, len(self._items))
            self._items.append({})
        else:
            talk.parts.append(talk.part())
            talk.kind, talk.text, talk.logprobs = kind, "", []

    def follow_text(self, text: str, logprobs: tuple[Any, ...]) -> None:
        """A piece of the part that is being written."""
        if self._talk is not None:
            self._talk.text += text
            self._talk.logprobs += logprobs

    def follow_call(self, piece: Call, item_id: str | None = None) -> None:
        """A piece of a call; the first one comes with the id of its item."""
        self._call(piece)
        if item_id is not None:
            self._ids[len(self._items) - 1] = item_id
        self._out.clear()

    def follow_item(self, item: Json, place: int) -> None:
        """The item that was being written is at its end; it may have had no part (thoughts that are not told)."""
        self._talk = None
        self._book.closing(last=True)
        self._items[place:] = [item]

    def _take(self, said: Said) -> None:
        if not self.begun:
            self._start(said.model or self._model)
        if said.thought:
            self._say("thought", said.thought, ())
        if said.text:
            self._say("text", said.text, said.logprobs)
        if said.refusal:
            self._say("refusal", said.refusal, ())
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
        self.begun, self._model = True, model
        for kind in ("response.created", "response.in_progress"):
            self._write(kind, response=self._frame.response("in_progress", model, []))

    def _say(self, kind: str, text: str, logprobs: tuple[Any, ...]) -> None:
        talk = self._talk
        if talk is None or talk.kind != kind:
            talk = self._begin(kind, talk)
        talk.text += text
        talk.logprobs += logprobs
        more = {"logprobs": list(logprobs)} if kind == "text" else {}
        self._write(f"response.{_EVENT[kind]}.delta", **_at(talk), delta=text, **more)

    def _begin(self, kind: str, before: _Talk | None) -> _Talk:
        """A new item; a refusal behind a text is another part of the same message."""
        if before is not None and "thought" not in {before.kind, kind}:
            self._end_part(before)
            before.kind, before.text, before.logprobs = kind, "", []
            self._write("response.content_part.added", **_at(before), part=before.part())
            return before
        self._close_all(last=False)
        talk = _Talk(kind, self._frame.new_id("rs" if kind == "thought" else "msg"), len(self._items))
        self._talk = talk
        empty = reasoning_item if kind == "thought" else message_item
        item = empty(talk.item_id, "" if kind == "thought" else [], "in_progress")  # type: ignore[arg-type]  # each its own
        self._add(item)
        self._write("response.content_part.added", **_at(talk), part=talk.part())
        return talk

    def _end_part(self, talk: _Talk) -> None:
        part = talk.part()
        whole = {"refusal": talk.text} if talk.kind == "refusal" else {"text": talk.text}
        more = {"logprobs": talk.logprobs} if talk.kind == "text" else {}
        self._write(f"response.{_EVENT[talk.kind]}.done", **_at(talk), **whole, **more)
        self._write("response.content_part.done", **_at(talk), part=part)
        talk.parts.append(part)

    def _call(self, piece: Call) -> None:
        call = self._book.find(piece)
        if call is None:
            self._close_all(last=False)
            call = self._book.begin(piece, len(self._items))
            item_id = self._ids[call.place] = self._frame.new_id("fc")
            self._add(self._frame.call_item(item_id, call.call_id, call.name, "", "in_progress"))
        if piece.arguments and not call.closed:
            call.arguments += piece.arguments
            if not self._frame.toolbox.origin(call.name).custom:
                self._write_call("response.function_call_arguments.delta", call, delta=piece.arguments)

    def _close_call(self, call: OpenCall) -> None:
        arguments = call.arguments or "{}"
        if self._frame.toolbox.origin(call.name).custom:
            text = custom_input(arguments)
            self._write_call("response.custom_tool_call_input.delta", call, delta=text)
            self._write_call("response.custom_tool_call_input.done", call, input=text)
        else:
            self._write_call("response.function_call_arguments.done", call, name=call.name, arguments=arguments)
        item_id = self._ids[call.place]
        self._end(call.place, self._frame.call_item(item_id, call.call_id, call.name, arguments, "completed"))

    def _close_all(self, *, last: bool = True) -> None:
        """End the items that are complete; all of them where the answer ends."""
        talk, self._talk = self._talk, None
        if talk is not None:
            self._end_part(talk)
            if talk.kind == "thought":
                item = reasoning_item(talk.item_id, talk.text, "completed")
            else:
                item = message_item(talk.item_id, talk.parts, "completed")
            self._end(talk.place, item)
        for call in self._book.closing(last=last):
            self._close_call(call)

    def _finish(self) -> None:
        if self._over or not self.begun:
            return
        self._over = True
        self._close_all()
        status = ended(self._last)
        kind = "completed" if status == "completed" else "incomplete"
        self.response = self._frame.response(status, self._model, self._items, self._usage or Usage())
        self._write(f"response.{kind}", response=self.response)

    def _add(self, item: Json) -> None:
        self._items.append(item)
        self._write("response.output_item.added", output_index=len(self._items) - 1, item=item)

    def _end(self, place: int, item: Json) -> None:
        self._items[place] = item
        self._write("response.output_item.done", output_index=place, item=item)

    def _write_call(self, kind: str, call: OpenCall, **fields: str) -> None:
        self._write(kind, item_id=self._ids[call.place], output_index=call.place, **fields)

    def _write(self, kind: str, **fields: Any) -> None:
        event = {"type": kind, "sequence_number": self._sequence, **fields}
        self._sequence += 1
        self._out.append(b"event: %b\ndata: %b\n\n" % (kind.encode(), msgspec.json.encode(event)))


_EVENT: Final = {"text": "output_text", "refusal": "refusal", "thought": "reasoning_text"}


def _at(talk: _Talk) -> Json:
    return {"item_id": talk.item_id, "output_index": talk.place, "content_index": len(talk.parts)}
