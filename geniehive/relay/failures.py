"""[pure] How an exchange with an engine fails. Clients read the messages: they name no address."""

from __future__ import annotations

from geniehive.errors import UpstreamUnavailable


class Refused(UpstreamUnavailable):
    """No connection could be made, so the engine saw nothing of the request."""


class Unanswered(UpstreamUnavailable):
    """The connection died before any byte of the answer."""


def refused(why: str) -> Refused:
    """There is no connection."""
    return Refused(f"no connection to the engine ({why})")


def unanswered(why: str) -> Unanswered:
    """There was a connection, and nothing came back on it."""
    return Unanswered(f"the engine did not answer ({why})")


def no_answer(why: str) -> UpstreamUnavailable:
    """Something came back, but no head of an answer."""
    return UpstreamUnavailable(f"the engine did not answer ({why})")


def broken_off(why: str) -> UpstreamUnavailable:
    """The body came to no proper end."""
    return UpstreamUnavailable(f"the engine broke its answer off ({why})")
