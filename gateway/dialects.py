"""The two dialects of agents, each as one request of it: what an engine gets, and what becomes of its answer.

An engine that has the dialect's route gets the request as it came, policies aside, and its answer passes byte for
byte. Any other gets a chat completion, and its answer is translated (`gateway.translate`). Both may happen to one
request, when the first engine fails.
"""

from __future__ import annotations

import secrets
import time
from abc import ABC, abstractmethod
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
from gateway.translate.policy import native_changes
from gateway.translate.responses_answer import Frame
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
        return None if self.native(candidate) else Transcript(most, hides=self.hides())

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
            return self._watched if self._kept() else None
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
            sequence = self._streamed.sequence if self._streamed is not None else 0
            failed = {
                "id": self._response_id,
                "object": "response",
                "status": "failed",
                "error": {"code": code, "message": message},
                "output": [],
            }
            first = {"type": "response.failed", "sequence_number": sequence, "response": failed}
            told = {"type": "error", "sequence_number": sequence + 1, "code": code, "message": message, "param": None}
            return _event(first) + _event(told)

        return end

    def _native(self, candidate: Candidate) -> tuple[Json, frozenset[str], Any]:
        put, drop, steadied = super()._native(candidate)
        if not self._continues:
            return put, drop, steadied
        return {"input": self.fields["input"], **put}, drop | {"previous_response_id"}, steadied

    def _translated(self, told: Json) -> Json:
        return responses_request.to_chat(told, self._tools())

    def _answer(self, content: bytes) -> bytes:
        return responses_answer.answer(content, self._frame())

    def _frame(self) -> Frame:
        return Frame(self.body.fields, self._response_id, int(time.time()), new_id, self._tools())

    def _tools(self) -> Toolbox:
        if self._toolbox is None:
            self._toolbox = Toolbox(self.fields.get("tools"))
        return self._toolbox

    def _kept(self) -> bool:
        """Whether clients may go on from it: OpenAI keeps what it is not told to forget."""
        return self.fields.get("store") is not False

    def _watched(self, block: bytes) -> bytes:
        """An engine's own stream passes as it is; its last event has the whole response."""
        if b'"response.completed"' in block or b'"response.incomplete"' in block:
            for event in split_events(block):
                data = data_of(event)
                if data is not None and (found := _ended(data)) is not None:
                    self._keep(found, len(data))
        return block

    def _keep(self, response: Json, size: int) -> None:
        self._store.keep(self._owner, response, _items(self.fields["input"]), self._size + size)


def new_id(kind: str) -> str:
    """An id for a thing of this kind."""
    return f"{kind}_{secrets.token_hex(_ID_BYTES)}"


def _tool_id() -> str:
    return new_id("toolu")


def _items(given: Any) -> list[Any]:
    return given if isinstance(given, list) else [{"type": "message", "role": "user", "content": given}]


def _ended(data: bytes) -> Json | None:
    try:
        seen = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    found = seen.get("response") if isinstance(seen, dict) else None
    return found if isinstance(found, dict) else None


def _event(event: Json) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (event["type"].encode(), msgspec.json.encode(event))
