"""[pure] JSON request bodies: checked strictly, looked at little, changed only where the model's name stands.

A body is decoded once whole, which refuses everything that is not plain JSON, and once into its top
level with the values left as bytes. Where that, written again, is the document, or can be matched along
it, there is proof of where each value stands: so the model's name is replaced in place and all other bytes
stay as the client sent them. Only a body where neither holds (keys written with escapes, or written twice)
is put together anew, from the same bytes of its values; a large body is refused for that.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from types import GenericAlias
from typing import Annotated, Any

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
_END = re.compile(rb"[ \t\n\r]*\}[ \t\n\r]*\Z")
_SHALLOW = 9  # levels of most bodies; each more doubles what the decoder has to hold


def _at_most(levels: int) -> Any:
    """The type of JSON objects of bounded depth, and with integers of 64 bits with their sign."""
    scalar: Any = Annotated[int, msgspec.Meta(ge=_INT_MIN, le=2**63 - 1)] | float | str | bool | None
    value = scalar
    for _ in range(levels - 1):
        value = scalar | GenericAlias(list, value) | GenericAlias(dict, (str, value))
    return GenericAlias(dict, (str, value))


_top_level = msgspec.json.Decoder(dict[str, msgspec.Raw])
_whole = msgspec.json.Decoder()
_shallow: msgspec.json.Decoder[dict[str, Any]] = msgspec.json.Decoder(_at_most(_SHALLOW))


class JsonBody(msgspec.Struct, frozen=True, gc=False):  # nothing in it refers to it
    """A checked body."""

    raw: bytes
    fields: dict[str, Any]
    model: str
    values: dict[str, msgspec.Raw]
    """The top level, each value as the bytes that the client sent."""
    _place: tuple[int, int] | None = None  # of the model's value, where white space is between the values

    @property
    def stream(self) -> bool:
        """Whether the client asked for a stream."""
        return self.fields.get("stream") is True

    def with_model(self, name: str) -> bytes:
        """The body with another model's name, otherwise byte for byte the same."""
        if name == self.model:
            return self.raw
        start, end = self.place()
        return self.raw[:start] + msgspec.json.encode(name) + self.raw[end:]

    def place(self) -> tuple[int, int]:
        """Where the model's value starts and ends in `raw`, the end exclusive."""
        if self._place is not None:
            return self._place
        at = 1
        for key, value in self.values.items():
            at += len(msgspec.json.encode(key)) + 1
            if key == "model":
                break
            at += len(value) + 1
        return at, at + len(self.values["model"])

    def with_changes(self, name: str, put: Mapping[str, Any], drop: frozenset[str]) -> bytes:
        """The body with another model's name, some fields written anew and some left out.

        Fields that are only added are appended, so the client's bytes stay; otherwise the top level is put
        together anew, from the same bytes of the values that stay.
        """
        if not drop and put.keys().isdisjoint(self.fields):
            raw = self.with_model(name)
            return raw[: raw.rindex(b"}")] + b"," + msgspec.json.encode(put)[1:] if put else raw
        values: dict[str, Any] = {key: raw for key, raw in self.values.items() if key not in drop}
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
    stream = fields.get("stream")
    if stream is not None and type(stream) is not bool:
        raise InvalidRequest("`stream` must be true or false", param="stream")
    values = _top_level.decode(raw)
    if not large and msgspec.json.encode(values) == raw:
        return JsonBody(raw, fields, model, values)
    place = _walk(raw, values)
    if place is not None:
        return JsonBody(raw, fields, model, values, place)
    if large:
        raise InvalidRequest("each key at the top of a large body must be written once, and without escapes")
    _refuse_two_models(raw)
    return JsonBody(msgspec.json.encode(values), fields, model, values)


def decode(raw: bytes) -> dict[str, Any]:
    """A JSON object, refused unless it is valid UTF-8 and plain JSON of bounded depth and bounded integers."""
    if len(raw) <= _SHORT:
        try:
            value = _shallow.decode(raw)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return _decode(raw)  # it is deeper, or this says what is wrong
        if len(value) <= MAX_FIELDS:
            return value
    return _decode(raw)


def _decode(raw: bytes) -> dict[str, Any]:
    """Any JSON object that may pass. Raises InvalidRequest for others."""
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
