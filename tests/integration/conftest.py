"""Clusters that several modules share; a test that kills or breaks something starts one of its own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.engine_fixture import LlamaServer
from tests.integration.cluster import KEYS, Cluster, running_cluster, service


@pytest.fixture(scope="session")
def open_cluster(llama_server: LlamaServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Without keys: one host, alpha, with a real llama.cpp as its one service. JSON bodies up to 100 kB."""
    with running_cluster(tmp_path_factory.mktemp("open"), gateway={"max_body_bytes": 100_000}) as cluster:
        cluster.start("alpha", [service("alpha/chat/llama", llama_server.base_url)], display_name="Alpha")
        cluster.wait_for_model(llama_server.model)
        yield cluster


@pytest.fixture(scope="session")
def locked_cluster(llama_server: LlamaServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """The same with KEYS on every side."""
    with running_cluster(tmp_path_factory.mktemp("locked"), auth=KEYS) as cluster:
        cluster.start("alpha", [service("alpha/chat/llama", llama_server.base_url)])
        cluster.wait_for_model(llama_server.model)
        yield cluster
