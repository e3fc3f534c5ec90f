"""How much a daemon logs."""

from __future__ import annotations

from enum import StrEnum


class LogLevel(StrEnum):
    """How much a daemon logs."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"
