"""The little of the GGUF format (version 3, little-endian) that the embedded engine needs: a header in, a file out.

The format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. The `gguf` package does far more, but brings
numpy, requests and tqdm, and half a second of imports.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO, Final, TypeAlias

if TYPE_CHECKING:
    from array import array
    from collections.abc import Mapping, Sequence
    from pathlib import Path

MAGIC: Final = b"GGUF"
VERSION: Final = 3
ALIGNMENT: Final = 32

_UINT32, _INT32, _FLOAT32, _BOOL, _STRING, _ARRAY = 4, 5, 6, 7, 8, 9
_SCALARS: Final = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_TENSOR_F32: Final = 0
_LONGEST_STRING: Final = 16 * 1024 * 1024

Value: TypeAlias = bool | int | float | str | list[str] | list[int] | list[float]


class NotGgufError(ValueError):
    """The file is not a GGUF model that can be read; the message says what it is instead."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Header:
    """What the head of a model file tells. None where the file does not say.

    `context_length` is in tokens; `pooling` is llama.cpp's number (0 none, 1 mean, 2 cls, 3 last, 4 rank) and is
    there only in models made for embeddings or reranking.
    """

    architecture: str | None = None
    name: str | None = None
    context_length: int | None = None
    pooling: int | None = None


def read_header(path: Path) -> Header:
    """Read the model's own metadata, up to its vocabulary, which writers put last and which can be megabytes.

    Raises NotGgufError where the file is something else, OSError where it cannot be read.
    """
    with path.open("rb") as file:
        magic = file.read(4)
        if magic != MAGIC:
            raise NotGgufError(f"it starts with {magic!r}, a GGUF file with {MAGIC!r}")
        try:
            found = _read_pairs(file)
        except (struct.error, UnicodeDecodeError, KeyError) as error:
            raise NotGgufError("its header is cut off or damaged") from error
    architecture = _text(found.get("general.architecture"))
    return Header(
        architecture=architecture,
        name=_text(found.get("general.name")),
        context_length=_number(found.get(f"{architecture}.context_length")),
        pooling=_number(found.get(f"{architecture}.pooling_type")),
    )


def _read_pairs(file: BinaryIO) -> dict[str, Value | None]:
    (version,) = _unpack(file, "I")
    if version not in {2, VERSION}:
        raise NotGgufError(f"it is of GGUF version {version}, known are 2 and 3: convert it again")
    _, count = _unpack(file, "QQ")
    found: dict[str, Value | None] = {}
    for _ in range(count):
        key = _read_string(file)
        if key.startswith("tokenizer."):
            break
        (kind,) = _unpack(file, "I")
        found[key] = _read_value(file, kind)
    return found


def _read_value(file: BinaryIO, kind: int) -> Value | None:
    """One value; None for an array, which is only skipped."""
    if kind == _STRING:
        return _read_string(file)
    if kind != _ARRAY:
        return _unpack(file, _SCALARS[kind])[0]
    (item_kind, count) = _unpack(file, "IQ")
    if item_kind in {_STRING, _ARRAY}:
        for _ in range(count):
            _read_value(file, item_kind)
    else:
        file.seek(count * struct.calcsize(_SCALARS[item_kind]), 1)
    return None


def _read_string(file: BinaryIO) -> str:
    (length,) = _unpack(file, "Q")
    if length > _LONGEST_STRING:
        raise NotGgufError("its header is damaged")
    text = file.read(length)
    if len(text) != length:
        raise NotGgufError("its header is cut off")
    return text.decode()


def _unpack(file: BinaryIO, layout: str) -> tuple[int, ...]:
    layout = "<" + layout
    return struct.unpack(layout, file.read(struct.calcsize(layout)))


def _text(value: Value | None) -> str | None:
    return value if isinstance(value, str) else None


def _number(value: Value | None) -> int | None:
    return value if isinstance(value, int) else None


@dataclass(frozen=True, kw_only=True, slots=True)
class Tensor:
    """A float32 tensor: `rows` of `columns` values, row after row; one row stands for a vector."""

    name: str
    rows: int
    columns: int
    values: array[float]


def write(path: Path, metadata: Mapping[str, Value], tensors: Sequence[Tensor]) -> None:
    """Write a GGUF file of float32 tensors. A whole number becomes uint32, in a list int32."""
    head = MAGIC + struct.pack("<IQQ", VERSION, len(tensors), len(metadata))
    head += b"".join(_string(key) + _pack(value) for key, value in metadata.items())
    offset, blocks = 0, []
    for tensor in tensors:
        head += _describe(tensor, offset)
        block = _pad(struct.pack(f"<{len(tensor.values)}f", *tensor.values))
        blocks.append(block)
        offset += len(block)
    path.write_bytes(_pad(head) + b"".join(blocks))


def _describe(tensor: Tensor, offset: int) -> bytes:
    # The fastest-moving dimension comes first.
    sizes = [tensor.columns] if tensor.rows == 1 else [tensor.columns, tensor.rows]
    dimensions = struct.pack(f"<I{len(sizes)}Q", len(sizes), *sizes)
    return _string(tensor.name) + dimensions + struct.pack("<IQ", _TENSOR_F32, offset)


def _pack(value: Value) -> bytes:
    if not isinstance(value, list):
        kind, layout = _type_of(value)
        return struct.pack("<I", kind) + _encode(value, layout)
    kind, layout = _type_of(value[0])
    if kind == _UINT32:  # llama.cpp wants token types signed, sizes unsigned
        kind, layout = _INT32, "i"
    return struct.pack("<IIQ", _ARRAY, kind, len(value)) + b"".join(_encode(item, layout) for item in value)


def _type_of(value: float | str) -> tuple[int, str]:
    for python, kind in ((bool, _BOOL), (int, _UINT32), (float, _FLOAT32)):
        if isinstance(value, python):
            return kind, _SCALARS[kind]
    return _STRING, ""


def _encode(value: float | str, layout: str) -> bytes:
    return _string(value) if isinstance(value, str) else struct.pack("<" + layout, value)


def _string(text: str) -> bytes:
    encoded = text.encode()
    return struct.pack("<Q", len(encoded)) + encoded


def _pad(block: bytes) -> bytes:
    return block + b"\0" * (-len(block) % ALIGNMENT)
