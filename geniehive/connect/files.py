"""Writes a client's file, and puts back what was there: once for each time that it was written.

Beside the file lies `NAME.geniehive-undo` with what was there before and the hash of what was written. If the file was
changed since, undo refuses: nobody's work is lost. Both are for their owner's eyes alone, since they may hold a key.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path

import msgspec

from geniehive.errors import Conflict, NotFound


class _Undo(msgspec.Struct):
    """What lies beside the file; `before` is None where there was none, `mode` its permissions."""

    before: str | None
    mode: int
    written: str


def expand(path: str) -> Path:
    """The file that a recipe names; links are followed, so that the file they lead to is written."""
    return Path(path).expanduser().resolve()


def read(path: Path) -> str | None:
    """The file's text; None where there is none. Raises Conflict where it cannot be read."""
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise Conflict(f"{path} cannot be read: {_reason(error)}") from error


def write(path: Path, text: str) -> None:
    """Write the file, and beside it what it takes to undo that. Raises Conflict."""
    before = read(path)
    mode = path.stat().st_mode & 0o777 if before is not None else 0o600
    held = _held(path)
    if held is not None and before is not None and _hash(before) == held.written:
        before, mode = held.before, held.mode  # written by us and not touched since: the way back stays the same
    undo = msgspec.json.encode(_Undo(before, mode, _hash(text)))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _replace(_beside(path), undo, 0o600)
        _replace(path, text.encode(), mode)
    except OSError as error:
        raise Conflict(f"{path} cannot be written: {_reason(error)}") from error


def undo(path: Path) -> bool:
    """Put back what was there; whether there was a file. Raises NotFound or Conflict."""
    held, now = _held(path), read(path)
    if held is None:
        raise NotFound(f"there is nothing to undo: {path} was not written by geniehive connect")
    if now is not None and _hash(now) != held.written:
        raise Conflict(f"{path} was changed since; what was there before is in {_beside(path)}, under `before`")
    try:
        if held.before is None:
            path.unlink(missing_ok=True)
        else:
            _replace(path, held.before.encode(), held.mode)
        _beside(path).unlink()
    except OSError as error:
        raise Conflict(f"{path} cannot be put back: {_reason(error)}") from error
    return held.before is not None


def _held(path: Path) -> _Undo | None:
    try:
        return msgspec.json.decode(_beside(path).read_bytes(), type=_Undo)
    except (OSError, msgspec.DecodeError):
        return None


def _beside(path: Path) -> Path:
    return path.with_name(f"{path.name}.geniehive-undo")


def _replace(path: Path, content: bytes, mode: int) -> None:
    """Write whole or not at all."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        Path(name).chmod(mode)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _reason(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or "it is not text in UTF-8"
