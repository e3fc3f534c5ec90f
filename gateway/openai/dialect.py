"""[pure] How engines take an audio form: OpenAI's, or that of whisper.cpp's server.

whisper.cpp (`examples/server/server.cpp`, 1.8) has one model and its own route, `POST /inference`; it
takes `file, temperature, temperature_inc, response_format, language, translate, prompt`, defaults to
English, and answers `text` as text/html.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from gateway import multipart
from gateway.errors import message_in
from geniehive.errors import InvalidRequest, UpstreamUnavailable
from geniehive.resources import Operation
from geniehive.routing.candidate import Candidate

_PATHS = {Operation.TRANSCRIPTION: "/v1/audio/transcriptions", Operation.TRANSLATION: "/v1/audio/translations"}
_WHISPER_FIELDS = frozenset({"temperature", "temperature_inc", "response_format", "language", "prompt"})
_WHISPER_FORMATS = frozenset({b"json", b"text", b"srt", b"vtt", b"verbose_json"})


class Pair(Protocol):
    """A field's name and value."""

    @property
    def name(self) -> str:
        """As the client called it."""
        ...

    @property
    def value(self) -> bytes:
        """As the client sent it."""
        ...


class Dialect(Protocol):
    """One way to take an audio form."""

    path: str

    def fields(self, boundary: bytes, fields: Iterable[Pair]) -> bytes:
        """The client's fields as the engine takes them, as form parts."""
        ...

    def missing(self, boundary: bytes, given: Iterable[Pair]) -> bytes:
        """What the engine needs beyond what was given, as form parts."""
        ...

    def answer(self, content_type: str, body: bytes) -> tuple[str, bytes]:
        """The engine's answer as OpenAI's clients expect it. Raises if it is an error in disguise."""
        ...


class OpenAIForm:
    """The form as it is, with the model's name put right."""

    def __init__(self, operation: Operation, model: str) -> None:
        self.path = _PATHS[operation]
        self._model = model.encode()

    def fields(self, boundary: bytes, fields: Iterable[Pair]) -> bytes:
        """See Dialect."""
        return b"".join(
            multipart.field(boundary, each.name, self._model if each.name == "model" else each.value) for each in fields
        )

    def missing(self, _boundary: bytes, _given: Iterable[Pair]) -> bytes:
        """See Dialect."""
        return b""

    def answer(self, content_type: str, body: bytes) -> tuple[str, bytes]:
        """See Dialect."""
        if content_type.startswith("text/html"):
            raise UpstreamUnavailable("the engine answered with a web page; is its endpoint right?")
        return content_type, body


class WhisperForm:
    """The form of whisper.cpp's server."""

    path = "/inference"

    def __init__(self, operation: Operation) -> None:
        self._translate = operation is Operation.TRANSLATION

    def fields(self, boundary: bytes, fields: Iterable[Pair]) -> bytes:
        """See Dialect. Raises InvalidRequest for a format that this engine would answer as another."""
        kept = [each for each in fields if each.name in _WHISPER_FIELDS]
        for each in kept:
            if each.name == "response_format" and each.value not in _WHISPER_FORMATS:
                raise InvalidRequest(
                    "this engine answers as json, text, srt, vtt or verbose_json", param="response_format"
                )
        return b"".join(multipart.field(boundary, each.name, each.value) for each in kept)

    def missing(self, boundary: bytes, given: Iterable[Pair]) -> bytes:
        """See Dialect. OpenAI finds the language out by itself; here that has to be asked for."""
        names = {each.name for each in given}
        parts = [] if "language" in names else [multipart.field(boundary, "language", b"auto")]
        if "response_format" not in names:
            parts.append(multipart.field(boundary, "response_format", b"json"))
        if self._translate:
            parts.append(multipart.field(boundary, "translate", b"true"))
        return b"".join(parts)

    def answer(self, content_type: str, body: bytes) -> tuple[str, bytes]:
        """See Dialect. Some errors come with status 200."""
        if content_type.startswith("text/html"):
            return "text/plain; charset=utf-8", body
        if body.startswith(b'{"error"') and (said := message_in(body)):
            raise InvalidRequest(f"the engine refused the file: {said}", param="file")
        return content_type, body


def dialect_of(candidate: Candidate, operation: Operation) -> Dialect:
    """How this candidate takes the form."""
    if candidate.service.protocol == "whispercpp":
        return WhisperForm(operation)
    return OpenAIForm(operation, candidate.asset.asset_id)
