"""Bodies that are almost right: JSON requests and multipart forms, bent in every place."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import strategies as st

MODEL = "fuzzed"

_ODD_TEXT = st.one_of(
    st.text(max_size=20),
    st.sampled_from(
        ["", "\0", "\u202e", "\ud83d\ude00", "../../etc/passwd", "{{7*7}}", "<img onerror=x>", "a\r\nb", "%n%s", MODEL]
    ),
)
_ODD_NUMBER = st.one_of(
    st.integers(),
    st.integers(min_value=-(10**30), max_value=10**30),
    st.floats(allow_nan=True, allow_infinity=True),
    st.sampled_from([0, -1, 2**31, 2**63, 2**64, 1e308]),
)
_SCALAR = st.one_of(st.none(), st.booleans(), _ODD_NUMBER, _ODD_TEXT)
_VALUE: st.SearchStrategy[Any] = st.recursive(
    _SCALAR, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_ODD_TEXT, inner, max_size=4), max_leaves=12
)
_MESSAGES = [{"role": "user", "content": "Say hello."}]
_PLAIN: tuple[tuple[str, dict[str, Any]], ...] = (
    ("/v1/chat/completions", {"model": MODEL, "messages": _MESSAGES, "max_tokens": 2}),
    ("/v1/chat/completions", {"model": MODEL, "messages": _MESSAGES, "max_tokens": 2, "stream": True}),
    ("/v1/completions", {"model": MODEL, "prompt": "Hello", "max_tokens": 2}),
    ("/v1/embeddings", {"model": MODEL, "input": "Hello"}),
    ("/v1/responses", {"model": MODEL, "input": "Hello", "max_output_tokens": 2}),
    ("/v1/messages", {"model": MODEL, "messages": _MESSAGES, "max_tokens": 2}),
    ("/v1/messages", {"model": MODEL, "messages": _MESSAGES, "max_tokens": 2, "stream": True}),
    ("/v1/messages/count_tokens", {"model": MODEL, "messages": _MESSAGES}),
    ("/v1/rerank", {"model": MODEL, "query": "Hello", "documents": ["a", "b"]}),
    ("/v1/audio/speech", {"model": MODEL, "input": "Hello", "voice": "a"}),
    ("/v1/images/generations", {"model": MODEL, "prompt": "Hello"}),
    ("/v1/moderations", {"model": MODEL, "input": "Hello"}),
    ("/v1/cluster/routes/match", {"task": "summarise a page"}),
    ("/v1/cluster/benchmarks", {"samples": []}),
    ("/api/chat", {"model": MODEL, "messages": _MESSAGES}),
    ("/api/generate", {"model": MODEL, "prompt": "Hello"}),
    ("/api/embed", {"model": MODEL, "input": "Hello"}),
    ("/api/show", {"model": MODEL}),
)
_KNOWN_KEYS = st.sampled_from(
    [
        "model",
        "stream",
        "messages",
        "input",
        "prompt",
        "n",
        "stream_options",
        "tools",
        "tool_choice",
        "response_format",
        "system",
        "logprobs",
        "max_tokens",
        "temperature",
        "chat_template_kwargs",
        "include_reasoning",
        "thinking",
        "documents",
        "task",
        "tasks",
        "workload",
        "limit",
        "previous_response_id",
        "store",
        "instructions",
        "options",
        "format",
        "images",
        "keep_alive",
    ]
)


@st.composite
def json_requests(draw: st.DrawFn) -> tuple[str, dict[str, str], bytes]:
    """Path, headers and body of a JSON request."""
    path, plain = draw(st.sampled_from(_PLAIN))
    fields = {**plain, **draw(st.dictionaries(st.one_of(_KNOWN_KEYS, _ODD_TEXT), _VALUE, max_size=4))}
    for key in draw(st.sets(st.sampled_from(sorted(plain)), max_size=1)):
        fields.pop(key, None)
    body = json.dumps(fields, ensure_ascii=draw(st.booleans())).encode("utf-8", "surrogatepass")
    return path, {"content-type": draw(_JSON_TYPES)}, draw(bent(body))


_JSON_TYPES = st.sampled_from(
    ["application/json"] * 6 + ["application/json; charset=utf-8", "text/plain", "application/json;;=", ""]
)


@st.composite
def bent(draw: st.DrawFn, body: bytes) -> bytes:
    """A body as it is, most often; or cut, doubled, deepened, or with strange bytes in it."""
    match draw(st.sampled_from(["as it is"] * 6 + ["cut", "doubled", "bytes", "deep", "wrapped", "duplicate"])):
        case "cut":
            return body[: draw(st.integers(0, len(body)))]
        case "doubled":
            return body + body
        case "bytes":
            at = draw(st.integers(0, len(body)))
            return body[:at] + draw(st.binary(max_size=6)) + body[at:]
        case "deep":
            depth = draw(st.integers(1, 2000))
            return b'{"model":"' + MODEL.encode() + b'","messages":' + b"[" * depth + b"]" * depth + b"}"
        case "wrapped":
            return b"[" + body + b"]"
        case "duplicate":
            return body[:-1] + b',"model":"another"}' if body.endswith(b"}") else body
        case _:
            return body


_NAMES = st.sampled_from(
    ["model", "file", "language", "stream", "response_format", "image", "image[]", "mask", "prompt", "x"]
)
_FILE_NAMES = st.sampled_from(
    ["a.wav", "../../etc/passwd", "a\\b.wav", 'q"uote.wav', "nul\0.wav", "ünï.wav", "", "a;b=c", "x" * 300]
)
_BREAKS = st.sampled_from(["\r\n"] * 8 + ["\n", "\r", ""])


@st.composite
def forms(draw: st.DrawFn) -> tuple[str, dict[str, str], bytes]:
    """Path, headers and body of a multipart request."""
    boundary = draw(st.sampled_from(["b", "----WebKitFormBoundary0123", "x" * 70, "x" * 200, "a b", "", '"q"']))
    parts = [f'content-disposition: form-data; name="model"\r\n\r\n{MODEL}'.encode()] if draw(st.booleans()) else []
    for _ in range(draw(st.integers(0, 4))):
        kind = draw(st.sampled_from(["form-data", "form-data", "attachment", ""]))
        head = f'content-disposition: {kind}; name="{draw(_NAMES)}"'
        if draw(st.booleans()):
            head += f'; filename="{draw(_FILE_NAMES)}"'
        line = draw(_BREAKS)
        parts.append(f"{head}{line}content-type: audio/wav{line}{line}".encode() + draw(st.binary(max_size=200)))
    edge = b"--" + boundary.encode()
    body = (
        b"".join(edge + b"\r\n" + part + b"\r\n" for part in parts)
        + edge
        + draw(st.sampled_from([b"--\r\n", b"--", b"", b"\r\n"]))
    )
    path = draw(st.sampled_from(["/v1/audio/transcriptions", "/v1/audio/translations", "/v1/images/edits"]))
    kind = draw(
        st.sampled_from(
            [f"multipart/form-data; boundary={boundary}"] * 4 + ["multipart/form-data", "multipart/mixed; boundary=b"]
        )
    )
    return path, {"content-type": kind}, draw(bent(body))
