"""[pure] What an engine's failure means: try elsewhere, try again, or tell the client.

- 401, 407: ours to fix: 502, never as if the client's key were bad.
- 429, and 503 of an engine whose queue is full: another replica, else the same once more after a short wait,
  else passed on with its Retry-After. The service is left alone until then.
- 400 or 413 for a prompt that does not fit: a candidate with a larger context, else passed on.
- Other 4xx: the request's fault: passed on, not repeated, not held against the service.
- 500: one more attempt. 502, 503, 504: other candidates.
- 503 of a model that is being loaded: others first, else it is waited for; not held against the service.
- 3xx: never followed: 502.
"""

from __future__ import annotations

from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from enum import Enum, auto
from typing import NamedTuple

import msgspec

from gateway.errors import message_in
from gateway.told import ABSENT, Body
from geniehive.errors import GenieHiveError, NoServiceAvailable, UpstreamTimeout, UpstreamUnavailable

_ABSENT = msgspec.Raw()
_NO_ERROR = frozenset({b"", b"null", b"false", b"0", b'""', b"{}", b"[]"})


LONGEST_WAIT_S = 2
"""For which a client may be kept waiting for an engine that says when to come back."""

# How engines say that a prompt is too long: llama.cpp by its type, OpenAI and its likes by the code; vLLM, SGLang,
# LM Studio and Ollama only in words.
_TOO_LONG = frozenset({"exceed_context_size_error", "context_length_exceeded"})
_TOO_LONG_WORDS = (
    "maximum context length",  # vLLM
    "longer than the model's context length",  # SGLang
    "exceeds the available context size",  # llama.cpp, older
    "context length of only",  # LM Studio
    "greater than the context length",  # LM Studio, newer
    "exceeds the context length",  # Ollama, embeddings
)
_BUSY_WORDS = ("server busy", "queue is full")  # Ollama, SGLang: with 503
_LOADING_WORDS = ("loading model", "model is loading", "currently loading")  # llama.cpp: with 503


class Passed(NamedTuple):
    """An engine's own answer, to be passed on."""

    status: int
    body: bytes
    retry_after: str


class Kind(Enum):
    """Failures that the choice of the next candidate has to know."""

    ANY = auto()
    CRASH = auto()
    """The engine failed at its work: another one may fail at the same."""
    LOADING = auto()
    """Its model is just being loaded."""
    TOO_LONG = auto()
    """Only a larger context would help."""


class AttemptFailed(Exception):
    """One attempt failed before its first byte.

    `retry` is whether anybody else may be asked, `same_service` whether the same one may be; `passed`
    is the engine's answer where that is what the client should get in the end. `reason` is what receipts
    say: the error without the engine's own words, which may quote the request. `busy_s` is for how long the
    service wants to be left alone; 0 leaves that to the caller, None is a service that is not busy. `context` is
    how many tokens the engine has room for, if it told that with TOO_LONG.
    """

    def __init__(
        self,
        error: GenieHiveError,
        *,
        retry: bool = True,
        same_service: bool = False,
        passed: Passed | None = None,
        reason: str = "",
        busy_s: float | None = None,
        kind: Kind = Kind.ANY,
        context: int | None = None,
    ) -> None:
        super().__init__(error.message)
        self.error = error
        self.reason = reason or error.message
        self.retry = retry
        self.same_service = same_service
        self.passed = passed
        self.busy_s = busy_s
        self.kind = kind
        self.context = context

    @property
    def held_against(self) -> bool:
        """Whether this speaks against the service rather than against the request."""
        return self.kind is not Kind.LOADING and (self.passed is None or self.passed.status == 429)

    @property
    def again(self) -> bool:
        """Whether the same service may be asked once more where there is no other, after a wait."""
        return self.kind is Kind.LOADING or (self.busy_s is not None and self.busy_s <= LONGEST_WAIT_S)


def judge(status: int, headers: Mapping[str, str], body: bytes) -> AttemptFailed:
    """What an answer with an error status means."""
    said = message_in(body)
    tail = f": {said}" if said else ""
    retry_after = headers.get("retry-after", "")
    if status < 400:
        return AttemptFailed(UpstreamUnavailable("the engine answered with a redirect, which is not followed"))
    if status in {401, 407}:
        error = UpstreamUnavailable("the engine refused the gateway's own credentials; set the service's api_key")
        return AttemptFailed(error)
    if status == 429:
        error = UpstreamUnavailable("the engine takes no more requests now")
        return AttemptFailed(error, passed=Passed(status, body, retry_after), busy_s=_rest(headers) or 0.0)
    if status < 500:
        return _refused(status, body, said)
    if status == 503:
        return _unable(headers, said, tail)
    if status == 504:
        reason = "the engine timed out"
        return AttemptFailed(UpstreamTimeout(reason + tail), reason=reason)
    reason = f"the engine failed with status {status}"
    kind = Kind.CRASH if status == 500 else Kind.ANY
    return AttemptFailed(UpstreamUnavailable(reason + tail), same_service=True, kind=kind, reason=reason)


def _refused(status: int, body: bytes, said: str) -> AttemptFailed:
    """The engine finds the request wrong. Only a prompt that is too long for it may be right elsewhere."""
    told = _told(body)
    long = status in {400, 413} and _says_too_long(told, said)
    what = "found the prompt longer than its context" if long else "refused the request"
    return AttemptFailed(
        UpstreamUnavailable(f"the engine {what}; its answer was passed on"),
        retry=long,
        passed=Passed(status, body, ""),
        kind=Kind.TOO_LONG if long else Kind.ANY,
        context=told.n_ctx,
    )


def _says_too_long(told: _Told, said: str) -> bool:
    low = said.lower()
    return not _TOO_LONG.isdisjoint((told.type, told.code)) or any(words in low for words in _TOO_LONG_WORDS)


def _unable(headers: Mapping[str, str], said: str, tail: str) -> AttemptFailed:
    """503: it loads its model, has no room, or is not well."""
    low, rest = said.lower(), _rest(headers)
    if any(words in low for words in _LOADING_WORDS):
        reason = "the engine is loading the model"
        return AttemptFailed(NoServiceAvailable(reason, retry_after_s=rest), reason=reason, kind=Kind.LOADING)
    busy = rest is not None or any(words in low for words in _BUSY_WORDS)
    reason = "the engine takes no more requests now" if busy else "the engine cannot answer now"
    error = NoServiceAvailable(reason + tail, retry_after_s=rest)
    return AttemptFailed(error, reason=reason, busy_s=(rest or 0.0) if busy else None)


def _rest(headers: Mapping[str, str]) -> float | None:
    """Retry-After in seconds; a date counts from the answer's own. None if there is none that can be read."""
    told = headers.get("retry-after", "").strip()
    if told.isascii() and told.isdigit():
        return float(told[:9])
    try:
        return max(0.0, (parsedate_to_datetime(told) - parsedate_to_datetime(headers["date"])).total_seconds())
    except (KeyError, TypeError, ValueError):
        return None


class _Told(msgspec.Struct):
    """What an engine's error body may say in fields; whatever has another type is not for us."""

    type: str = ""
    code: str = ""
    n_ctx: int | None = None


def _told(body: bytes) -> _Told:
    try:
        found = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _Told()
    inner = found.get("error") if isinstance(found, dict) else None
    if not isinstance(inner, dict):
        return _Told()
    kind, code, size = inner.get("type"), inner.get("code"), inner.get("n_ctx")
    return _Told(
        kind if isinstance(kind, str) else "",
        code if isinstance(code, str) else "",
        size if isinstance(size, int) and size > 0 else None,
    )


class _Answer(msgspec.Struct):
    error: msgspec.Raw = _ABSENT


_answer = msgspec.json.Decoder(_Answer)


def judge_answer(
    headers: Mapping[str, str], body: bytes, *, whole: bool, seen: Body | None = None
) -> AttemptFailed | None:
    """What is wrong with an answer of a good status that should be a JSON object; None if nothing is.

    Of one that is not there as a `whole` only its beginning can be seen; `seen` is what `look` made of a whole one.
    """
    if seen is not None:
        if not body.isascii() and not _is_text(body):
            return _nonsense()
        return None if seen.error is ABSENT or bytes(seen.error) in _NO_ERROR else judge_event(headers, body)
    if not whole:
        return None if body[:64].lstrip().startswith(b"{") else _nonsense()
    try:
        if not body.isascii():
            body.decode()  # texts that are not looked at are not checked by the parser
        said = _answer.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _nonsense()
    return None if bytes(said.error) in _NO_ERROR else judge_event(headers, body)


def _is_text(body: bytes) -> bool:
    """Whether it is UTF-8: texts that are not looked at are not checked by the parser."""
    try:
        body.decode()
    except UnicodeDecodeError:
        return False
    return True


def _nonsense() -> AttemptFailed:
    return AttemptFailed(UpstreamUnavailable("the engine's answer is not a JSON object; is its endpoint right?"))


class _Coded(msgspec.Struct):
    code: int | str | None = None
    status: int | str | None = None


class _Said(msgspec.Struct):
    error: _Coded | None = None


def judge_event(headers: Mapping[str, str], data: bytes) -> AttemptFailed:
    """What an error event before any content means; the status is the one it names, else 502."""
    try:
        said = msgspec.json.decode(data, type=_Said).error or _Coded()
    except (msgspec.DecodeError, UnicodeDecodeError):
        said = _Coded()
    named = next((each for each in (said.code, said.status) if isinstance(each, int) and each), 0)
    status = named or (400 if _says_too_long(_told(data), message_in(data)) else 502)
    return judge(status if 400 <= status <= 599 else 502, headers, data)
