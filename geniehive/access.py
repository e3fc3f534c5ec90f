"""[pure] Scopes, and what a token may say: the words that gateway, control plane and command line share.

A key holds scopes; a route or a method needs one. Some scopes imply others, so that a holder of a higher
one needs no second key. `CALLER` is what every good key holds: it sees the models that it may ask for,
and its own requests.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Final

from geniehive.resources import AccessKey

INFERENCE: Final = "inference"
READ: Final = "read"
OPERATOR: Final = "operator"
ADMIN: Final = "admin"

CALLER: Final = "caller"  # held by every good key; never given by itself
EVERYBODYS: Final = "everybodys"  # sees the requests of other keys as well; never given by itself
PUBLIC: Final = ""  # of a route for everybody: no key is asked for

SCOPES: Final = (INFERENCE, READ, OPERATOR, ADMIN)
"""What a token can be given."""

NEEDED: Final = frozenset({PUBLIC, CALLER, *SCOPES})
"""What a route can need."""

_HOLDS: Final[Mapping[str, frozenset[str]]] = {
    INFERENCE: frozenset({INFERENCE, CALLER}),
    READ: frozenset({READ, CALLER, EVERYBODYS}),
    OPERATOR: frozenset({OPERATOR, READ, CALLER, EVERYBODYS}),
    ADMIN: frozenset({*SCOPES, CALLER, EVERYBODYS}),
}
EVERY: Final = _HOLDS[ADMIN]
PLAIN_CLIENT: Final = frozenset({INFERENCE, READ, CALLER})
"""What a client key of the config holds: it asks and looks, and sees its own requests alone."""

PRIORITIES: Final = ("interactive", "batch")
TOKEN_PREFIX: Final = "gh_"  # noqa: S105 - how a token begins; what follows is the secret
MOST_TOKENS: Final = 20_000
"""Good tokens in a cluster: all of them travel in the snapshot of each gateway."""

_MOST_LIMITS: Final = 1000
_LONGEST: Final = 512
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
_TAKEN: Final = re.compile(r"(client|node|admin)-\d+|anonymous|other|none", re.IGNORECASE)


def held(scopes: Iterable[str]) -> frozenset[str]:
    """Everything that the holder of these scopes may; a scope that is not known here counts for nothing."""
    return frozenset().union(*(_HOLDS.get(scope, frozenset()) for scope in scopes))


def is_over(key: AccessKey, now: float) -> bool:
    """Whether a key is good no more at a time in Unix seconds."""
    return key.revoked_at is not None or (key.expires_at is not None and now >= key.expires_at)


def fault(key: AccessKey, now: float) -> tuple[str, str]:
    """What makes no sense about a wanted token: the field and the words; ("", "") if nothing does."""
    for field, words in (
        ("name", _name_fault(key.name)),
        ("scopes", _scopes_fault(key.scopes)),
        ("models", _models_fault(key.models)),
        ("priority", _priority_fault(key.priority)),
        ("max_concurrency", "must be at least 1; leave it out for no limit" if key.max_concurrency == 0 else ""),
        ("expires_at", _expiry_fault(key.expires_at, now)),
        ("scopes", _limits_fault(key)),
    ):
        if words:
            return field, words
    return "", ""


def _name_fault(name: str) -> str:
    if not name:
        return 'is empty: give the token a name, such as "laptop" or "ci"'
    if name.startswith(TOKEN_PREFIX):
        return "looks like a token itself: names stand in logs and metrics, choose a word"
    if not _NAME.fullmatch(name):
        return "use letters, digits and . _ @ - only, at most 64, a letter or digit first"
    if _TAKEN.fullmatch(name):
        return f"{name} is what a key of the config is called in receipts and logs: choose another"
    return ""


def _scopes_fault(scopes: tuple[str, ...]) -> str:
    if not scopes:
        return f"give at least one of {', '.join(SCOPES)}"
    unknown = next((scope for scope in scopes if scope not in SCOPES), None)
    return f"{unknown[:64]!r} is no scope: choose from {', '.join(SCOPES)}" if unknown is not None else ""


def _models_fault(models: tuple[str, ...]) -> str:
    if len(models) > _MOST_LIMITS:
        return f"names {len(models)} models: at most {_MOST_LIMITS}; a role can stand for many"
    if not all(0 < len(name) <= _LONGEST for name in models):
        return f"a name is empty, or longer than {_LONGEST} characters"
    return ""


def _priority_fault(priority: str) -> str:
    return f"{priority[:64]!r}: choose from {', '.join(PRIORITIES)}" if priority not in {"", *PRIORITIES} else ""


def _expiry_fault(expires_at: int | None, now: float) -> str:
    if expires_at is None:
        return ""
    if expires_at <= now:
        return "is over already: give a time to come, in seconds since the Unix epoch"
    return "" if expires_at < 2**40 else "is too far away: leave it out for no end"


def _limits_fault(key: AccessKey) -> str:
    limited = key.models or key.operations or key.priority or key.max_concurrency is not None
    if limited and INFERENCE not in held(key.scopes):
        return "limits to models, operations, priority or concurrency need the scope inference"
    if limited and ADMIN in key.scopes:
        return "an admin can make tokens without limits: limits have no meaning with the scope admin"
    return ""
