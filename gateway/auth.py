"""Who asks: keys of the config and tokens of the cluster, checked before the body is read.

`X-Api-Key` and `Authorization: Bearer` are the same thing. A key in the query is not looked at. The tokens come with
the snapshot; a request is one look into a table by the key's hash, so how long that takes tells nothing about how
close a guess was. With no client key configured, and no token ever made, everybody on this machine may ask (the config
refuses that on any other address); what needs more is then for the config's admin keys, where there are some.

Whose headers are is remembered, so that a client that comes again costs no hash. What is remembered has the key in it
as it came: only of keys that are good, only so many, and none beyond the next change of the keys.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

from gateway.server.request import text
from gateway.view import no_picture
from geniehive.access import (
    ADMIN,
    CALLER,
    EVERY,
    EVERYBODYS,
    INFERENCE,
    OPERATOR,
    PLAIN_CLIENT,
    PUBLIC,
    READ,
    TOKEN_PREFIX,
    held,
)
from geniehive.errors import GenieHiveError, PermissionDenied, Unauthenticated
from geniehive.resources import AccessKey, Operation
from geniehive.tokens import LONGEST, bearer, sha256

__all__ = (
    "ADMIN",
    "ANYBODY",
    "CALLER",
    "EVERYBODYS",
    "INFERENCE",
    "OPERATOR",
    "PUBLIC",
    "READ",
    "Authenticator",
    "Principal",
)


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
    """Requests that it may have open at once in one worker; None is no limit."""
    expires_at: int | None = None
    """End of its validity in Unix seconds; None is none."""
    limited: bool = False
    """Whether `models`, `operations` or `max_concurrency` say anything."""
    token: bool = False
    """Whether it is a token of the cluster, which may be revoked; else a key of the config."""


_MOST_SEEN = 1024
_Sent = tuple[bytes | None, bytes | None]
"""`X-Api-Key` and `Authorization` as they came."""

ANYBODY = Principal("anonymous", EVERY)
_ANY_CLIENT = Principal("anonymous", PLAIN_CLIENT)


class Authenticator:
    """Checks the credentials of a request. `now` is a clock in Unix seconds."""

    def __init__(
        self, client_keys: tuple[str, ...], admin_keys: tuple[str, ...], *, now: Callable[[], float] = time.time
    ) -> None:
        self._configured = _configured(client_keys, "client", PLAIN_CLIENT) | _configured(admin_keys, "admin", EVERY)
        self._closed = bool(client_keys)
        self._now = now
        self._keys: Mapping[str, AccessKey] = {}
        self._tokens: dict[str, Principal] = {}
        self._known = self._configured
        self._seen: dict[_Sent, Principal] = {}
        """Whose the headers are that came lately: never a stranger's, and of nobody who may not come any more."""
        self._learned = False
        self._anybody: Principal | None = None
        """Who a stranger is; None where strangers are refused."""

    def learn(self, keys: Mapping[str, AccessKey], *, required: bool) -> None:
        """These are the cluster's tokens now; `required` is whether there ever was one."""
        before, tokens = self._keys, self._tokens
        self._tokens = {
            name: tokens[name] if before.get(name) is key or before.get(name) == key else _principal(key)
            for name, key in keys.items()
        }
        found = {key.secret_sha256: self._tokens[name] for name, key in keys.items()}
        self._keys, self._known, self._learned = keys, found | self._configured, True
        self._seen.clear()
        if self._closed or required or keys:
            self._anybody = None
        else:
            self._anybody = _ANY_CLIENT if self._configured else ANYBODY

    def check(self, headers: Mapping[str, str], scope: str) -> Principal:
        """The principal of a request for a route of `scope`.

        Raises Unauthenticated (no key, or a wrong one), PermissionDenied (a key for something else), or NotReady
        (which tokens there are is not known yet).
        """
        return self.check_key(headers.get("X-Api-Key"), headers.get("Authorization"), scope)

    def check_fields(self, fields: Mapping[bytes, bytes], scope: str) -> Principal:
        """The same for headers as they came, names in lower case."""
        api_key, authorization = sent = fields.get(b"x-api-key"), fields.get(b"authorization")
        found = self._seen.get(sent)
        if found is not None and scope in found.scopes and (found.expires_at is None or not self._expired(found)):
            return found
        return self.check_key(
            None if api_key is None else text(api_key),
            None if authorization is None else text(authorization),
            scope,
            sent,
        )

    def check_key(
        self, api_key: str | None, authorization: str | None, scope: str, sent: _Sent | None = None
    ) -> Principal:
        """The same, by the values of the two headers; None or empty where they were not sent.

        What is found is remembered for the headers in `sent`.
        """
        if scope == PUBLIC or self._anybody is ANYBODY:
            return ANYBODY
        if authorization:
            plain = authorization.startswith("Bearer ") and " " not in authorization[7:]
            token = authorization[7:] if plain else bearer(authorization)
            if token:
                if api_key and api_key != token:
                    raise Unauthenticated("two API keys: `Authorization` and `X-Api-Key` differ, send one of them")
                api_key = token
        found = self._known.get(sha256(api_key)) if api_key and len(api_key) <= LONGEST else None
        if found is None:
            found = self._stranger(api_key)
        elif self._expired(found):
            raise Unauthenticated("this token has expired: ask an administrator for another")
        elif sent is not None:
            self._remember(sent, found)
        if scope not in found.scopes:
            if found is _ANY_CLIENT:
                raise Unauthenticated(
                    f"this takes an admin key, since there is one: the route needs the scope {scope!r}"
                )
            raise PermissionDenied(f"this key may not do that: the route needs the scope {scope!r}")
        return found

    def _expired(self, who: Principal) -> bool:
        return who.expires_at is not None and self._now() >= who.expires_at

    def _remember(self, sent: _Sent, who: Principal) -> None:
        """These headers are somebody's; padded ones, which are no shorter for that, are looked at each time."""
        if sum(len(value) for value in sent if value is not None) > LONGEST:
            return
        if len(self._seen) >= _MOST_SEEN:
            self._seen.clear()
        self._seen[sent] = who

    def _stranger(self, api_key: str | None) -> Principal:
        """Who has no key that is known here, where that is nobody in particular; else the error is raised."""
        if self._anybody is not None:
            return self._anybody
        if not self._learned and (not self._closed or (api_key or "").startswith(TOKEN_PREFIX)):
            raise no_picture()  # which tokens there are is a part of it
        if not api_key:
            raise Unauthenticated(
                "no API key: send it as `Authorization: Bearer KEY` or `X-Api-Key: KEY`; one in the query is not read"
            )
        raise Unauthenticated(
            "this API key is not known here: it must be a token that was not revoked (geniehive token list), or one of"
            " the gateway's auth.client_api_keys"
        )

    def ended(self, who: object) -> GenieHiveError | None:
        """Why a principal that was let in may no longer go on; None while it may."""
        if not isinstance(who, Principal) or not who.token:
            return None
        if self._tokens.get(who.name) is not who:
            return Unauthenticated("this token was revoked while the request ran")
        if self._expired(who):
            return Unauthenticated("this token has expired while the request ran")
        return None

    def next_expiry(self) -> float | None:
        """Seconds until the next token expires; None if none will."""
        now = self._now()
        ends = (key.expires_at - now for key in self._keys.values() if key.expires_at is not None)
        return min((seconds for seconds in ends if seconds > 0), default=None)


def presented(headers: Mapping[str, str]) -> str:
    """The key that a checked request came with, to be passed on to the control plane; empty where there is none."""
    key = headers.get("X-Api-Key") or bearer(headers.get("Authorization")) or ""
    return key if key.isascii() and key.isprintable() else ""


def _configured(keys: tuple[str, ...], prefix: str, scopes: frozenset[str]) -> dict[bytes, Principal]:
    return {sha256(key): Principal(f"{prefix}-{number}", scopes) for number, key in enumerate(keys, 1)}


def _principal(key: AccessKey) -> Principal:
    limited = bool(key.models or key.operations or key.max_concurrency is not None)
    return Principal(
        key.name,
        held(key.scopes),
        frozenset(key.models),
        frozenset(key.operations),
        key.priority,
        key.max_concurrency,
        key.expires_at,
        limited,
        token=True,
    )
