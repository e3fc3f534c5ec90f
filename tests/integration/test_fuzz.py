"""Seconds of hostile input; bench/bench_fuzz.py has minutes of it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.bodies import MODEL
from tests.fuzz.engine import FuzzedEngine, running_engine
from tests.fuzz.framing import conversations
from tests.fuzz.judge import Judge
from tests.integration.cluster import KEYS, running_cluster, service

_KEY = KEYS["client_api_keys"][0]


@pytest.fixture(scope="module")
def engine() -> Iterator[FuzzedEngine]:
    with running_engine() as engine:
        yield engine


@pytest.fixture(scope="module")
def judge(engine: FuzzedEngine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Judge]:
    kinds = ["chat", "completion", "embeddings", "rerank", "transcription", "translation", "speech", "image"]
    with running_cluster(tmp_path_factory.mktemp("fuzz"), auth=KEYS) as cluster:
        fuzzed = service("alpha/fuzzed", engine.url, kinds=kinds, assets=[{"asset_id": MODEL}])
        cluster.start("alpha", [fuzzed])
        cluster.wait_for_model(MODEL)
        yield Judge(cluster.gateway_port, _KEY)


def test_hostile_input_gets_no_500_no_hang_and_leaves_a_gateway_that_works(judge: Judge, engine: FuzzedEngine) -> None:
    @settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
    @given(st.data())
    def attack(data: st.DataObject) -> None:
        judge.converse(data.draw(conversations(_KEY)))
        assert not engine.faults

    attack()
    judge.healthy()
    assert {200, 400} <= judge.statuses.keys(), "the input never came past the front door"
    assert engine.requests > 10
