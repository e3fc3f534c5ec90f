"""[pure] The tokens of the cluster: which are good, which were, and what creating or revoking one changes.

A token that was revoked stays as a mark without its hash, until its name is used again: so that it is
known that this cluster had tokens, and an open gateway does not open again when its last one goes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from msgspec.structs import replace

from controlplane.events import Delete, Kind, Put, RevokeRequested, TokenRequested
from controlplane.near import find
from geniehive.access import ADMIN, MOST_TOKENS, held, is_over
from geniehive.errors import Conflict
from geniehive.resources import AccessKey

REVOKED_KEPT: Final = 1000
"""Revoked tokens that are remembered."""


class TokenBook:
    """Every token, by name and by hash."""

    def __init__(self, keys: Iterable[AccessKey] = ()) -> None:
        self._all = {key.name: key for key in keys}
        self._good = {key.name: key for key in self._all.values() if key.revoked_at is None}
        self._by_hash = {key.secret_sha256: key for key in self._good.values()}

    @property
    def all(self) -> tuple[AccessKey, ...]:
        """Every token, revoked ones too, by name."""
        return tuple(self._all[name] for name in sorted(self._all))

    @property
    def good(self) -> Mapping[str, AccessKey]:
        """Those that are not revoked, by name; some may have expired. It changes with the book."""
        return self._good

    @property
    def required(self) -> bool:
        """Whether there ever was one: then nobody gets in without a key any more."""
        return bool(self._all)

    @property
    def admins(self) -> bool:
        """Whether there ever was one that opens the administrators' calls."""
        return any(ADMIN in held(key.scopes) for key in self._all.values())

    def by_hash(self, digest: bytes) -> AccessKey | None:
        """The token with this hash, expired or not; None if it is not known or revoked."""
        return self._by_hash.get(digest)

    def changes(self, event: TokenRequested | RevokeRequested, now_s: float) -> tuple[Put | Delete, ...]:
        """What must be stored before it counts.

        Raises:
            Conflict: The name is in use, or there are too many tokens.
            NotFound: There is no such token; near misses are named.
        """
        if isinstance(event, RevokeRequested):
            return (Put(self._mark(event)), *self._surplus())
        before = self._all.get(event.key.name)
        if before is not None and not is_over(before, now_s):
            name = event.key.name
            raise Conflict(
                f"there is a token {name!r} already: choose another name, or revoke that one first", param="name"
            )
        if len(self._good) >= MOST_TOKENS:
            raise Conflict(f"there are {len(self._good)} tokens, the most there can be: revoke some")
        return (Put(event.key),)

    def commit(self, event: TokenRequested | RevokeRequested) -> AccessKey:
        """It is stored: from now on it counts. The token as it is now."""
        if isinstance(event, RevokeRequested):
            after = self._mark(event)
            for surplus in self._surplus():
                del self._all[surplus.key]
        else:
            after = event.key
        before = self._good.pop(after.name, None)
        if before is not None:
            del self._by_hash[before.secret_sha256]
        self._all[after.name] = after
        if after.revoked_at is None:
            self._good[after.name] = self._by_hash[after.secret_sha256] = after
        return after

    def _mark(self, event: RevokeRequested) -> AccessKey:
        key = find("token", self._good, event.name, "name")
        return replace(key, secret_sha256=b"", revoked_at=event.at)

    def _surplus(self) -> tuple[Delete, ...]:
        """Marks that are too many once one more is made; an administrator's last one stays."""
        marks = sorted((key for key in self._all.values() if key.revoked_at is not None), key=_revocation)
        kept = next((key.name for key in reversed(marks) if ADMIN in key.scopes), "")
        return tuple(
            Delete(Kind.ACCESS_KEY, key.name)
            for key in marks[: max(0, len(marks) + 1 - REVOKED_KEPT)]
            if key.name != kept
        )


def _revocation(key: AccessKey) -> tuple[int, str]:
    return key.revoked_at or 0, key.name
