"""[pure] Walks plain values along typed structs: unknown keys, wrong types, and what type a dotted key has.

msgspec could check a whole file at once, but its errors do not say which item of a list is wrong, nor which key was
meant. So structs, lists and maps are walked here, and only the leaves are left to msgspec.
"""

from __future__ import annotations

import difflib
import math
import re
import types
from collections.abc import Callable, Iterable, Iterator
from enum import Enum
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import msgspec

from geniehive.errors import ConfigError
from geniehive.yaml_source import Path, dotted

Fail = Callable[[Path, str], ConfigError]

_EXPONENT = re.compile(r"([+-]?[0-9]+(?:\.[0-9]*)?)[eE]([+-]?)([0-9]+)")
_PLAIN = {int: "a whole number", float: "a number", str: "a string", bool: "true or false"}


def check(value: Any, kind: Any, path: Path, fail: Fail) -> Any:
    """The value, empty sections and lists filled in, if it fits; else raises what `fail` makes of the problem."""
    inner = _without_none(kind)
    if value is None and inner is not kind:
        return None
    if is_struct(inner):
        return _check_struct({} if value is None else value, inner, path, fail)
    if get_origin(inner) is tuple:
        items = _expect([] if value is None else value, list, "a list", path, fail)
        return [check(item, get_args(inner)[0], (*path, index), fail) for index, item in enumerate(items)]
    if get_origin(inner) is dict:
        entries = _expect({} if value is None else value, dict, "keys and values", path, fail)
        return {key: check(item, get_args(inner)[1], (*path, key), fail) for key, item in entries.items()}
    return _check_leaf(value, inner, path, fail)


def type_at(kind: Any, steps: Iterable[str]) -> tuple[Any, Path]:
    """The type of the value that the steps lead to, and the path to it with list positions as numbers.

    Raises KeyError with the part of the path that does not exist.
    """
    path: Path = ()
    for step in steps:
        inner = _without_none(kind)
        if is_struct(inner):
            fields = field_types(inner)
            if step not in fields:
                raise KeyError(dotted((*path, step)))
            kind, path = fields[step], (*path, step)
        elif get_origin(inner) is tuple and step.isdigit():
            kind, path = get_args(inner)[0], (*path, int(step))
        elif get_origin(inner) is dict:
            kind, path = get_args(inner)[1], (*path, step)
        else:
            raise KeyError(dotted((*path, step)))
    return kind, path


def field_types(struct: Any) -> dict[str, Any]:
    """The fields of a struct by name, with their types."""
    return {field.name: field.type for field in msgspec.structs.fields(struct)}


def keys(struct: Any, prefix: str = "") -> Iterator[str]:
    """Every dotted key of a struct, sections before their members; items of lists are written as `name[]`."""
    for name, kind in field_types(struct).items():
        key = f"{prefix}{name}"
        yield key
        inner = _without_none(kind)
        if is_struct(inner):
            yield from keys(inner, f"{key}.")
        elif get_origin(inner) is tuple and is_struct(get_args(inner)[0]):
            yield from keys(get_args(inner)[0], f"{key}[].")


def is_struct(kind: Any) -> bool:
    """Whether the type is a struct with fields of its own."""
    return isinstance(kind, type) and issubclass(kind, msgspec.Struct)


def is_strings(kind: Any) -> bool:
    """Whether the type is a list of strings."""
    inner = _without_none(kind)
    return get_origin(inner) is tuple and get_args(inner)[0] is str


def is_text(kind: Any) -> bool:
    """Whether a value of the type is written as it stands, not as a number or a list."""
    inner = _without_none(kind)
    return inner is str or get_origin(inner) is Literal or (isinstance(inner, type) and issubclass(inner, Enum))


def nearest(wrong: str, known: Iterable[str], everywhere: Iterable[str] = ()) -> str:
    """The end of a message: which dotted key was meant, among `known` or `everywhere`, else all that are known."""
    names = list(known)
    word = wrong.rpartition(".")[2]
    near = difflib.get_close_matches(wrong, names, n=1, cutoff=0.7) or [
        name for name in everywhere if name.rpartition(".")[2] == word
    ]
    if near:
        return f"; did you mean {near[0]}?"
    return f"; known here: {', '.join(sorted(name.rpartition('.')[2] for name in names))}" if names else ""


def _check_struct(value: Any, struct: Any, path: Path, fail: Fail) -> dict[str, Any]:
    entries = _expect(value, dict, "keys and values", path, fail)
    fields = {field.name: field for field in msgspec.structs.fields(struct)}
    for key in entries:
        if key not in fields:
            known = [dotted((*path, name)) for name in fields]
            everywhere = () if path else keys(struct)
            raise fail((*path, key), f"unknown key{nearest(dotted((*path, key)), known, everywhere)}")
    for field in fields.values():
        if field.required and field.name not in entries:
            raise fail(path, f"{field.name} is missing")
    return {key: check(item, fields[key].type, (*path, key), fail) for key, item in entries.items()}


def _check_leaf(value: Any, kind: Any, path: Path, fail: Fail) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        raise fail(path, f"expected {describe(kind)}, and a finite one")
    try:
        msgspec.convert(value, kind)
    except msgspec.ValidationError:
        raise fail(path, f"expected {describe(kind)}, got {_shown(value, kind)}{_number_hint(value, kind)}") from None
    return value


def _expect(value: Any, wanted: type, words: str, path: Path, fail: Fail) -> Any:
    if isinstance(value, wanted):
        return value
    raise fail(path, f"expected {words}, got {_shown(value, None)}")


def describe(kind: Any) -> str:
    """The type in plain words, with its bounds or choices."""
    inner = _without_none(kind)
    if get_origin(inner) is Annotated:
        base, *notes = get_args(inner)
        return " ".join([describe(base), *(_bounds(note) for note in notes if isinstance(note, msgspec.Meta))])
    if get_origin(inner) is Literal:
        return "one of " + ", ".join(str(choice) for choice in get_args(inner))
    if isinstance(inner, type) and issubclass(inner, Enum):
        return "one of " + ", ".join(str(member.value) for member in inner)
    if get_origin(inner) is tuple:
        item = get_args(inner)[0]
        return "a list" if is_struct(item) else f"a list, each item {describe(item)}"
    if get_origin(inner) is dict or is_struct(inner):
        return "keys and values"
    return _PLAIN.get(inner, "a value")


def _bounds(meta: msgspec.Meta) -> str:
    if meta.ge is not None and meta.le is not None:
        return f"from {meta.ge} to {meta.le}"
    if meta.gt is not None:
        return f"greater than {meta.gt}"
    return f"of at least {meta.ge}" if meta.ge is not None else ""


def _number_hint(value: Any, kind: Any) -> str:
    """What to write in place of 1e3, which YAML 1.1 takes for a word: a dot and a sign are wanted."""
    found = _EXPONENT.fullmatch(value) if isinstance(value, str) and not is_text(kind) else None
    if found is None:
        return ""
    digits, sign, power = found.groups()
    whole = "" if "." in digits else ".0"
    return f" (YAML takes {value[:32]} for a word; write {digits}{whole}e{sign or '+'}{power})"


def _shown(value: Any, kind: Any) -> str:
    """What was found. A value is shown only where it cannot be a secret: numbers, flags, words of a choice."""
    if value is None:
        return "nothing"
    if isinstance(value, (bool, int, float)):
        text = str(value).lower() if isinstance(value, bool) else str(value)[:32]
        return f"{text} (put it in quotes)" if kind is str else text
    if isinstance(value, str):
        return f'"{value[:64]}"' if is_text(kind) else "a string"
    return "a list" if isinstance(value, list) else "keys and values"


def _without_none(kind: Any) -> Any:
    if get_origin(kind) in (Union, types.UnionType):
        rest = [option for option in get_args(kind) if option is not type(None)]
        if len(rest) == 1 and len(rest) < len(get_args(kind)):
            return rest[0]
    return kind
