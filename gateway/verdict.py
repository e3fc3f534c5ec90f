"""[pure] What an engine's failure means: try elsewhere, try again, or tell the client.

- 401, 407: ours to fix: 502, never as if the client's key were bad.
- 429: another replica, else the same once more after a short wait, else passed on with its Retry-After.
- Other 4xx: the request's fault: passed on, not repeated, not held against the service.
- 500: one more attempt. 502, 503, 504: other candidates; 503 is what a loading model answers.
- 3xx: never followed: 502.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import msgspec

from gateway.errors import message_in
from geniehive.errors import GenieHiveError, NoServiceAvailable, UpstreamTimeout, UpstreamUnavailable

_ABSENT = msgspec.Raw()
_NO_ERROR = frozenset({b"", b"null", b"false", b"0", b'""', b"{}", b"[]"})


_LONGEST_WAIT_S = 2


class Passed(NamedTuple):
    """An engine's own answer, to be passed on."""

    status: int
    body: bytes
    retry_after: str


class AttemptFailed(Exception):
    """One attempt failed before its first byte.

    `retry` is whether anybody else may be asked, `same_service` whether the same one may be; `passed`
    is the engine's answer where that is what the client should get in the end. `reason` is what receipts
    say: the error without the engine's own words, which may quote the request. `wait_s` is after how long
    the same service may be asked once more where there is no other; 0 leaves that to the caller.
    """

    def __init__(
        self,
        error: GenieHiveError,
        *,
        retry: bool = True,
        same_service: bool = False,
        crash: bool = False,
        passed: Passed | None = None,
        reason: str = "",
        wait_s: float | None = None,
    ) -> None:
        super().__init__(error.message)
        self.error = error
        self.reason = reason or error.message
        self.retry = retry
        self.same_service = same_service
        self.crash = crash
        self.passed = passed
        self.wait_s = wait_s

    @property
    def held_against(self) -> bool:
        """Whether this speaks against the service rather than against the request."""
        return self.passed is None or self.passed.status == 429


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
        return AttemptFailed(error, passed=Passed(status, body, retry_after), wait_s=_wait(retry_after))
    if status < 500:
        error = UpstreamUnavailable("the engine refused the request; its answer was passed on")
        return AttemptFailed(error, retry=False, passed=Passed(status, body, ""))
    if status == 503:
        seconds = float(retry_after) if retry_after.isdigit() else None
        reason = "the engine cannot answer now"
        return AttemptFailed(NoServiceAvailable(reason + tail, retry_after_s=seconds), reason=reason)
    if status == 504:
        reason = "the engine timed out"
        return AttemptFailed(UpstreamTimeout(reason + tail), reason=reason)
    reason = f"the engine failed with status {status}"
    return AttemptFailed(UpstreamUnavailable(reason + tail), same_service=True, crash=status == 500, reason=reason)


def _wait(retry_after: str) -> float | None:
    """Seconds to wait for an engine that is busy; 0 if it did not say, None if that is too long for a client."""
    if not retry_after:
        return 0.0
    return float(retry_after) if retry_after.isdigit() and int(retry_after) <= _LONGEST_WAIT_S else None


class _Answer(msgspec.Struct):
    error: msgspec.Raw = _ABSENT


_answer = msgspec.json.Decoder(_Answer)


def judge_answer(headers: Mapping[str, str], body: bytes, *, whole: bool) -> AttemptFailed | None:
    """What is wrong with an answer of a good status that should be a JSON object; None if nothing is.

    Of one that is not there as a `whole` only its beginning can be seen.
    """
    if not whole:
        return None if body[:64].lstrip().startswith(b"{") else _nonsense()
    try:
        said = _answer.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _nonsense()
    return None if bytes(said.error) in _NO_ERROR else judge_event(headers, body)


def _nonsense() -> AttemptFailed:
    return AttemptFailed(UpstreamUnavailable("the engine's answer is not a JSON object; is its endpoint right?"))


class _Coded(msgspec.Struct):
    code: int | None = None
    status: int | None = None


class _Said(msgspec.Struct):
    error: _Coded | None = None


def judge_event(headers: Mapping[str, str], data: bytes) -> AttemptFailed:
    """What an error event before any content means; the status is the one it names, else 502."""
    try:
        said = msgspec.json.decode(data, type=_Said).error or _Coded()
    except (msgspec.DecodeError, UnicodeDecodeError):
        said = _Coded()
    status = said.code or said.status or 502
    return judge(status if 400 <= status <= 599 else 502, headers, data)
