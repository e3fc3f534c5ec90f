"""Where the compiled part of the relay comes from: `_lane.c`, built with the package wherever there is a C compiler.

A connection to an engine has a lane. While a stream runs, its events can pass there from socket to socket, as long as
each is like one that was parsed before; `_lane.c` says how. Without it every event is parsed, and nothing else differs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from geniehive.relay._lane import Lane

try:
    from geniehive.relay import _lane
except ImportError:
    _lane = None  # type: ignore[assignment]  # it was not built

COMPILED = _lane is not None
"""Whether it was built."""


def lane_to(slow: Callable[[bytes], None]) -> Lane | None:
    """A lane that gives what it does not know to `slow`; None where it was not built."""
    return _lane.Lane(slow) if COMPILED else None
