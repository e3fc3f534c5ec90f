"""[pure] Multipart forms as a stream (RFC 7578): bytes go in, parts come out, nothing is held.

The scanner keeps no more than a part's headers or the length of the boundary. Files pass in pieces;
what goes on to an engine is written anew with clean headers: only a base name, only a known media type.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import unquote

from geniehive.errors import InvalidRequest, PayloadTooLarge, UnsupportedMediaType

MAX_PARTS = 64
_MAX_HEAD = 8 * 1024
_MAX_PREAMBLE = 8 * 1024
_BOUNDARY = re.compile(r'(?i);\s*boundary\s*=\s*(?:"([^"\r\n]{1,70})"|([^\s;"]{1,70}))')
_PARAMETER = re.compile(r';\s*([\w*]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s;"]*))')
_MEDIA_TYPE = re.compile(r"[\w.+-]{1,64}/[\w.+-]{1,64}\Z", re.ASCII)
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


@dataclass(frozen=True, slots=True)
class PartBegin:
    """A part's head; `filename` is None for a plain field, else a base name."""

    name: str
    filename: str | None
    content_type: str


@dataclass(frozen=True, slots=True)
class PartData:
    """A piece of the part that began last."""

    data: bytes


@dataclass(frozen=True, slots=True)
class PartEnd:
    """The part is complete."""


@dataclass(frozen=True, slots=True)
class FormEnd:
    """The form is complete; what follows is ignored."""


Event = PartBegin | PartData | PartEnd | FormEnd


def boundary_of(content_type: str | None) -> bytes:
    """The boundary that the content type names. Raises UnsupportedMediaType or InvalidRequest."""
    if (content_type or "").partition(";")[0].strip().lower() != "multipart/form-data":
        raise UnsupportedMediaType(f"send content-type: multipart/form-data, not {(content_type or 'none')[:64]!a}")
    found = _BOUNDARY.search(content_type or "")
    if found is None:
        raise InvalidRequest("the content type names no boundary; let your HTTP library write it")
    return (found[1] or found[2]).encode("utf-8", "replace")


class MultipartScanner:
    """One form. Feed it to its end, then `close` it."""

    def __init__(self, boundary: bytes) -> None:
        self._delimiter = b"\r\n--" + boundary
        self._buffer = bytearray(b"\r\n")  # so that the first boundary looks like all others
        self._parts = 0
        self._state: Callable[[list[Event]], bool] = self._preamble
        self._ended = False

    def feed(self, data: bytes) -> list[Event]:
        """What the bytes complete. Raises InvalidRequest or PayloadTooLarge."""
        self._buffer += data
        events: list[Event] = []
        while not self._ended and self._state(events):
            pass
        if self._ended:
            self._buffer.clear()
        return events

    def close(self) -> None:
        """The bytes are over. Raises InvalidRequest if the form is not."""
        if not self._ended:
            raise InvalidRequest("the multipart form is cut short: its closing boundary is missing")

    def _preamble(self, _events: list[Event]) -> bool:
        at = self._buffer.find(self._delimiter)
        if at < 0:
            if len(self._buffer) > _MAX_PREAMBLE:
                raise InvalidRequest("the multipart form does not begin with the boundary of its content type")
            return False
        del self._buffer[: at + len(self._delimiter)]
        self._state = self._after_boundary
        return True

    def _after_boundary(self, events: list[Event]) -> bool:
        if self._buffer.startswith(b"--"):
            self._ended = True
            events.append(FormEnd())
            return False
        end = self._buffer.find(b"\r\n")
        if end < 0:
            if len(self._buffer) > _MAX_HEAD:
                raise InvalidRequest("the multipart form has a broken boundary")
            return False
        if self._buffer[:end].strip(b" \t"):
            raise InvalidRequest("the multipart form has a broken boundary")
        del self._buffer[:end]  # the line end stays: a part without headers begins with two
        self._state = self._head
        return True

    def _head(self, events: list[Event]) -> bool:
        end = self._buffer.find(b"\r\n\r\n")
        if end > _MAX_HEAD or (end < 0 and len(self._buffer) > _MAX_HEAD):
            raise InvalidRequest("a part of the multipart form has headers that are too large")
        if end < 0:
            return False
        self._parts += 1
        if self._parts > MAX_PARTS:
            raise PayloadTooLarge(f"the multipart form has more than {MAX_PARTS} parts")
        events.append(part_head(bytes(self._buffer[:end])))
        del self._buffer[: end + 2]  # the empty line's end stays: an empty part's boundary may follow at once
        self._state = self._first_body
        return True

    def _first_body(self, _events: list[Event]) -> bool:
        """At the line end before the body: the boundary may stand right there."""
        if len(self._buffer) < len(self._delimiter) and self._delimiter.startswith(self._buffer):
            return False
        if not self._buffer.startswith(self._delimiter):
            del self._buffer[:2]
        self._state = self._body
        return True

    def _body(self, events: list[Event]) -> bool:
        at = self._buffer.find(self._delimiter)
        ready = at if at >= 0 else len(self._buffer) - len(self._delimiter) + 1
        if ready > 0:
            events.append(PartData(bytes(self._buffer[:ready])))
            del self._buffer[:ready]
        if at < 0:
            return False
        events.append(PartEnd())
        del self._buffer[: len(self._delimiter)]
        self._state = self._after_boundary
        return True


def part_head(raw: bytes) -> PartBegin:
    """A part's headers. Raises InvalidRequest for what cannot go on safely."""
    try:
        lines = raw.decode("utf-8").split("\r\n")
    except UnicodeDecodeError:
        raise InvalidRequest("a part of the multipart form has headers that are not UTF-8") from None
    pairs = (line.partition(":") for line in lines if line)
    headers = {name.strip().lower(): value.strip() for name, _, value in pairs}
    disposition = headers.get("content-disposition", "")
    parameters = {found[1].lower(): _unquoted(found) for found in _PARAMETER.finditer(disposition)}
    name = parameters.get("name")
    if not disposition.lower().startswith("form-data") or not name or _CONTROL.search(name):
        raise InvalidRequest("a part of the multipart form has no usable name in its Content-Disposition")
    if headers.get("content-transfer-encoding", "binary").lower() not in {"binary", "8bit", "7bit"}:
        raise InvalidRequest("parts of the multipart form must be sent as they are, without a transfer encoding")
    kind = headers.get("content-type", "").partition(";")[0].strip()
    filename = parameters.get("filename*", parameters.get("filename"))
    return PartBegin(
        name,
        None if filename is None else base_name(filename),
        kind if _MEDIA_TYPE.match(kind) else "application/octet-stream",
    )


def base_name(filename: str) -> str:
    """A file's name without its folders. Raises InvalidRequest for control characters."""
    if _CONTROL.search(filename):
        raise InvalidRequest("the file name has control characters; rename the file")
    name = filename.replace("\\", "/").rpartition("/")[2].strip()
    return name[-255:] if name.strip(".") else "file"


def _unquoted(found: re.Match[str]) -> str:
    if found[1].endswith("*"):  # RFC 8187: charset'language'percent-encoded
        return unquote(found[3].rpartition("'")[2], errors="replace")
    if found[2] is None:
        return found[3]
    return unquote(found[2].replace('\\"', '"')) if "%" in found[2] else found[2].replace('\\"', '"')


def field(boundary: bytes, name: str, value: bytes) -> bytes:
    """A plain field as it is sent on."""
    return b'--%b\r\nContent-Disposition: form-data; name="%b"\r\n\r\n%b\r\n' % (boundary, _quoted(name), value)


def file_head(boundary: bytes, part: PartBegin) -> bytes:
    """What stands before a file's bytes as it is sent on; a line end follows them."""
    return b'--%b\r\nContent-Disposition: form-data; name="%b"; filename="%b"\r\nContent-Type: %b\r\n\r\n' % (
        boundary,
        _quoted(part.name),
        _quoted(part.filename or "file"),
        part.content_type.encode(),
    )


def form_end(boundary: bytes) -> bytes:
    """The closing boundary."""
    return b"--%b--\r\n" % boundary


def _quoted(text: str) -> bytes:
    """As browsers write names (WHATWG HTML, multipart/form-data)."""
    return text.replace('"', "%22").replace("\r", "%0D").replace("\n", "%0A").encode()
