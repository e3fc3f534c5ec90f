"""Request policies at work: what an engine gets of a body, and what a client gets of its reasoning.

The policy is of the candidate that is asked, so it is applied for each attempt; a fallback role brings
its own. Where there is nothing to shape the body's bytes go through but for the model's name.
"""

from __future__ import annotations

from collections.abc import Iterable

from gateway.attempts import as_it_is
from gateway.openai.body import JsonBody
from gateway.reasoning import strip_body, strip_events
from gateway.sse import Rewrite
from geniehive.errors import InvalidRequest
from geniehive.resources import Operation
from geniehive.routing.candidate import Candidate
from geniehive.routing.policy import INCLUDE_REASONING, PolicyBook, passes_reasoning, shape

_REASONED = frozenset({Operation.CHAT, Operation.COMPLETION})


class Shaper:
    """Shapes the bodies of one worker; `kept_back` are parameters that engines never see from clients."""

    def __init__(self, kept_back: Iterable[str]) -> None:
        self._policies = PolicyBook()
        self._kept_back = frozenset({*kept_back, INCLUDE_REASONING})

    def of(self, body: JsonBody, operation: Operation) -> Shaping:
        """The shaping of one request. Raises InvalidRequest for what only the gateway understands."""
        asked = body.fields.get(INCLUDE_REASONING)
        if asked is not None and not isinstance(asked, bool):
            raise InvalidRequest(f"`{INCLUDE_REASONING}` must be true or false", param=INCLUDE_REASONING)
        return Shaping(body, operation, self._policies, self._kept_back)


class Shaping:
    """One request."""

    __slots__ = ("_body", "_kept_back", "_operation", "_policies")

    def __init__(self, body: JsonBody, operation: Operation, policies: PolicyBook, kept_back: frozenset[str]) -> None:
        self._body = body
        self._operation = operation
        self._policies = policies
        self._kept_back = kept_back

    def content(self, candidate: Candidate) -> bytes:
        """The body that a candidate gets."""
        body, name = self._body, candidate.asset.asset_id
        policy = self._policies.of(candidate, self._operation)
        if policy.plain and self._kept_back.isdisjoint(body.fields):
            return body.with_model(name)
        return body.with_changes(name, *shape(body.fields, policy, self._operation, self._kept_back))

    def adapt(self, candidate: Candidate, content_type: str, content: bytes) -> tuple[str, bytes]:
        """A candidate's answer without a stream, as the client gets it. Raises UpstreamUnavailable for a web page."""
        content_type, content = as_it_is(candidate, content_type, content)
        return content_type, strip_body(content) if self._strips(candidate) else content

    def rewrite(self, candidate: Candidate) -> Rewrite | None:
        """What becomes of the events of a candidate's stream."""
        return strip_events if self._strips(candidate) else None

    def _strips(self, candidate: Candidate) -> bool:
        if self._operation not in _REASONED:
            return False
        return not passes_reasoning(self._body.fields, self._policies.of(candidate, self._operation))
