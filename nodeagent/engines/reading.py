"""Reading untrusted JSON without trusting its shape: what is not what it should be is empty, or unknown (None).

Numbers that cannot be true (NaN, negative, 2^53 and above, shares above 1) are unknown: one value is refused, the
rest of the engine's answer stays.
"""

from __future__ import annotations

import math
from typing import Any, Final

_LARGEST: Final = 2**53


def table(value: Any) -> dict[str, Any]:
    """The value as a JSON object; empty where it is not one."""
    return value if isinstance(value, dict) else {}


def rows(value: Any) -> list[dict[str, Any]]:
    """The objects of a JSON array; what is not an object is left out."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def words(value: Any) -> tuple[str, ...]:
    """The non-empty strings of a JSON array."""
    return tuple(item for item in value if isinstance(item, str) and item) if isinstance(value, list) else ()


def text(value: Any) -> str:
    """The value as a string; empty where it is not one."""
    return value if isinstance(value, str) else ""


def number(value: Any) -> float | None:
    """A finite number of at least 0 and less than 2^53, or None."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) and 0 <= value < _LARGEST else None


def whole(value: Any) -> int | None:
    """A count or a size: whole, at least 0, less than 2^53; or None."""
    checked = number(value)
    return int(checked) if checked is not None and checked.is_integer() else None


def positive(value: Any) -> int | None:
    """A count or a size that 0 would make no sense for: 0 is unknown as well."""
    return whole(value) or None


def share(value: Any) -> float | None:
    """A share of 0 to 1, or None."""
    checked = number(value)
    return checked if checked is not None and checked <= 1 else None


def rate(value: Any) -> float | None:
    """A speed that 0 would make no sense for (no work was measured): 0 is unknown as well."""
    return number(value) or None


def total(values: list[int | None]) -> int | None:
    """The sum where every part is known; None where one is not, and where there is no part."""
    known = [value for value in values if value is not None]
    return sum(known) if known and len(known) == len(values) else None
