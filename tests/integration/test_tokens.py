"""A token's life with real daemons: made by the command line, used over HTTP and gRPC, revoked; and never seen."""

from __future__ import annotations

import json
import subprocess

import grpc
import httpx
import pytest

from geniehive.dial import metadata
from geniehive.v1 import cluster_service_pb2 as pb
from tests.engine_fixture import LlamaServer
from tests.integration.cluster import Cluster, chat_body
from tests.integration.daemons import clean_environ, cli

MODELS, REQUESTS = "/v1/models", "/v1/cluster/requests"


def run(cluster: Cluster, *arguments: str) -> str:
    """A command of an administrator; what it printed."""
    done = subprocess.run(
        cli(*arguments, "--control", cluster.address),
        env=clean_environ(GENIEHIVE_API_KEY=cluster.admin_key, HOME=str(cluster.folder)),
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return done.stdout


def test_a_token_from_its_making_to_its_end(locked_cluster: Cluster, llama_server: LlamaServer) -> None:
    cluster, model = locked_cluster, llama_server.model
    secret = run(cluster, "token", "create", "laptop", "--model", model, "--operation", "chat").strip()
    operator = run(cluster, "token", "create", "ops", "--scope", "operator").strip()
    mine = {"authorization": f"Bearer {secret}"}
    cluster.wait_for(lambda: cluster.http.get(MODELS, headers=mine).status_code == 200)

    listed = cluster.http.get(MODELS, headers=mine).json()["data"]
    assert [each["id"] for each in listed] == [model]
    answer = cluster.http.post("/v1/chat/completions", json=chat_body(model), headers=mine)
    assert answer.status_code == 200, answer.text
    request_id = answer.headers["x-request-id"]
    assert cluster.http.get(f"{REQUESTS}/{request_id}", headers=mine).json()["principal"] == "laptop"
    refused = cluster.http.post("/v1/completions", json={"model": model, "prompt": "x"}, headers=mine)
    assert refused.status_code == 403

    with pytest.raises(grpc.RpcError) as raised:
        cluster.operator().ListHosts(pb.ListHostsRequest(), metadata=metadata(admin_key=secret))
    assert raised.value.code() is grpc.StatusCode.PERMISSION_DENIED
    hosts = cluster.operator().ListHosts(pb.ListHostsRequest(), metadata=metadata(admin_key=operator)).hosts
    assert [host.host_id for host in hosts] == ["alpha"]

    run(cluster, "token", "revoke", "laptop")
    cluster.wait_for(lambda: cluster.http.get(MODELS, headers=mine).status_code == 401)
    run(cluster, "token", "revoke", "ops")
    entries = json.loads(run(cluster, "audit", "--action", "token.", "-o", "json"))
    assert [(each["actor"], each["action"], each["subject"]) for each in entries[:2]] == [
        ("admin-1", "token.revoke", "ops"),
        ("admin-1", "token.revoke", "laptop"),
    ]
    _assert_unseen(cluster, secret, operator)


def _assert_unseen(cluster: Cluster, *secrets: str) -> None:
    """Not in a log, the database, a metric or a receipt."""
    metrics = httpx.get(f"{cluster.url}/metrics", headers={"x-api-key": cluster.admin_key}, trust_env=False).text
    assert 'geniehive_gateway_key_requests_total{key="laptop",status="200"}' in metrics
    places = [daemon.log() for daemon in cluster.daemons.values()]
    places += [path.read_bytes().decode("latin-1") for path in cluster.folder.glob("geniehive.sqlite3*")]
    places += [metrics, cluster.http.get(REQUESTS).text]
    assert not [place[:80] for place in places for secret in secrets if secret in place]
