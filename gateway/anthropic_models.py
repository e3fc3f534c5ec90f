"""[pure] The catalogue in Anthropic's shape, page by page: https://platform.claude.com/docs/en/api/models/list.

Roles and models that can be chatted with; Claude Code keeps those alone whose id begins with `claude` or `anthropic`,
which an alias or a role can.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from geniehive.errors import InvalidRequest
from geniehive.resources import Operation

Json = dict[str, Any]

_MOST: Final = 1000
_USUAL: Final = 20


def page(models: list[Json], query: Mapping[str, str]) -> Json:
    """One page. `query` may have `limit` (1 to 1000), `after_id`, `before_id`. Raises InvalidRequest."""
    known = [model for model in models if Operation.CHAT.value in model["geniehive"]["operations"]]
    limit = _limit(query.get("limit"))
    ids = [model["id"] for model in known]
    before, after = query.get("before_id"), query.get("after_id")
    end = _place(ids, before, "before_id") if before is not None else len(ids)
    start = _place(ids, after, "after_id") + 1 if after is not None else 0
    if before is not None and after is None:
        start = max(0, end - limit)
    found = known[start : min(end, start + limit)]
    more = start > 0 if before is not None and after is None else start + limit < end
    return {
        "data": [shown(model) for model in found],
        "has_more": more,
        "first_id": found[0]["id"] if found else None,
        "last_id": found[-1]["id"] if found else None,
    }


def shown(model: Json) -> Json:
    """One model."""
    created = datetime.fromtimestamp(model["created"], UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    made: Json = {"type": "model", "id": model["id"], "display_name": model["name"], "created_at": created}
    if model["context_length"]:
        made["max_input_tokens"] = model["context_length"]
    return made


def _limit(given: str | None) -> int:
    if given is None:
        return _USUAL
    if not given.isdecimal() or not 1 <= int(given) <= _MOST:
        raise InvalidRequest(f"`limit` must be a number from 1 to {_MOST}", param="limit")
    return int(given)


def _place(ids: list[str], name: str, field: str) -> int:
    try:
        return ids.index(name)
    except ValueError:
        raise InvalidRequest(f"`{field}` names no model of the list", param=field) from None
