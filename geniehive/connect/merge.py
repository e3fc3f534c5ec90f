"""[pure] A recipe put into the text of a file: everything that is not ours stays.

JSON and YAML are read, merged and written anew, so their comments would be lost: a file with comments is refused, and
the user puts the printed part in by hand. A text is a file of our own and replaced whole.
"""

from __future__ import annotations

import json
import re
from typing import Any

import yaml

from geniehive.connect.clients import Recipe
from geniehive.errors import Conflict

_COMMENT = re.compile(r"^\s*#|\s#", re.MULTILINE)


def merged(recipe: Recipe, before: str | None) -> str:
    """The file's new text; `before` is None where there is none. Raises Conflict where something would be lost."""
    if recipe.kind == "text":
        return str(recipe.content)
    found = _read(recipe, before) if before and before.strip() else None
    return written(recipe, _merge(found, recipe.content, recipe.merge_by))


def written(recipe: Recipe, content: Any) -> str:
    """Content in the format of a recipe's file."""
    if recipe.kind == "json":
        return json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    if recipe.kind == "yaml":
        return yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
    return str(content)


def _read(recipe: Recipe, text: str) -> Any:
    if recipe.kind == "json":
        try:
            value = json.loads(text)
        except ValueError:
            raise Conflict(f"{recipe.path} is not plain JSON (has it comments?): {_BY_HAND}") from None
    else:
        if _COMMENT.search(text):
            raise Conflict(f"{recipe.path} has comments, which would be lost: {_BY_HAND}")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError:
            raise Conflict(f"{recipe.path} is not valid YAML: {_BY_HAND}") from None
    if value is not None and type(value) is not type(recipe.content):
        raise Conflict(f"{recipe.path} is not of the shape that its client reads: {_BY_HAND}")
    return value


_BY_HAND = "put in by hand what `geniehive connect` prints without --write"


def _merge(below: Any, above: Any, key: str) -> Any:
    """Both; where they differ `above` wins. Items of lists are the same if they have the same `key`."""
    if isinstance(below, dict) and isinstance(above, dict):
        return {**below, **{name: _merge(below.get(name), value, key) for name, value in above.items()}}
    if key and isinstance(below, list) and isinstance(above, list):
        ours = {item.get(key) for item in above}
        return [*(item for item in below if not (isinstance(item, dict) and item.get(key) in ours)), *above]
    return above
