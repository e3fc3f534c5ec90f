"""Finds what a caller named, or says what may have been meant."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from typing import TypeVar

from geniehive.errors import InvalidRequest, NotFound

ThingT = TypeVar("ThingT")
_SHOWN = 200


def find(what: str, known: Mapping[str, ThingT], key: str, param: str = "") -> ThingT:
    """The thing with this id; `what` is its noun ("host", "service", …), `param` the field, if not its id.

    Raises:
        InvalidRequest: The id is empty.
        NotFound: Nothing has it; the message names near misses.
    """
    param = param or f"{what}_id"
    if not key:
        raise InvalidRequest(f"{param} is empty: name a {what}", param=param)
    found = known.get(key)
    if found is None:
        raise NotFound(f"no {what} {key[:_SHOWN]!r}; {_hint(what, known, key[:_SHOWN])}", param=param)
    return found


def _hint(what: str, known: Mapping[str, object], key: str) -> str:
    if not known:
        return f"no {what} is known at all"
    near = get_close_matches(key, sorted(known), n=3, cutoff=0.5)
    return f"did you mean {', '.join(map(repr, near))}?" if near else f"known are {', '.join(sorted(known)[:5])}"
