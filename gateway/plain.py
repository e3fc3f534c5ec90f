"""[pure] Resources as JSON: every field, unknown ones as null."""

from __future__ import annotations

from typing import Any

import msgspec

Json = dict[str, Any]


def plain(thing: msgspec.Struct) -> Json:
    """The resource as JSON."""
    return {name: _plain(getattr(thing, name)) for name in thing.__struct_fields__}


def _plain(value: Any) -> Any:
    if isinstance(value, msgspec.Struct):
        return plain(value)
    if isinstance(value, tuple):
        return [_plain(each) for each in value]
    return value
