"""[pure] JSON request bodies: checked strictly, looked at little, changed only where the model's name stands.

A body is decoded once whole, which refuses everything that is not plain JSON, and once into its top
level with the values left as bytes. Walking that top level along the document proves where each value
stands: so the model's name is replaced in place and all other bytes stay as the client sent them.
Only a body whose top level cannot be walked (keys written with escapes, or written twice) is put
together anew, from the same bytes of its values; a large body is refused for that.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import msgspec

from gateway.openai.bulk import AT_ONCE, check_bulk
from geniehive.errors import InvalidRequest

MAX_DEPTH = 64
MAX_FIELDS = 1024
"""At the top level of a body."""
_INT_MIN, _INT_MAX = -(2**63), 2**64 - 1
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
# What stands before a value, with the key, and what stands behind the last one; the JSON is known to be valid.
_KEY = re.compile(rb'[ \t\n\r]*[{,][ \t\n\r]*("[^"\\]*(?:\\.[^"\\]*)*")[ \t\n\r]*:[ \t\n\r]*')
_SHORT = 16 * 1024
_FEW = 4 * 1024
_MODEL = b'"model"'
_BETWEEN = (b":", b": ")
_LONG_NUMBER = b"0" * 19
_DIGITS = bytes(ord("0") if chr(byte) in "0123456789" else byte for byte in range(256))  # each as a nought
_END = re.compile(rb"[ \t\n\r]*\}[ \t\n\r]*\Z")

_top_level = msgspec.json.Decoder(dict[str, msgspec.Raw])
_whole = msgspec.json.Decoder()


class JsonBody(msgspec.Struct, frozen=True):
    """A checked body; `start` and `end` bound the model's value in `raw`, end exclusive."""

    raw: bytes
    fields: dict[str, Any]
    model: str
    start: int
    end: int

    @property
    def values(self) -> dict[str, msgspec.Raw]:
        """The top level, each value as the bytes that the client sent; found anew each time."""
        return _top_level.decode(self.raw)

    @property
    def stream(self) -> bool:
        """Whether the client asked for a stream."""
        return self.fields.get("stream") is True

    def with_model(self, name: str) -> bytes:
        """The body with another model's name, otherwise byte for byte the same."""
        if name == self.model:
            return self.raw
        return self.raw[: self.start] + msgspec.json.encode(name) + self.raw[self.end :]

    def with_changes(self, name: str, put: Mapping[str, Any], drop: frozenset[str]) -> bytes:
        """The body with another model's name, some fields written anew and some left out.

        Fields that are only added are appended, so the client's bytes stay; otherwise the top level is put
        together anew, from the same bytes of the values that stay.
        """
        if not drop and put.keys().isdisjoint(self.fields):
            raw = self.with_model(name)
            return raw[: raw.rindex(b"}")] + b"," + msgspec.json.encode(put)[1:] if put else raw
        values: dict[str, Any] = {key: raw for key, raw in _top_level.decode(self.raw).items() if key not in drop}
        return msgspec.json.encode({**values, **put, "model": name})


def parse(raw: bytes) -> JsonBody:
    """Check a request body. Raises InvalidRequest, naming what is wrong with it."""
    large = len(raw) > AT_ONCE
    if large:
        check_bulk(raw)
    fields = decode(raw)
    model = fields.get("model")
    if not isinstance(model, str) or not model:
        what = "is missing" if model is None else "must be a non-empty string"
        raise InvalidRequest(f"`model` {what}; GET /v1/models lists what can be asked for", param="model")
    if "stream" in fields and not isinstance(fields["stream"], bool | None):
        raise InvalidRequest("`stream` must be true or false", param="stream")
    found = _plain(raw, fields, model)
    if found is None:
        raw, found = _walked(raw, large=large)
    return JsonBody(raw, fields, model, *found)


def _walked(raw: bytes, *, large: bool) -> tuple[bytes, tuple[int, int]]:
    """The document, if need be put together anew, and where the model's value stands in it. Raises InvalidRequest."""
    values = _top_level.decode(raw)
    found = _walk(raw, values)
    if found is None and large:
        raise InvalidRequest("each key at the top of a large body must be written once, and without escapes")
    if found is None:
        _refuse_two_models(raw)
        raw = b"{" + b",".join(msgspec.json.encode(key) + b":" + bytes(values[key]) for key in values) + b"}"
        found = _walk(raw, values)
    if found is None:
        raise InvalidRequest("the body's keys cannot be told apart; write them without escapes")
    return raw, found


def decode(raw: bytes) -> dict[str, Any]:
    """A JSON object, refused unless it is valid UTF-8 and plain JSON of bounded depth and bounded integers."""
    try:
        value = _whole.decode(raw)
    except RecursionError:
        raise InvalidRequest(f"the body is nested deeper than {MAX_DEPTH} levels") from None
    except UnicodeDecodeError:
        raise InvalidRequest("the body is not valid UTF-8") from None
    except msgspec.DecodeError as error:
        what = "a text has half of a surrogate pair (\\ud800 to \\udfff)" if _is_json(raw) else error
        raise InvalidRequest(f"the body is not valid JSON: {what}") from None
    if not isinstance(value, dict):
        raise InvalidRequest("the body must be a JSON object")
    if len(value) > MAX_FIELDS:
        raise InvalidRequest(f"the body has more than {MAX_FIELDS} keys at its top level")
    # A short body with few brackets is not deep, and numbers of 18 digits have less than 64 bits.
    few = len(raw) <= _FEW and raw.count(b"{") + raw.count(b"[") <= MAX_DEPTH
    if not few or raw.translate(_DIGITS).find(_LONG_NUMBER) >= 0:
        _check_depth(value)
    return value


def _is_json(raw: bytes) -> bool:
    """Whether nothing but a lone surrogate is wrong with a body: msgspec takes one for the end of the bytes."""
    try:
        return _SURROGATE.search(raw) is not None and bool(json.loads(raw))
    except (ValueError, RecursionError):
        return False


def _check_depth(value: dict[str, Any]) -> None:
    """Level by level, without recursion; integers that no engine can hold are refused on the way."""
    level: list[Any] = [value]
    for _ in range(MAX_DEPTH):
        below: list[Any] = []
        for node in level:
            children = node.values() if type(node) is dict else node
            kinds = set(map(type, children))
            if int in kinds and not all(_INT_MIN <= child <= _INT_MAX for child in children if type(child) is int):
                raise InvalidRequest("the body has an integer of more than 64 bits")
            if dict in kinds or list in kinds:
                below += [child for child in children if type(child) is dict or type(child) is list]
        if not below:
            return
        level = below
    raise InvalidRequest(f"the body is nested deeper than {MAX_DEPTH} levels")


def _plain(raw: bytes, fields: dict[str, Any], model: str) -> tuple[int, int] | None:
    """Where the model's value stands, where that is plain to see; None if the document has to be walked.

    A key at the top level that stands in the document just once, quotes included, and that no escape spells another
    time, is written once. So for a short body, whose keys are all like that, counting them is proof enough.
    """
    if len(raw) > _SHORT or raw.find(b"\\u00") >= 0:  # `in` makes an exception first, and throws it away
        return None
    for key in fields:
        if raw.count(_quoted(key)) != 1:
            return None
    at = raw.find(_MODEL) + len(_MODEL)
    value = _quoted(model)
    for between in _BETWEEN:
        if raw.startswith(between + value, at):
            return at + len(between), at + len(between) + len(value)
    return None


@lru_cache(maxsize=1024)
def _quoted(text: str) -> bytes:
    """A text as it stands in a document if nothing in it needs an escape; the same few come with every request."""
    return f'"{text}"'.encode("utf-8", "surrogatepass")


def _walk(raw: bytes, values: dict[str, msgspec.Raw]) -> tuple[int, int] | None:
    """Where the model's value stands, proven by matching the whole document; None if it does not match.

    Each value is compared with the bytes at its place, so a key that is written twice cannot pass: the
    values hold the last one, and the walk meets the first.
    """
    found, at = None, 0
    for key, value in values.items():
        content = bytes(value)
        begun = _KEY.match(raw, at)
        if begun is None or begun[1] != msgspec.json.encode(key) or not raw.startswith(content, begun.end()):
            return None
        at = begun.end() + len(content)
        if key == "model":
            found = (begun.end(), at)
    return found if _END.match(raw, at) else None


def _refuse_two_models(raw: bytes) -> None:
    """Two `model` keys: what would be checked is not what would be sent."""
    pairs: list[tuple[str, Any]] = []

    def keep(found: list[tuple[str, Any]]) -> None:
        pairs[:] = found  # objects end inside out: the last one is the top level

    json.loads(raw, object_pairs_hook=keep)
    if sum(key == "model" for key, _ in pairs) > 1:
        raise InvalidRequest("`model` is given twice", param="model")
