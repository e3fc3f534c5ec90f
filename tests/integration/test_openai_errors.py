"""Every error is OpenAI's envelope with all four keys, those of the HTTP parser included."""

from __future__ import annotations

import json
import socket

import httpx
import openai
import pytest

from tests.engine_fixture import LlamaServer
from tests.integration.cluster import Cluster, Json, chat_body


@pytest.fixture
def cluster(open_cluster: Cluster) -> Cluster:
    return open_cluster


@pytest.fixture
def model(llama_server: LlamaServer) -> str:
    return llama_server.model


def error_of(answer: httpx.Response) -> Json:
    assert answer.headers["content-type"].startswith("application/json"), answer.text
    assert answer.headers["x-request-id"]
    return envelope(answer.content)


def envelope(body: bytes) -> Json:
    found = json.loads(body)
    assert found.keys() == {"error"}
    assert found["error"].keys() == {"message", "type", "param", "code"}
    assert found["error"]["message"]
    return found["error"]


@pytest.mark.parametrize(
    "path",
    ["/nowhere", "/v1", "/v1/nowhere", "/v1/chat/completions/", "//v1/models", "/v1/%2e%2e/metrics", "/api/delete",
     "/v1/chat%2fcompletions"],
)  # fmt: skip
def test_route_that_does_not_exist_is_a_404(cluster: Cluster, path: str) -> None:
    with socket.create_connection(("127.0.0.1", cluster.gateway_port), timeout=10) as sock:
        sock.sendall(f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n".encode())
        head, _, body = sock.recv(65536).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 404 "), head
    assert envelope(body)["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("GET", "/v1/chat/completions", "POST"),
        ("DELETE", "/v1/chat/completions", "POST"),
        ("POST", "/v1/models", "GET, HEAD"),
        ("PUT", "/v1/models/x", "GET, HEAD"),
        ("POST", "/healthz", "GET, HEAD"),
        ("GET", "/v1/audio/transcriptions", "POST"),
    ],
)
def test_wrong_method_is_a_405_with_allow(cluster: Cluster, method: str, path: str, allow: str) -> None:
    answer = cluster.http.request(method, path)
    assert answer.status_code == 405
    assert answer.headers["allow"] == allow
    assert error_of(answer)["code"] == "method_not_allowed"


@pytest.mark.parametrize(
    ("garbage", "status"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
        (b"GARBAGE\r\n\r\n", 400),
        (b"GET / HTTP/9.9\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\nno colon\r\n\r\n", 400),
        (b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: many\r\n\r\n", 400),
        (b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}", 400),
        (
            (
                b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n"
                b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
            ),
            400,
        ),
        (b"GET /" + b"x" * 100_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\nHost: x\r\n" + b"".join(b"h%d: x\r\n" % n for n in range(5000)) + b"\r\n", 431),
    ],
    ids=["tls", "word", "version", "header", "length", "two lengths", "smuggling", "long line", "many headers"],
)
def test_what_the_parser_refuses_is_refused_in_openai_shape(cluster: Cluster, garbage: bytes, status: int) -> None:
    with socket.create_connection(("127.0.0.1", cluster.gateway_port), timeout=10) as sock:
        sock.sendall(garbage)
        answer = b""
        while piece := receive(sock):
            answer += piece
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.split(b" ")[1] == str(status).encode(), head
    assert b"application/json" in head
    envelope(body)
    assert cluster.http.get("/healthz").status_code == 200


def receive(sock: socket.socket) -> bytes:
    """What comes next; nothing once the other side has hung up."""
    try:
        return sock.recv(65536)
    except ConnectionResetError:
        return b""


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/embeddings", "/v1/completions"])
def test_unknown_model_is_told_with_its_neighbours(cluster: Cluster, model: str, path: str) -> None:
    answer = cluster.http.post(path, json={**chat_body(model[:-1]), "input": "x", "prompt": "x"})
    assert answer.status_code == 404
    error = error_of(answer)
    assert error["code"] == "model_not_found"
    assert error["param"] == "model"
    assert repr(model) in error["message"]
    assert answer.headers["x-should-retry"] == "false"


def test_openai_sdk_raises_not_found_for_a_stream_too(cluster: Cluster) -> None:
    with cluster.openai() as client, pytest.raises(openai.NotFoundError) as caught:
        client.chat.completions.create(model="nobody", messages=[], stream=True)
    assert caught.value.code == "model_not_found"


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"null", b"[]", b'"text"', b"5", b'{"model": "\xff"}', b'{"model": 5, "messages": []}',
     b'{"messages": []}', b'{"model": "a", "model": "b"}', b'{"model": "a", "x": NaN}',
     b'{"model": "a", "x": ' + b"[" * 5000 + b"]" * 5000 + b"}", b'{"model": "a", "x": ' + b"9" * 9000 + b"}"],
)  # fmt: skip
def test_body_that_is_no_request_is_a_400(cluster: Cluster, body: bytes) -> None:
    answer = cluster.http.post("/v1/chat/completions", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 400, answer.text
    error_of(answer)


def test_other_content_type_is_a_415(cluster: Cluster) -> None:
    answer = cluster.http.post("/v1/chat/completions", content=b"{}", headers={"content-type": "text/plain"})
    assert answer.status_code == 415
    error_of(answer)


def test_body_over_the_cap_is_a_413(cluster: Cluster, model: str) -> None:
    answer = cluster.http.post("/v1/chat/completions", json=chat_body(model, user="x" * 200_000))
    assert answer.status_code == 413
    error_of(answer)


def test_engine_refusal_is_passed_on_in_openai_shape(cluster: Cluster, model: str) -> None:
    answer = cluster.http.post("/v1/chat/completions", json={"model": model, "messages": "no list"})
    assert answer.status_code == 400, answer.text
    error_of(answer)
    assert answer.headers["x-geniehive-attempts"] == "1"


def test_operation_that_the_model_has_not_is_a_400(cluster: Cluster, model: str) -> None:
    answer = cluster.http.post("/v1/audio/transcriptions", data={"model": model}, files={"file": b"x"})
    assert answer.status_code == 400, answer.text
    assert "chat" in error_of(answer)["message"]
