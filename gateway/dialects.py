"""The two dialects of agents, each as one request of it: what an engine gets, and what becomes of its answer.

An engine that has the dialect's route gets the request as it came, policies aside, and its answer passes byte for
byte. Any other gets a chat completion, and its answer is translated (`gateway.translate`). Both may happen to one
request, when the first engine fails.
"""

from __future__ import annotations

import secrets
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, ClassVar, Final

import msgspec

from gateway import anthropic_errors
from gateway.answers import Ending
from gateway.attempts import as_it_is
from gateway.exchange import Exchange
from gateway.openai.body import JsonBody
from gateway.plan import Kept
from gateway.response_store import ResponseStore
from gateway.resume_sent import Transcript
from gateway.sse import Rewrite, data_of, split_events
from gateway.translate import messages_answer, messages_request, responses_answer, responses_request
from gateway.translate.messages_answer import MessageStream
from gateway.translate.messages_sent import MessageTranscript
from gateway.translate.policy import native_changes
from gateway.translate.responses_answer import Frame
from gateway.translate.responses_sent import ResponseTranscript
from gateway.translate.responses_stream import ResponseStream
from gateway.translate.tools import Toolbox
from geniehive.errors import GenieHiveError, wire_of
from geniehive.resources import Operation
from geniehive.routing.candidate import Candidate
from geniehive.routing.policy import PolicyBook, shape

Json = dict[str, Any]

CHAT: Final = "/v1/chat/completions"
_ID_BYTES: Final = 12


class Dialogue(ABC):
    """One request of a dialect. `path` is its route, `turns` the field with the conversation."""

    path: ClassVar[str]
    turns: ClassVar[str]

    def __init__(self, exchange: Exchange, body: JsonBody, policies: PolicyBook, kept_back: frozenset[str]) -> None:
        self.exchange = exchange
        self.body = body
        self.fields: Json = body.fields
        """What is asked; for a response that goes on from another, with what came before."""
        self._policies = policies
        self._kept_back = kept_back
        self._chat: Json | None = None
        exchange.ending = self.ending()

    def native(self, candidate: Candidate) -> bool:
        """Whether an engine has the route itself."""
        return self.path in candidate.service.routes

    def chat(self) -> Json:
        """The request as a chat completion. Raises InvalidRequest for what cannot be translated."""
        if self._chat is None:
            told = {key: value for key, value in self.fields.items() if key not in self._kept_back}
            self._chat = self._translated(told)
        return self._chat

    def content(self, candidate: Candidate) -> bytes:
        """The body that an engine gets."""
        if not self.native(candidate):
            return self.translated(candidate)
        name = candidate.asset.asset_id
        put, drop, steadied = self._native(candidate)
        content = self.body.with_changes(name, put, drop) if put or drop else self.body.with_model(name)
        if steadied is not None:
            self.exchange.steadied = steadied
        return content

    def translated(self, candidate: Candidate) -> bytes:
        """The body that an engine gets as a chat completion. Raises InvalidRequest, as `chat` does."""
        chat = self.chat()
        put, _, steadied = shape(chat, self._policies.of(candidate), Operation.CHAT)
        if steadied is not None:
            self.exchange.steadied = steadied
        # Translation needs the usage of a stream, whatever a policy says.
        options = {key: chat[key] for key in ("stream_options",) if key in chat}
        return msgspec.json.encode({**chat, **put, "model": candidate.asset.asset_id, **options})

    def _native(self, candidate: Candidate) -> tuple[Json, frozenset[str], Any]:
        policy = self._policies.of(candidate)
        drop = frozenset(key for key in self._kept_back if key in self.fields)
        if policy.plain:
            return {}, drop, None
        return native_changes(self.fields, policy, self.turns, self._kept_back)

    def adapt(self, candidate: Candidate, content_type: str, content: bytes) -> tuple[str, bytes]:
        """An answer without a stream, as the client gets it."""
        content_type, content = as_it_is(candidate, content_type, content)
        if self.native(candidate):
            return content_type, content
        return "application/json", self._answer(content)

    def transcript(self, candidate: Candidate, most: int) -> Kept | None:
        """What keeps a candidate's stream, up to so many characters, for another one to go on with it as a chat."""
        return self._native_transcript(most) if self.native(candidate) else Transcript(most, hides=self.hides())

    def able(self) -> bool:
        """Whether the request can be asked as a chat."""
        try:
            self.chat()
        except GenieHiveError:
            return False
        return True

    def hides(self) -> bool:
        """Whether a translated stream leaves out what the model thinks."""
        return False

    @abstractmethod
    def rewrite(self, candidate: Candidate) -> Rewrite | None:
        """What becomes of the events of a candidate's stream."""

    @abstractmethod
    def ending(self) -> Ending:
        """How a stream says that it broke."""

    @abstractmethod
    def _native_transcript(self, most: int) -> Kept: ...

    @abstractmethod
    def _translated(self, told: Json) -> Json: ...

    @abstractmethod
    def _answer(self, content: bytes) -> bytes: ...


class MessagesDialogue(Dialogue):
    """Anthropic's Messages."""

    path = anthropic_errors.MESSAGES
    turns = "messages"

    def rewrite(self, candidate: Candidate) -> Rewrite | None:
        """See Dialogue."""
        if self.native(candidate):
            return None
        return MessageStream(new_id("msg"), self.body.model, _tool_id, thoughts=not self.hides())

    def hides(self) -> bool:
        """See Dialogue."""
        return not messages_request.thinks(self.fields)

    def ending(self) -> Ending:
        """See Dialogue."""
        request_id = self.exchange.request_id
        return lambda error, body: anthropic_errors.ending(error, body, request_id)

    def _native_transcript(self, most: int) -> MessageTranscript:
        stream = MessageStream(new_id("msg"), self.body.model, _tool_id, thoughts=True)
        return MessageTranscript(most, self.able, stream, thinks=not self.hides())

    def _translated(self, told: Json) -> Json:
        return messages_request.to_chat(told)

    def _answer(self, content: bytes) -> bytes:
        return messages_answer.answer(content, new_id("msg"), _tool_id, thoughts=not self.hides())


class ResponsesDialogue(Dialogue):
    """OpenAI's Responses. Raises InvalidRequest for what no engine here does."""

    path = "/v1/responses"
    turns = "input"

    def __init__(
        self,
        exchange: Exchange,
        body: JsonBody,
        policies: PolicyBook,
        kept_back: frozenset[str],
        store: ResponseStore,
        owner: object,
    ) -> None:
        super().__init__(exchange, body, policies, kept_back)
        self._store = store
        self._owner = owner
        self._size = len(body.raw)
        self._response_id = new_id("resp")
        self._toolbox: Toolbox | None = None
        self._streamed: ResponseStream | None = None
        self._heard: _Heard | None = None
        responses_request.check(self.fields)
        before = self.fields.get("previous_response_id")
        self._continues = before is not None
        if before is not None:
            found = store.before(before, owner)
            self._size += found.size
            self.fields = {**self.fields, "input": [*found.items, *_items(self.fields["input"])]}

    def rewrite(self, candidate: Candidate) -> Rewrite | None:
        """See Dialogue."""
        if self.native(candidate):
            return self._watched()
        return self._told(ResponseStream(self._frame(), self.body.model))

    def _told(self, streamed: ResponseStream) -> Rewrite:
        kept = self._kept()

        def tell(block: bytes) -> bytes:
            self._streamed = streamed  # of several that began, the one that the client hears
            out = streamed(block)
            if kept and streamed.response is not None:
                self._keep(streamed.response, len(out))
            return out

        return tell

    def adapt(self, candidate: Candidate, content_type: str, content: bytes) -> tuple[str, bytes]:
        """See Dialogue."""
        content_type, content = super().adapt(candidate, content_type, content)
        if self._kept():
            with suppress(msgspec.DecodeError, UnicodeDecodeError):  # where only its beginning is here
                self._keep(msgspec.json.decode(content), len(content))
        return content_type, content

    def ending(self) -> Ending:
        """See Dialogue: `response.failed` for who follows the response, `error` for who follows errors."""

        def end(error: GenieHiveError, body: bytes) -> bytes:
            said: Json = msgspec.json.decode(body)["error"]
            code, message = said.get("code") or wire_of(error).code, said.get("message") or error.message
            response_id, sequence = self._place()
            failed = {
                "id": response_id,
                "object": "response",
                "status": "failed",
                "error": {"code": code, "message": message},
                "output": [],
            }
            first = {"type": "response.failed", "sequence_number": sequence, "response": failed}
            told = {"type": "error", "sequence_number": sequence + 1, "code": code, "message": message, "param": None}
            return _event(first) + _event(told)

        return end

    def _place(self) -> tuple[str, int]:
        """The id of the response that the client hears, and the number of its next event."""
        if self._streamed is not None:
            return self._streamed.response_id, self._streamed.sequence
        known = self._heard.place() if self._heard is not None else None
        return known or (self._response_id, 0)

    def _native_transcript(self, most: int) -> ResponseTranscript:
        def make(response: Json) -> ResponseStream:
            model = response.get("model")
            return ResponseStream(self._frame(response), model if isinstance(model, str) else self.body.model)

        return ResponseTranscript(most, self.able, make, self._told)

    def _native(self, candidate: Candidate) -> tuple[Json, frozenset[str], Any]:
        put, drop, steadied = super()._native(candidate)
        if not self._continues:
            return put, drop, steadied
        return {"input": self.fields["input"], **put}, drop | {"previous_response_id"}, steadied

    def _translated(self, told: Json) -> Json:
        return responses_request.to_chat(told, self._tools())

    def _answer(self, content: bytes) -> bytes:
        return responses_answer.answer(content, self._frame())

    def _frame(self, begun: Json | None = None) -> Frame:
        """What is around the items of a new response, or of one that an engine has begun."""
        known = begun or {}
        created, response_id = known.get("created_at"), known.get("id", self._response_id)
        since = int(created) if isinstance(created, int | float) else int(time.time())
        return Frame(self.body.fields, response_id, since, new_id, self._tools())

    def _tools(self) -> Toolbox:
        if self._toolbox is None:
            self._toolbox = Toolbox(self.fields.get("tools"))
        return self._toolbox

    def _kept(self) -> bool:
        """Whether clients may go on from it: OpenAI keeps what it is not told to forget."""
        return self.fields.get("store") is not False

    def _watched(self) -> Rewrite:
        """An engine's own stream passes as it is; its last event has the whole response."""
        heard, kept = _Heard(), self._kept()

        def watch(block: bytes) -> bytes:
            self._heard = heard
            if block.find(b"data:") >= 0:  # comments tell neither the id nor a number
                heard.first, heard.last = heard.first or block, block
            if kept and (b'"response.completed"' in block or b'"response.incomplete"' in block):
                for found, size in _responses_in(block):
                    self._keep(found, size)
            return block

        return watch

    def _keep(self, response: Json, size: int) -> None:
        self._store.keep(self._owner, response, _items(self.fields["input"]), self._size + size)


def new_id(kind: str) -> str:
    """An id for a thing of this kind."""
    return f"{kind}_{secrets.token_hex(_ID_BYTES)}"


def _tool_id() -> str:
    return new_id("toolu")


def _items(given: Any) -> list[Any]:
    return given if isinstance(given, list) else [{"type": "message", "role": "user", "content": given}]


class _Heard:
    """The first and the last that came of an engine's own stream."""

    __slots__ = ("first", "last")

    def __init__(self) -> None:
        self.first = b""
        self.last = b""

    def place(self) -> tuple[str, int] | None:
        """The response's id and the number of the event that follows; None where it was not told."""
        ids = [found.get("id") for found, _ in _responses_in(self.first)]
        numbers = [seen.get("sequence_number") for seen, _ in _objects_in(self.last)]
        number = numbers[-1] if numbers and type(numbers[-1]) is int else -1
        return (ids[0], number + 1) if ids and isinstance(ids[0], str) else None


def _objects_in(block: bytes) -> Iterator[tuple[Json, int]]:
    """The data of each event, and its size."""
    for event in split_events(block):
        data = data_of(event)
        with suppress(msgspec.DecodeError, UnicodeDecodeError):
            seen = None if data is None else msgspec.json.decode(data)
            if data is not None and isinstance(seen, dict):
                yield seen, len(data)


def _responses_in(block: bytes) -> Iterator[tuple[Json, int]]:
    """The response of each event that has one, and the event's size."""
    for seen, size in _objects_in(block):
        if isinstance(found := seen.get("response"), dict):
            yield found, size


def _event(event: Json) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (event["type"].encode(), msgspec.json.encode(event))
