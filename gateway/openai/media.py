"""The routes for speech, images, rerank and moderations, and those that are only allowed through.

An engine may serve more under /v1 than is known here. What `gateway.extra_routes` names is sent on by its
`model`, JSON or form, and shaped by nothing; anything else under /v1 is a 404 that no engine hears of.
"""

from __future__ import annotations

from collections.abc import Iterable

from gateway import web
from gateway.auth import CALLER, INFERENCE
from gateway.exchange import Exchange
from gateway.http import Handler, Route
from gateway.openai.forms import Forms
from gateway.openai.forward import Errand, Forward, comes_whole, speaks_in_events
from gateway.openai.voices import Voices
from geniehive.resources import Operation

_SPEECH = Errand(
    Operation.SPEECH, "/v1/audio/speech", accept="*/*", json=False, stream=speaks_in_events, as_it_comes=True
)
_IMAGES = Errand(Operation.IMAGE, "/v1/images/generations")
_MODERATION = Errand(Operation.MODERATION, "/v1/moderations", stream=comes_whole)
_RERANK = Errand(Operation.RERANK, "/v1/rerank", stream=comes_whole)
# As Jina, vLLM, llama.cpp and Cohere name it.
_RERANK_PATHS = ("/v1/rerank", "/rerank", "/v1/reranking", "/reranking", "/v2/rerank")


class Media:
    """These routes."""

    def __init__(self, forward: Forward, forms: Forms, voices: Voices, extra: Iterable[str]) -> None:
        self._forward = forward
        self._forms = forms
        self._voices = voices
        self._extra = tuple(extra)

    def routes(self) -> tuple[Route, ...]:
        """All of them; those that are only allowed through come first, so that a route of ours goes before."""
        make = self._forward.handler
        edits = self._forms.handler(Operation.IMAGE, "/v1/images/edits", wants_file="image")
        return (
            # Which operation it is, the model tells: until then it counts as chat, so that keys' limits hold.
            *(Route(path, "POST", self._allowed(path), Operation.CHAT, INFERENCE) for path in self._extra),
            Route("/v1/audio/speech", "POST", make(_SPEECH), Operation.SPEECH, INFERENCE),
            Route("/v1/audio/voices", "GET", self._voices.all, scope=CALLER),
            Route("/v1/audio/models", "GET", self._voices.models, scope=CALLER),
            Route("/v1/images/generations", "POST", make(_IMAGES), Operation.IMAGE, INFERENCE),
            Route("/v1/images/edits", "POST", edits, Operation.IMAGE, INFERENCE),
            Route("/v1/moderations", "POST", make(_MODERATION), Operation.MODERATION, INFERENCE),
            *(Route(path, "POST", make(_RERANK), Operation.RERANK, INFERENCE) for path in _RERANK_PATHS),
        )

    def _allowed(self, path: str) -> Handler:
        as_json = self._forward.handler(Errand(None, path, accept="*/*", json=False))
        as_form = self._forms.handler(None, path)

        async def handle(exchange: Exchange) -> web.StreamResponse:
            kind = exchange.request.headers.get("content-type", "")
            return await (as_form if kind.lower().startswith("multipart/") else as_json)(exchange)

        return handle
