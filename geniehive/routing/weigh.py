"""What a strategy made of the candidates that it chose, in numbers, for receipts and explanations.

A decision keeps the parts that it went by as it found them; they get their names when somebody asks.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec

from geniehive.routing import scored
from geniehive.routing.predict import Prediction

_WARM = "has the beginning of this prompt in its cache"


class Weighed(NamedTuple):
    """What a strategy made of one candidate: its score, what went into it, and why in words."""

    score: float | None
    signals: Mapping[str, float] = {}
    reasons: tuple[str, ...] = ()


UNWEIGHED = Weighed(None)


def weighed(strategy: str, parts: Any) -> Weighed:
    """Score and signals of one candidate, of what its strategy kept of it.

    The score of `scored` is from 0 to 1, higher is better; that of `predicted` is seconds below zero.
    """
    if strategy == "predicted":
        expected = Prediction(*parts)
        signals = {**expected._asdict(), "expected_ttft_s": expected.ttft_s}
        return Weighed(-expected.cost, signals, (_WARM,) if expected.warm_tokens else ())
    if strategy == "scored":
        return Weighed(parts[0], msgspec.structs.asdict(scored.told(parts)), (_WARM,) if parts[1] else ())
    return UNWEIGHED
