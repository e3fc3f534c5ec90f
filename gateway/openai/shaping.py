"""Request policies at work: what an engine gets of a body, and what a client gets of its reasoning.

The policy is of the candidate that is asked, so it is applied for each attempt; a fallback role brings
its own. Where there is nothing to shape the body's bytes go through but for the model's name.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from gateway.attempts import as_it_is
from gateway.openai.body import JsonBody
from gateway.reasoning import REASONED, strip_body, strip_events
from gateway.sse import Rewrite
from geniehive.errors import InvalidRequest
from geniehive.resources import Operation
from geniehive.routing.candidate import Candidate
from geniehive.routing.policy import INCLUDE_REASONING, PolicyBook, passes_reasoning, shape
from geniehive.routing.steady import Steadied

_REASONED = frozenset({Operation.CHAT, Operation.COMPLETION})


class Shaper:
    """Shapes the bodies of one operation; `kept_back` are parameters that engines never see from clients."""

    def __init__(self, operation: Operation, kept_back: Iterable[str]) -> None:
        self.operation = operation
        self.kept_back = frozenset({*kept_back, INCLUDE_REASONING})
        self.policies = PolicyBook(operation)
        self.reasoned = operation in _REASONED

    def of(self, body: JsonBody) -> Shaping:
        """The shaping of one request. Raises InvalidRequest for what only the gateway understands."""
        if self.kept_back.isdisjoint(body.fields):
            return Shaping(self, body)
        asked = body.fields.get(INCLUDE_REASONING)
        if asked is not None and not isinstance(asked, bool):
            raise InvalidRequest(f"`{INCLUDE_REASONING}` must be true or false", param=INCLUDE_REASONING)
        return Shaping(self, body, touched=True, asked=asked)


class Shaping(msgspec.Struct, eq=False):
    """One request; `touched` is whether parameters are kept back, `asked` whether reasoning is wanted."""

    _shaper: Shaper
    _body: JsonBody
    touched: bool = False
    asked: bool | None = None
    steadied: Steadied | None = None
    """What was done to keep the beginning of the prompt, the last time."""

    def content(self, candidate: Candidate) -> bytes:
        """The body that a candidate gets."""
        shaper, body, name = self._shaper, self._body, candidate.asset.asset_id
        policy = shaper.policies.of(candidate)
        if policy.plain and not self.touched:
            return body.raw if name == body.model else body.with_model(name)
        put, drop, self.steadied = shape(body.fields, policy, shaper.operation, shaper.kept_back)
        return body.with_changes(name, put, drop)

    def adapt(self, candidate: Candidate, content_type: str, content: bytes) -> tuple[str, bytes]:
        """A candidate's answer without a stream, as the client gets it. Raises UpstreamUnavailable for a web page."""
        if content_type != "application/json":
            content_type, content = as_it_is(candidate, content_type, content)
        if content.find(REASONED) >= 0 and self._strips(candidate):
            content = strip_body(content)
        return content_type, content

    def rewrite(self, candidate: Candidate) -> Rewrite | None:
        """What becomes of the events of a candidate's stream."""
        return strip_events if self._strips(candidate) else None

    def _strips(self, candidate: Candidate) -> bool:
        return self._shaper.reasoned and not passes_reasoning(self.asked, self._shaper.policies.of(candidate))
