"""Keys on the HTTP side: both headers, before the body is read; and an open gateway where there are none."""

from __future__ import annotations

import socket

import openai
import pytest

from tests.engine_fixture import LlamaServer
from tests.integration.cluster import KEYS, Cluster, chat_body


@pytest.fixture
def cluster(locked_cluster: Cluster) -> Cluster:
    return locked_cluster


@pytest.fixture
def model(llama_server: LlamaServer) -> str:
    return llama_server.model


@pytest.mark.parametrize("key", ["client-1", "client-2", "admin-1"])
@pytest.mark.parametrize("header", ["authorization", "x-api-key"])
def test_both_headers_open_the_same_doors(cluster: Cluster, model: str, header: str, key: str) -> None:
    value = f"Bearer {key}" if header == "authorization" else key
    headers = {"authorization": "", header: value}
    assert cluster.http.get("/v1/models", headers=headers).status_code == 200
    assert cluster.http.post("/v1/chat/completions", json=chat_body(model), headers=headers).status_code == 200
    assert cluster.http.get("/v1/cluster/health", headers=headers).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": "Bearer wrong"},
        {"authorization": "Basic client-1"},
        {"x-api-key": "wrong"},
        {"x-api-key": "node-1"},
        {"authorization": "Bearer ' OR 1=1 --"},
        {"authorization": "Bearer " + "x" * 20_000},
        {"authorization": "Bearer clié".encode()},
    ],
    ids=["none", "wrong", "basic", "wrong x-api-key", "a node's", "sql", "long", "latin-1"],
)
@pytest.mark.parametrize("path", ["/v1/models", "/v1/cluster/hosts", "/metrics"])
def test_anything_else_is_a_401(cluster: Cluster, headers: dict[str, str | bytes], path: str) -> None:
    answer = cluster.http.get(path, headers={"authorization": "", **headers})
    assert answer.status_code == 401, answer.text
    error = answer.json()["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert error["code"] == "invalid_api_key"
    assert answer.headers["x-should-retry"] == "false"
    assert "client-1" not in answer.text


def test_key_in_the_query_is_not_taken(cluster: Cluster) -> None:
    answer = cluster.http.get("/v1/models?api_key=client-1&key=client-1", headers={"authorization": ""})
    assert answer.status_code == 401


def test_openai_sdk_sees_an_authentication_error(cluster: Cluster, model: str) -> None:
    with cluster.openai() as client, pytest.raises(openai.AuthenticationError):
        client.with_options(api_key="wrong").chat.completions.create(model=model, messages=[])


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
def test_probes_need_no_key(cluster: Cluster, path: str) -> None:
    assert cluster.http.get(path, headers={"authorization": ""}).status_code == 200


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/audio/transcriptions"])
def test_401_comes_before_the_body(cluster: Cluster, path: str) -> None:
    head = (
        f"POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer wrong\r\nContent-Length: 100000000\r\n"
        "Content-Type: application/json\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", cluster.gateway_port), timeout=10) as sock:
        sock.sendall(head.encode())  # and not one byte of the body
        answer = sock.recv(65536)
    assert answer.startswith(b"HTTP/1.1 401 ")


def test_without_keys_everybody_may_ask(open_cluster: Cluster, model: str) -> None:
    for headers in ({}, {"authorization": "Bearer anything"}, {"x-api-key": "anything"}):
        assert open_cluster.http.get("/v1/models", headers=headers).status_code == 200
        answer = open_cluster.http.post("/v1/chat/completions", json=chat_body(model), headers=headers)
        assert answer.status_code == 200


def test_no_log_shows_a_key(cluster: Cluster, model: str) -> None:
    cluster.chat(model)
    logs = "".join(daemon.log() for daemon in cluster.daemons.values())
    assert logs
    for key in KEYS.values():
        assert not [one for one in key if one in logs]
