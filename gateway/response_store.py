"""Responses that clients may go on from: the last ones of this worker, bounded by number and by bytes.

A response is kept with all that led to it, so `previous_response_id` needs one look. It is kept for the key that made
it, and for nobody else: not for a later one of the same name either. Engines never see these ids: they get the whole
conversation each time.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, NamedTuple

from geniehive.errors import NotFound, ResponseNotKept

Json = dict[str, Any]

MAX_BYTES = 64 * 1024 * 1024


class Stored(NamedTuple):
    """A response, and the items that a request which goes on from it begins with; `size` in bytes, about."""

    owner: object
    response: Json
    items: list[Any]
    size: int


class ResponseStore:
    """Keeps at most `limit` responses of at most `max_bytes` together; the oldest go first."""

    def __init__(self, limit: int, max_bytes: int = MAX_BYTES) -> None:
        self._limit = limit
        self._max_bytes = max_bytes
        self._kept: OrderedDict[str, Stored] = OrderedDict()
        self.bytes = 0

    def keep(self, owner: object, response: Json, before: list[Any], size: int) -> None:
        """Keep a response; `before` are the items of its request, `size` the bytes of both."""
        name, output = response.get("id"), response.get("output")
        if not isinstance(name, str) or not isinstance(output, list) or not self._limit or size > self._max_bytes:
            return
        self._drop(name)
        self._kept[name] = Stored(owner, response, [*before, *output], size)
        self.bytes += size
        while len(self._kept) > self._limit or self.bytes > self._max_bytes:
            self._drop(next(iter(self._kept)))

    def before(self, name: Any, owner: object) -> Stored:
        """What a request goes on from. Raises ResponseNotKept, in OpenAI's words, for a response that is not kept."""
        found = self._kept.get(name) if isinstance(name, str) else None
        if found is None or found.owner is not owner:
            raise ResponseNotKept(
                f"Previous response with id {ascii(name)[:100]} not found. Each gateway worker keeps the last "
                f"{self._limit} (gateway.stored_responses); send the whole `input` instead",
                param="previous_response_id",
            )
        return found

    def get(self, name: str, owner: object) -> Stored:
        """A response by its id. Raises NotFound."""
        found = self._kept.get(name)
        if found is None or found.owner is not owner:
            raise NotFound(f"Response with id {ascii(name)[:100]} not found.", param="response_id")
        return found

    def delete(self, name: str, owner: object) -> None:
        """Forget a response. Raises NotFound."""
        self.get(name, owner)
        self._drop(name)

    def _drop(self, name: str) -> None:
        if (gone := self._kept.pop(name, None)) is not None:
            self.bytes -= gone.size
