"""No secret is where others may look: database, logs at debug level, process lists, metrics, receipts, error bodies."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import grpc
import httpx
import pytest

from geniehive.dial import metadata
from geniehive.v1 import cluster_service_pb2 as pb
from tests.engine_fixture import LlamaServer
from tests.integration.cluster import Cluster, Json, chat_body, running_cluster, service

_SECRETS = {
    "client key": "ghs-client-Zq81mVx07TnRk5",
    "node key": "ghs-node-Lw93cYd46PfJs2",
    "admin key": "ghs-admin-Hb72kQe15XgMu8",
    "engine key": "ghs-engine-Rt60nWa39BvCi4",
    "prompt": "ghs-prompt-the-moon-is-made-of-Ky55",
    "key in the query": "ghs-query-Ao17dSl82JpTz6",
    "wrong key": "ghs-wrong-Ne38yGh64FqVc0",
    "cookie": "ghs-cookie-Ui29rOm51DwXb7",
}
_AUTH: Json = {
    "client_api_keys": [_SECRETS["client key"]],
    "node_api_keys": [_SECRETS["node key"]],
    "admin_api_keys": [_SECRETS["admin key"]],
}


class Used(NamedTuple):
    """A cluster that was used; what its clients were answered, by what was asked; and every secret of it."""

    cluster: Cluster
    answers: dict[str, bytes]
    secrets: dict[str, str]

    def found_in(self, text: bytes) -> list[str]:
        """The names of the secrets that a text has."""
        return [name for name, secret in self.secrets.items() if secret.encode() in text]


@pytest.fixture(scope="module")
def used(llama_server: LlamaServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Used]:
    """A cluster with logs at debug level that was used well and badly; and what its clients were answered."""
    with running_cluster(tmp_path_factory.mktemp("secrets"), auth=_AUTH) as cluster:
        cluster.arguments = ("--log-level", "debug")
        engine = service("alpha/chat/llama", llama_server.base_url, api_key=_SECRETS["engine key"])
        cluster.start("alpha", [engine])
        cluster.wait_for_model(llama_server.model)
        made = cluster.http.post(
            "/v1/cluster/tokens",
            json={"name": "laptop", "scopes": ["inference", "read"]},
            headers={"authorization": f"Bearer {_SECRETS['admin key']}"},
        )
        token = made.raise_for_status().json()["secret"]
        cluster.wait_for(lambda: _as(cluster, token, "/v1/models").status_code == 200)
        answers = {
            "with a token": _as(cluster, token, "/v1/cluster/requests").content,
            **_use(cluster, llama_server.model),
        }
        yield Used(cluster, answers, {**_SECRETS, "token": token})


def _as(cluster: Cluster, key: str, path: str) -> httpx.Response:
    return cluster.http.get(path, headers={"authorization": f"Bearer {key}"})


def _use(cluster: Cluster, model: str) -> dict[str, bytes]:
    """Requests good and bad, over HTTP and gRPC; the bodies that came back, by what was asked."""
    answers: dict[str, bytes] = {}
    body = chat_body(model, messages=[{"role": "user", "content": _SECRETS["prompt"]}])
    cookie = {"cookie": f"session={_SECRETS['cookie']}"}
    wrong = {"authorization": f"Bearer {_SECRETS['wrong key']}"}
    for name, response in {
        "chat": cluster.http.post("/v1/chat/completions", json=body, headers=cookie),
        "stream": cluster.http.post("/v1/chat/completions", json={**body, "stream": True}),
        "refused by the engine": cluster.http.post("/v1/chat/completions", json={**body, "temperature": "hot"}),
        "unknown model": cluster.http.post("/v1/chat/completions", json={**body, "model": "none"}),
        "wrong key": cluster.http.post("/v1/chat/completions", json=body, headers=wrong),
        "wrong x-api-key": cluster.http.get(
            "/v1/models", headers={"authorization": "", "x-api-key": _SECRETS["wrong key"]}
        ),
        "key in the query": cluster.http.get(
            f"/v1/models?api_key={_SECRETS['key in the query']}", headers={"authorization": ""}
        ),
        "no route": cluster.http.get(f"/v1/nothing?key={_SECRETS['key in the query']}"),
        "not JSON": cluster.http.post(
            "/v1/chat/completions", content=b"{", headers={"content-type": "application/json"}
        ),
        **{
            path: cluster.http.get(path)
            for path in ("/metrics", "/v1/cluster/requests", "/v1/cluster/services", "/v1/cluster/hosts")
        },
    }.items():
        answers[name] = str(response.headers).encode() + response.content
    assert answers["chat"]
    for key in (_SECRETS["admin key"], _SECRETS["wrong key"]):
        try:
            answers[f"gRPC with the {key[4:9]} key"] = (
                cluster.operator()
                .ListServices(pb.ListServicesRequest(), metadata=metadata(admin_key=key))
                .SerializeToString()
            )
        except grpc.RpcError as error:
            answers[f"gRPC with the {key[4:9]} key"] = str(error).encode()
    return answers


def test_no_answer_repeats_a_secret(used: Used) -> None:
    assert {name: found for name, answer in used.answers.items() if (found := used.found_in(answer))} == {}


def test_no_log_at_debug_level_has_a_secret(used: Used) -> None:
    for name, daemon in used.cluster.daemons.items():
        log = daemon.log()
        assert "debug" in log, f"{name} does not log at debug level"
        assert used.found_in(log.encode()) == [], name


def test_no_process_list_has_a_secret(used: Used) -> None:
    for name, daemon in used.cluster.daemons.items():
        for part in ("cmdline", "environ"):
            path = Path(f"/proc/{daemon.pid}/{part}")
            if path.exists():
                assert used.found_in(path.read_bytes()) == [], (name, part)


def test_no_dump_of_the_database_has_a_secret(used: Used) -> None:
    files = sorted(used.cluster.folder.glob("geniehive.sqlite3*"))
    assert files
    for file in files:
        assert used.found_in(file.read_bytes()) == [], file.name
    with sqlite3.connect(f"file:{files[0]}?mode=ro", uri=True) as database:
        dump = "\n".join(database.iterdump())
    assert "alpha/chat/llama" in dump
    assert used.found_in(dump.encode()) == []


def test_the_search_would_find_them(used: Used) -> None:
    assert used.found_in("\n".join(used.secrets.values()).encode()) == list(used.secrets)
