"""The table of what engines do wrong: a script for `misbehaving.upstream`, and what becomes of it.

`ANSWERS` are of a request without a stream, `STREAMS` of one with a stream. `alone` is what the client gets of the
only service there is: a status, or `CUT` for a stream that ends in an error event, or `WELL` where nothing is amiss
after all. With a second service that is well the client gets the good answer instead, unless the engine's word is
about the request itself (`passed`), or half of the answer is out and cannot be taken back (`final`).
"""

from __future__ import annotations

import gzip
import zlib
from typing import Any, NamedTuple

from tests.gateway.misbehaving import (
    CLOSE,
    DONE,
    HANG,
    KEEP,
    LAST_CHUNK,
    RESET,
    STREAM_HEAD,
    answer,
    chunk,
    completion,
    delta,
    event,
    stream,
)

WELL, CUT = 200, -1
GOOD = "good"
_FILTERED = {"error": {"message": "no", "code": 400}}
BOOM = {"error": {"message": "boom", "type": "server_error", "code": 500}}


class Case(NamedTuple):
    """One way to misbehave."""

    script: tuple[Any, ...]
    alone: int = 502
    passed: bool = False
    final: bool = False
    silent: bool = False
    """Whether it has to be waited for in vain."""
    rests: bool = False
    """Whether the service has asked to be left alone for longer than a client waits."""

    @property
    def waits(self) -> bool:
        """Whether a timeout ends it."""
        return self.silent or self.alone == 504


def _whole(status=200, body=b"{}", kind="application/json", **headers):
    return (answer(status, body, kind, **headers), KEEP)


def _slowly(data):
    """Byte by byte."""
    return tuple(data[at : at + 1] for at in range(len(data)))


_OK = b"HTTP/1.1 200 OK\r\n"
_CHUNKED = b"transfer-encoding: chunked\r\n\r\n"
_HINTS = b"HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n"
_JSON = _OK + b"content-type: application/json\r\n"
_GOOD = completion(GOOD)
_GOOD_BODY = _GOOD.partition(b"\r\n\r\n")[2]
_REFUSALS = {400: True, 404: True, 413: True, 422: True, 401: False, 403: True, 407: False, 418: True}

# What can happen before the first byte of any answer.
BEFORE = {
    "reset": Case((RESET,)),
    "closed without an answer": Case((CLOSE,)),
    "hang before headers": Case((HANG,), 504),
    "hang inside of the headers": Case((_OK, HANG), 504),
    "reset inside of the headers": Case((_OK, RESET)),
    "not HTTP": Case((b"SSH-2.0-OpenSSH_9.6\r\n", CLOSE)),
    "garbage": Case((bytes(range(256)) * 64, CLOSE)),
    "a negative content-length": Case((_OK + b"content-length: -5\r\n\r\n", CLOSE)),
    "two content-lengths": Case((_OK + b"content-length: 2\r\ncontent-length: 3\r\n\r\n{}", CLOSE)),
    "thousands of headers": Case((_OK + b"a: b\r\n" * 5000 + b"\r\n{}", CLOSE)),
    "a huge header": Case((_OK + b"a: " + b"b" * 200_000 + b"\r\n\r\n{}", CLOSE)),
    "endless 1xx": Case((*(_HINTS,) * 3000, HANG), 502),
    "switching protocols": Case((b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\n\r\n", HANG)),
    "no content": Case((b"HTTP/1.1 204 No Content\r\n\r\n", KEEP)),
    "a web page with 200": Case(_whole(200, b"<html>welcome</html>", "text/html")),
    "a web page with 502": Case(_whole(502, b"<html>bad gateway</html>", "text/html")),
    "an unknown compression": Case(_whole(200, b"xx", content_encoding="br")),
    "gzip that is none": Case(_whole(200, b"xx", content_encoding="gzip")),
    "500": Case(_whole(500, BOOM)),
    "502": Case(_whole(502, BOOM)),
    "503": Case(_whole(503, {"error": "server busy"}), 503),
    "504": Case(_whole(504), 504),
    "429": Case(_whole(429, BOOM, retry_after="60"), 429, rests=True),
    "200 with an error of the server": Case(_whole(200, BOOM)),
    "200 with an error of the request": Case(_whole(200, {"error": {"message": "no", "code": 400}}), 400, passed=True),
    **{
        f"a redirect {status}": Case(_whole(status, b"", location="http://127.0.0.1:1/"))
        for status in (301, 302, 307, 308)
    },
    **{
        str(status): Case(_whole(status, BOOM), status if passed else 502, passed)
        for status, passed in _REFUSALS.items()
    },
}

ANSWERS = {
    **BEFORE,
    "empty": Case(_whole(200, b"")),
    "shorter than its content-length": Case((_JSON + b"content-length: 99\r\n\r\n{}", CLOSE)),
    "longer than its content-length": Case((_JSON + b"content-length: 2\r\n\r\n{}{}{}", CLOSE), WELL),
    "content-length and chunks": Case((_JSON + b"content-length: 2\r\n" + _CHUNKED + b"2\r\n{}\r\n0\r\n\r\n", CLOSE)),
    "bad chunk sizes": Case((_JSON + _CHUNKED + b"zz\r\n{}\r\n0\r\n\r\n", CLOSE)),
    "chunks that break off": Case((_JSON + _CHUNKED + b"2\r\n{}\r\n", CLOSE)),
    "hang inside of the body": Case((_JSON + b'content-length: 99\r\n\r\n{"a":', HANG), 504),
    "not JSON": Case(_whole(200, b"this is not JSON")),
    "null": Case(_whole(200, b"null")),
    "a list": Case(_whole(200, b"[]")),
    "half of an object": Case(_whole(200, b'{"a":')),
    "nested without end": Case(_whole(200, b'{"a":' * 100_000)),
    "invalid UTF-8": Case(_whole(200, b'{"a":"\xff\xfe"}')),
    "12 MB of something else": Case(_whole(200, b"x" * (12 * 2**20))),
    "a gzip bomb": Case(_whole(200, gzip.compress(b" " * (64 * 2**20)), content_encoding="gzip")),
    "gzip cut short": Case(_whole(200, gzip.compress(_GOOD_BODY)[:-5], content_encoding="gzip")),
    "a stream that was not asked for": Case((*stream("hello"), KEEP)),
    "1xx first": Case((_HINTS + b"HTTP/1.1 100 Continue\r\n\r\n" + _GOOD, KEEP), WELL),
    "gzip": Case(_whole(200, gzip.compress(_GOOD_BODY), content_encoding="gzip"), WELL),
    "deflate": Case(_whole(200, zlib.compress(_GOOD_BODY), content_encoding="deflate"), WELL),
    "byte by byte": Case((*_slowly(_GOOD), KEEP), WELL),
    "without a length": Case((_JSON + b"\r\n" + _GOOD_BODY, CLOSE), WELL),
    "closed behind its answer": Case((_GOOD, CLOSE), WELL),
    "HTTP/1.0": Case((b"HTTP/1.0 200 OK\r\ncontent-type: application/json\r\n\r\n" + _GOOD_BODY, CLOSE), WELL),
}

_ROLE = chunk(delta("", role="assistant"))
_BEGUN = (STREAM_HEAD, _ROLE, chunk(delta("go")))
_REST = (chunk(delta("od")), chunk(delta(finish="stop")), chunk(DONE), LAST_CHUNK, KEEP)
_WHOLE = delta("", role="assistant") + delta(GOOD) + delta(finish="stop") + DONE


def _gzipped(*pieces, whole=True):
    """A compressed stream, flushed piece by piece."""
    made = zlib.compressobj(wbits=31)
    out = [made.compress(piece) + made.flush(zlib.Z_SYNC_FLUSH) for piece in pieces]
    head = STREAM_HEAD.replace(b"\r\n\r\n", b"\r\ncontent-encoding: gzip\r\n\r\n")
    return (head, *(chunk(each) for each in out), *((chunk(made.flush()), LAST_CHUNK, KEEP) if whole else (CLOSE,)))


STREAMS = {
    **BEFORE,
    # Before the first content.
    "a whole answer": Case(_whole(200, completion("x").partition(b"\r\n\r\n")[2])),
    "not JSON": Case(_whole(200, b"boom")),
    "200, then closed": Case((STREAM_HEAD, CLOSE)),
    "200, then a clean end": Case((STREAM_HEAD, LAST_CHUNK, KEEP)),
    "200, then only [DONE]": Case((STREAM_HEAD, chunk(DONE), LAST_CHUNK, KEEP)),
    "200, then a role and [DONE]": Case((STREAM_HEAD, _ROLE, chunk(DONE), LAST_CHUNK, KEEP)),
    "200, then a role and the end": Case((STREAM_HEAD, _ROLE, LAST_CHUNK, KEEP)),
    "200, then an error event": Case((STREAM_HEAD, chunk(event(BOOM)), LAST_CHUNK, KEEP)),
    "200, then a role and an error event": Case((STREAM_HEAD, _ROLE, chunk(event(BOOM)), HANG)),
    "200, then nothing": Case((STREAM_HEAD, HANG), 504),
    "200, then only comments": Case((STREAM_HEAD, chunk(b": hello\n\n"), HANG), 504),
    "200, then bad chunks": Case((STREAM_HEAD, b"zz\r\n", CLOSE)),
    "only broken JSON": Case((STREAM_HEAD, *(chunk(b"data: {broken\n\n"),) * 3, LAST_CHUNK, KEEP)),
    "an event of 11 MB first": Case((STREAM_HEAD, chunk(b"data: " + b"x" * (11 * 2**20)), HANG)),
    # In the middle.
    "reset in the stream": Case((*_BEGUN, RESET), CUT),
    "reset inside of an event": Case((*_BEGUN, chunk(b'data: {"cho'), RESET), CUT),
    "closed in the stream": Case((*_BEGUN, CLOSE), CUT),
    "hang in the stream": Case((*_BEGUN, HANG), CUT, silent=True),
    "a clean end without a finish": Case((*_BEGUN, LAST_CHUNK, KEEP), CUT),
    "[DONE] without a finish": Case((*_BEGUN, chunk(DONE), LAST_CHUNK, KEEP), CUT),
    "[DONE] in the event's piece": Case((STREAM_HEAD, chunk(delta("go") + DONE), LAST_CHUNK, KEEP), CUT),
    "a finish of an engine that was stopped": Case((*stream("go", finish="abort"), KEEP), CUT),
    "an error event in the stream": Case((*_BEGUN, chunk(event(BOOM)), chunk(DONE), LAST_CHUNK, KEEP), CUT),
    "a bare error in the stream": Case((*_BEGUN, chunk(event({"error": "boom"})), LAST_CHUNK, KEEP), CUT),
    "a named error in the stream": Case((*_BEGUN, chunk(b'event: error\ndata: {"message":"boom"}\n\n'), HANG), CUT),
    "a content filter in the stream": Case((*_BEGUN, chunk(event(_FILTERED)), HANG), CUT, final=True),
    "bad chunks in the stream": Case((*_BEGUN, b"zz\r\nhello\r\n", CLOSE), CUT),
    "an event of 11 MB": Case((*_BEGUN, chunk(b"data: " + b"x" * (11 * 2**20)), HANG), CUT),
    "only comments from then on": Case((*_BEGUN, *(chunk(b": alive\n\n"), 0.05) * 3, CLOSE), CUT),
    "gzip cut short": Case(_gzipped(delta("", role="assistant"), delta("go"), whole=False), CUT),
    # Odd, and well.
    "no [DONE]": Case((*stream("go", "od", done=False), KEEP), WELL),
    "no [DONE], and closed": Case((*stream("go", "od", done=False, end=None), CLOSE), WELL),
    "no [DONE], and hanging": Case((*stream("go", "od", done=False, end=None), HANG), WELL),
    "no empty line at the end": Case(
        (*_BEGUN, chunk(delta("od")), chunk(delta(finish="stop").rstrip()), LAST_CHUNK, KEEP), WELL
    ),
    "words after [DONE]": Case((*stream("go", "od", end=None), chunk(delta("more")), LAST_CHUNK, KEEP), WELL),
    "broken JSON in one event": Case((*_BEGUN, chunk(b"data: {broken\n\n"), *_REST), WELL),
    "invalid UTF-8 in one event": Case((*_BEGUN, chunk(b'data: {"a":"\xff"}\n\n'), *_REST), WELL),
    "gzip": Case(_gzipped(delta("", role="assistant"), delta("go"), delta("od"), delta(finish="stop"), DONE), WELL),
    "byte by byte": Case((STREAM_HEAD, *(chunk(each) for each in _slowly(_WHOLE)), LAST_CHUNK, KEEP), WELL),
    "all at once": Case((STREAM_HEAD + chunk(_WHOLE) + LAST_CHUNK, KEEP), WELL),
    "without chunks": Case((_OK + b"content-type: text/event-stream\r\n\r\n" + _WHOLE, CLOSE), WELL),
    "lines ended by CRLF": Case((STREAM_HEAD, chunk(_WHOLE.replace(b"\n", b"\r\n")), LAST_CHUNK, KEEP), WELL),
    "comments between": Case((*_BEGUN, chunk(b": alive\n\n"), *_REST), WELL),
    "1xx first": Case((_HINTS, *stream("go", "od"), KEEP), WELL),
}
