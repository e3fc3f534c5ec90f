"""[pure] Headers that keep browsers from making anything of an answer but data: no sniffing, no scripts, no frames.

Answers quote what strangers called their models and files; whatever that is, it stays text.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

INERT_HEADERS: Final[Mapping[str, str]] = {
    "x-content-type-options": "nosniff",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
}
