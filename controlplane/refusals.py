"""Calls that were refused: each kind said once in the log, all of them counted."""

from __future__ import annotations

import logging
from collections import Counter
from typing import Final

_MOST: Final = 1000  # kinds that are told apart; a scanner makes no more of them

log = logging.getLogger(__name__)


class Refusals:
    """What was refused since the start."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        """By reason: no_key, unknown_key, expired_key, wrong_key, bad_certificate, wrong_certificate, wrong_name,
        bad_join_token."""
        self._said: set[tuple[str, str, str]] = set()

    def note(self, reason: str, who: str, method: str, message: str) -> None:
        """One more. `who` is a key's name, or empty; `method` is what it called, as the caller wrote it."""
        self.counts[reason] += 1
        kind = (reason, who, method[:200])
        if kind in self._said or len(self._said) >= _MOST:
            return
        self._said.add(kind)
        log.warning("refused %s to %s: %s (said once)", ascii(method[:200])[1:-1], who or "a stranger", message)
