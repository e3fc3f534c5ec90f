"""[pure] Tool calls of a stream, piece by piece: which call a piece belongs to, and when one is whole.

Engines give each piece the index of its call; some give whole calls without one. A call counts as whole when another
begins and its arguments are a JSON document: where they are not, its pieces are still to come, between those of others.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from gateway.translate.chat import Call


class OpenCall:
    """One call of a stream; `place` is where it stands in the answer."""

    __slots__ = ("arguments", "call_id", "closed", "name", "place")

    def __init__(self, place: int, call_id: str, name: str) -> None:
        self.place = place
        self.call_id = call_id
        self.name = name
        self.arguments = ""
        self.closed = False

    def whole(self) -> bool:
        """Whether the arguments are complete."""
        return is_json(self.arguments or "{}")


class CallBook:
    """The calls of one stream; `new_id` makes an id for a call that came without one."""

    def __init__(self, new_id: Callable[[], str]) -> None:
        self._by_number: dict[int, OpenCall] = {}
        self._new_id = new_id
        self.calls: list[OpenCall] = []
        """In the order in which they began."""

    def find(self, piece: Call) -> OpenCall | None:
        """The call that a piece continues; None if it begins one."""
        if piece.number is not None:
            found = self._by_number.get(piece.number)
            # Some engines give every call index 0: another id with a name is another call.
            renamed = found is not None and piece.name and piece.call_id and piece.call_id != found.call_id
            return None if renamed else found
        if piece.name or not self.calls:
            return None
        return self.calls[-1]

    def begin(self, piece: Call, place: int) -> OpenCall:
        """A call begins."""
        made = OpenCall(place, piece.call_id or self._new_id(), piece.name)
        self.calls.append(made)
        if piece.number is not None:
            self._by_number[piece.number] = made
        return made

    def closing(self, *, last: bool) -> list[OpenCall]:
        """The calls that end now, since another part begins, or (`last`) since the answer ends."""
        ending = [call for call in self.calls if not call.closed and (last or call.whole())]
        for call in ending:
            call.closed = True
        return ending


def is_json(text: str) -> bool:
    """Whether a text is a JSON document."""
    try:
        msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError):
        return False
    return True
