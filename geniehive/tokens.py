"""Keys as people and programs present them, compared without telling how close a guess was."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterable

from geniehive.access import TOKEN_PREFIX

LONGEST = 4096
"""No key is longer; what is, is refused before it is hashed."""


def new_secret() -> str:
    """A token: 192 bits of chance behind a prefix that scanners for leaked secrets can look for."""
    return TOKEN_PREFIX + secrets.token_hex(24)


def sha256(secret: str | bytes) -> bytes:
    """The hash under which a key is stored and looked up."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass") if isinstance(secret, str) else secret).digest()


def bearer(authorization: str | None) -> str | None:
    """The token of an `Authorization: Bearer …` header (RFC 6750); None if it is not one."""
    if authorization is None:
        return None
    scheme, _, token = authorization.strip().partition(" ")
    return token.strip() or None if scheme.lower() == "bearer" else None


class KeyRing:
    """A set of keys that knows only their hashes, each with a name for logs and receipts."""

    def __init__(self, keys: Iterable[str] = (), *, prefix: str = "key") -> None:
        self._names = {sha256(key): f"{prefix}-{number}" for number, key in enumerate(keys, 1)}

    def __bool__(self) -> bool:
        return bool(self._names)

    def matches(self, presented: str | bytes | None) -> str | None:
        """The name of the key that was presented, or None."""
        if not presented or len(presented) > LONGEST:
            return None
        # By hash, in a table: how long it takes tells nothing about how close the key was.
        return self._names.get(sha256(presented))
