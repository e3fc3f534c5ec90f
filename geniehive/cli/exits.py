"""What the exit codes mean, and how an error becomes one line and a code.

0 done · 1 it failed · 2 wrong usage or configuration · 3 the control plane or the gateway cannot be reached ·
4 the key was refused · 5 there is no such thing · 6 another node agent speaks for this host · 130 interrupted
"""

from __future__ import annotations

import sys
from typing import NoReturn

from geniehive.errors import (
    ConfigError,
    ControlPlaneUnreachable,
    Fenced,
    GatewayUnreachable,
    GenieHiveError,
    NotFound,
    PermissionDenied,
    Unauthenticated,
)

FAILED = 1
USAGE = 2
UNREACHABLE = 3
REFUSED = 4
NOT_FOUND = 5
FENCED = 6
INTERRUPTED = 130

_CODES: tuple[tuple[type[GenieHiveError], int], ...] = (
    (ConfigError, USAGE),
    (ControlPlaneUnreachable, UNREACHABLE),
    (GatewayUnreachable, UNREACHABLE),
    (Unauthenticated, REFUSED),
    (PermissionDenied, REFUSED),
    (NotFound, NOT_FOUND),
    (Fenced, FENCED),
)


def code_of(error: GenieHiveError) -> int:
    """The exit code for an error."""
    return next((code for kind, code in _CODES if isinstance(error, kind)), FAILED)


def leave(error: GenieHiveError) -> NoReturn:
    """Say the error in one line on standard error, and exit."""
    say_error(error.message)
    sys.exit(code_of(error))


def say_error(message: str) -> None:
    """One line on standard error; what others wrote into it cannot move the cursor."""
    line = "".join(char if char.isprintable() else " " for char in message)
    print(f"geniehive: {' '.join(line.split())}", file=sys.stderr, flush=True)


def expected(error: BaseException) -> GenieHiveError | None:
    """The first error of ours in an exception or a group of them; None if there is none."""
    if isinstance(error, GenieHiveError):
        return error
    if isinstance(error, BaseExceptionGroup):
        return next((found for inner in error.exceptions if (found := expected(inner))), None)
    return None
