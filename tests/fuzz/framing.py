"""Raw bytes for a socket: HTTP/1.1 messages whose framing is doubtful, alone or one behind the other."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import strategies as st

from tests.fuzz.bodies import MODEL, forms, json_requests

_CHAT = f'{{"model":"{MODEL}","messages":[{{"role":"user","content":"Hi"}}],"max_tokens":1}}'.encode()
_METHODS = st.sampled_from(
    ["POST"] * 6 + ["GET", "HEAD", "PUT", "DELETE", "OPTIONS", "TRACE", "CONNECT", "PRI", "post", "P OST", "X" * 40, ""]
)
_TARGETS = st.sampled_from(
    ["/v1/chat/completions"] * 6
    + [
        "/v1/models",
        "/healthz",
        "/metrics",
        "/",
        "*",
        "",
        "//v1/models",
        "/v1/%2e%2e/metrics",
        "/v1/../metrics",
        "/v1%2fmodels",
        "http://x/v1/models",
        "/v1/models?api_key=x",
        "/api/pull",
        "/api/delete",
        "/v1/models/%00",
        "/v1/models/%ff",
        "/v1/models/" + "a" * 9000,
        "/\x7f",
        "/v1/models#x",
    ]
)
_VERSIONS = st.sampled_from(
    ["HTTP/1.1"] * 8 + ["HTTP/1.0", "HTTP/0.9", "HTTP/2.0", "HTTP/1.11", "http/1.1", "", "HTTP/1.1 x"]
)
_ENDS = st.sampled_from(["\r\n"] * 10 + ["\n", "\r", "\r\n\r\n", "\r\n "])
_LINES = st.sampled_from(
    ["content-type: application/json"] * 3
    + [
        "transfer-encoding: chunked",
        "transfer-encoding: gzip, chunked",
        "transfer-encoding: chunked, identity",
        "transfer-encoding : chunked",
        "Transfer-Encoding:\tchunked",
        "transfer-encoding: xchunked",
        "content-length: 0",
        "content-length: -1",
        "content-length: +5",
        "content-length: 5, 5",
        "content-length: 0x10",
        "content-length: 99999999999999999999",
        "content-length: ",
        "content_length: 3",
        "expect: 100-continue",
        "expect: 200-ok",
        "connection: close",
        "connection: keep-alive, transfer-encoding",
        "upgrade: h2c",
        "content-encoding: gzip",
        "content-encoding: br",
        "x: " + "y" * 40000,
        "no colon",
        ": no name",
        "x\0y: z",
        "x: a\0b",
        " folded",
        "cookie: a=b",
        "x-forwarded-for: 1.2.3.4",
        "host: other",
        "authorization: Bearer wrong",
    ]
)


@st.composite
def _chunked(draw: st.DrawFn, body: bytes) -> bytes:
    size = draw(
        st.sampled_from(
            [b"%x" % len(body)] * 4 + [b"%X" % len(body), b"-1", b"0x5", b"ffffffffffffffffff", b"", b"5;ext=1", b"g"]
        )
    )
    last = draw(st.sampled_from([b"0\r\n\r\n"] * 4 + [b"0\r\nx: y\r\n\r\n", b"", b"0\n\n", b"00\r\n\r\n"]))
    return size + draw(st.sampled_from([b"\r\n"] * 4 + [b"\n"])) + body + b"\r\n" + last


@st.composite
def _message(draw: st.DrawFn, key: str) -> bytes:
    line = draw(_ENDS)
    head = [f"{draw(_METHODS)} {draw(_TARGETS)} {draw(_VERSIONS)}", "host: gateway"]
    if draw(st.integers(0, 4)):
        head.append(f"authorization: Bearer {key}")
    chunked = draw(st.booleans())
    if chunked:
        head.append("transfer-encoding: chunked")
    elif draw(st.integers(0, 5)):
        head.append(f"content-length: {draw(st.sampled_from([len(_CHAT)] * 5 + [0, 1, len(_CHAT) + 5]))}")
    head += draw(st.lists(_LINES, max_size=3))
    body = draw(_chunked(_CHAT)) if chunked else _CHAT
    return (line.join(head) + line + line).encode("latin-1") + body


@st.composite
def _proper(draw: st.DrawFn, key: str) -> bytes:
    """A message whose framing is right, and whose body is not."""
    path, headers, body = draw(st.one_of(json_requests(), forms()))
    lines = [f"POST {path} HTTP/1.1", "host: gateway", f"authorization: Bearer {key}", f"content-length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1", "replace") + body


def conversations(key: str) -> st.SearchStrategy[list[bytes]]:
    """What is written to one connection, piece by piece."""
    whole = st.lists(st.one_of(_message(key), _proper(key), st.binary(max_size=60)), min_size=1, max_size=3).map(
        b"".join
    )
    return st.one_of(st.lists(_proper(key), min_size=1, max_size=1), whole.flatmap(_pieces))


def _pieces(data: bytes) -> st.SearchStrategy[list[bytes]]:
    return st.lists(st.integers(0, len(data)), max_size=3).map(lambda cuts: _cut(data, sorted(cuts)))


def _cut(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *cuts, len(data)]
    return [data[begin:end] for begin, end in pairwise(edges) if end > begin]
