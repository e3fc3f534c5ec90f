"""Who asks: API keys of clients and admins, checked before the body is read.

`X-Api-Key` and `Authorization: Bearer` are the same thing. A key in the query is not looked at. With
no client key configured everybody on this machine may do everything (the config refuses that on any
other address).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from geniehive.errors import PermissionDenied, Unauthenticated
from geniehive.resources import Operation
from geniehive.tokens import KeyRing, bearer

INFERENCE = "inference"
READ = "read"
OPERATOR = "operator"
ADMIN = "admin"
PUBLIC = ""  # a route for everybody

_EVERY = frozenset({INFERENCE, READ, OPERATOR, ADMIN})
_CLIENT = frozenset({INFERENCE, READ})


class Principal(NamedTuple):
    """Who asks: the key's name, never the key, and what it may do."""

    name: str
    scopes: frozenset[str]
    models: frozenset[str] = frozenset()
    """Models and roles that it may ask for; empty is all."""
    operations: frozenset[Operation] = frozenset()
    """Operations that it may ask for; empty is all."""
    priority: str = ""
    """"interactive" or "batch"; empty is interactive."""
    max_concurrency: int | None = None
    """Requests that it may have open at once; None is no limit."""


ANYBODY = Principal("anonymous", _EVERY)


class Authenticator:
    """Checks the credentials of a request against the configured keys."""

    def __init__(self, client_keys: tuple[str, ...], admin_keys: tuple[str, ...]) -> None:
        self._clients = KeyRing(client_keys, prefix="client")
        self._admins = KeyRing(admin_keys, prefix="admin")
        self._open = not self._clients

    def check(self, headers: Mapping[str, str], scope: str) -> Principal:
        """The principal of a request for a route of `scope`.

        Raises Unauthenticated (no key, or a wrong one) or PermissionDenied (a key for something else).
        """
        if scope == PUBLIC or self._open:
            return ANYBODY
        principal = self._principal(headers)
        if scope not in principal.scopes:
            raise PermissionDenied(f"this key may not do that: the route needs the scope {scope!r}")
        return principal

    def _principal(self, headers: Mapping[str, str]) -> Principal:
        given = headers.get("X-Api-Key") or bearer(headers.get("Authorization"))
        if not given:
            raise Unauthenticated("no API key: send it as `Authorization: Bearer KEY` or `X-Api-Key: KEY`")
        if name := self._clients.matches(given):
            return Principal(name, _CLIENT)
        if name := self._admins.matches(given):
            return Principal(name, _EVERY)
        raise Unauthenticated("this API key is not known here: it must be one of the gateway's auth.client_api_keys")
