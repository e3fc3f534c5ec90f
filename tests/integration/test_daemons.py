"""Three daemons, each killed in turn: what goes on, what is said meanwhile, and what heals by itself."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any, Self

import httpx
import pytest
from aiohttp import web

from geniehive.v1 import cluster_service_pb2, resources_pb2
from nodeagent.embedded.options import EngineOptions
from tests.engine_fixture import LlamaServer, running_engine
from tests.integration.cluster import QUICK, Cluster, Json, chat_body, running_cluster, service
from tests.integration.upstreams import Handler, serving
from tests.ports import free_port

SERVICE = "alpha/chat/llama"


class Engine:
    """A llama.cpp that may be killed, and comes back on its port."""

    def __init__(self, folder: Path) -> None:
        port = free_port()
        self._options = EngineOptions(cache_dir=folder, port=port)
        self._running = ExitStack()
        self.server: LlamaServer | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._options.port}"

    def start(self) -> str:
        """Start it; the name of its model."""
        if self.server is None:
            self.server = self._running.enter_context(running_engine(self._options))
        return self.server.model

    def kill(self) -> None:
        """kill -9."""
        if self.server is not None:
            os.kill(self.server.pid, signal.SIGKILL)
            self._running.close()
            self.server = None

    def close(self) -> None:
        self._running.close()


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with closing(Engine(tmp_path_factory.mktemp("engine"))) as engine:
        engine.start()
        yield engine


@pytest.fixture(scope="module")
def daemons(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with running_cluster(tmp_path_factory.mktemp("daemons")) as cluster:
        cluster.start("alpha", [service(SERVICE, engine.url)])
        yield cluster


@pytest.fixture
def cluster(daemons: Cluster, engine: Engine) -> Cluster:
    """All three daemons and the engine run, whatever the test before has done; leases outlast a restart."""
    engine.start()
    for daemon in daemons.daemons.values():
        if not daemon.running:
            daemon.start()
    daemons.wait_for(lambda: daemons.serving() and daemons.health()["status"] == "ok")
    daemons.wait_for_model(model_of(engine))
    return daemons


def model_of(engine: Engine) -> str:
    assert engine.server is not None
    return engine.server.model


class Watcher:
    """Asks again and again, in a thread, whether the model still has a route; keeps what else it was told."""

    def __init__(self, cluster: Cluster, model: str) -> None:
        self.asked = 0
        self.wrong: list[str] = []
        self._stop = threading.Event()
        self._model = model
        self._url = cluster.url
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        with httpx.Client(base_url=self._url, trust_env=False, timeout=20) as http:
            while not self._stop.wait(0.01):
                answer = http.get("/v1/cluster/routes/resolve", params={"model": self._model})
                self.asked += 1
                if answer.status_code != 200 or not answer.json()["candidates"]:
                    self.wrong.append(answer.text)


def host_at_control(cluster: Cluster, host_id: str) -> Any:
    answer = cluster.operator().ListHosts(cluster_service_pb2.ListHostsRequest(), timeout=20)
    return next((host for host in answer.hosts if host.host_id == host_id), None)


def heartbeat_arrives(cluster: Cluster, host_id: str) -> None:
    """Wait until the control plane hears from the host once more."""
    ages: list[float] = []

    def younger() -> bool:
        host = host_at_control(cluster, host_id)
        if host is None or not host.HasField("heartbeat_age_seconds"):
            return False
        ages.append(host.heartbeat_age_seconds)
        return len(ages) > 1 and ages[-1] < ages[-2]

    cluster.wait_for(younger)


def assert_openai_error(answer: httpx.Response, *statuses: int) -> Json:
    assert answer.status_code in statuses, answer.text
    error = answer.json()["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    return error


def test_requests_go_on_without_a_control_plane_and_the_node_registers_again(cluster: Cluster, engine: Engine) -> None:
    model = model_of(engine)
    before = cluster.health()
    with Watcher(cluster, model) as watcher:
        cluster.daemons["control"].kill()
        assert cluster.chat(model).status_code == 200
        cluster.wait_for(lambda: cluster.health()["status"] == "stale")
        assert cluster.chat(model).status_code == 200
        assert cluster.model_status(model)["value"] == "loaded"
        assert cluster.http.get("/readyz").status_code == 200
        assert cluster.http.get("/v1/cluster/hosts").json()["stale"] is True

        cluster.restart("control")
        cluster.wait_for(lambda: cluster.health()["status"] == "ok")
        heartbeat_arrives(cluster, "alpha")
        assert host_at_control(cluster, "alpha").lease == resources_pb2.LEASE_STATE_UP
        assert cluster.chat(model).status_code == 200
    after = cluster.health()
    assert after["epoch"] > before["epoch"]
    assert watcher.asked > 10
    assert not watcher.wrong, watcher.wrong[:3]


def test_hosts_that_a_restarted_control_plane_remembers_are_up_for_one_lease(cluster: Cluster, engine: Engine) -> None:
    before = cluster.health()["epoch"]
    cluster.daemons["control"].kill()
    cluster.daemons["alpha"].kill()
    cluster.restart("control")
    cluster.wait_for(lambda: cluster.health()["epoch"] > before)
    assert cluster.host("alpha")["lease"] == "up"
    assert cluster.chat(model_of(engine)).status_code == 200


def test_control_plane_that_lost_its_database_learns_everything_from_the_nodes(
    cluster: Cluster, engine: Engine
) -> None:
    cluster.daemons["control"].kill()
    for file in cluster.folder.glob("geniehive.sqlite3*"):
        file.unlink()
    cluster.restart("control")
    cluster.wait_for(cluster.serving)
    cluster.wait_for(lambda: host_at_control(cluster, "alpha"))
    cluster.wait_for(lambda: cluster.health()["status"] == "ok")
    cluster.wait_for_model(model_of(engine))
    assert cluster.chat(model_of(engine)).status_code == 200


@pytest.mark.parametrize(("grace_s", "lease"), [(600, "stale"), (0.5, "offline")])
def test_host_of_a_killed_node_and_its_services_leave_the_routes(
    engine: Engine, tmp_path: Path, grace_s: float, lease: str
) -> None:
    model = engine.start()
    with running_cluster(tmp_path, control={**QUICK, "lease_grace_s": grace_s}) as cluster:
        cluster.start("alpha", [service(SERVICE, engine.url)])
        cluster.wait_for_model(model)
        cluster.daemons["alpha"].kill()
        cluster.wait_for(lambda: cluster.host("alpha")["lease"] == lease)
        status = cluster.model_status(model)
        assert status["value"] == "unavailable"
        assert lease in status["reason"]
        error = assert_openai_error(cluster.chat(model), 503)
        assert error["code"] == "no_service_available"
        assert "lease" in error["message"]

        cluster.restart("alpha")
        cluster.wait_for_model(model)
        cluster.wait_for(lambda: cluster.host("alpha")["lease"] == "up")
        cluster.wait_for(lambda: cluster.chat(model).status_code == 200)


def test_service_of_a_killed_engine_is_unhealthy_and_comes_back(cluster: Cluster, engine: Engine) -> None:
    model = model_of(engine)
    engine.kill()
    assert_openai_error(cluster.chat(model), 502, 503)
    cluster.wait_for(lambda: cluster.model_status(model)["value"] == "unavailable")
    assert "unhealthy" in cluster.model_status(model)["reason"]
    (found,) = cluster.http.get("/v1/cluster/services").json()["data"]
    assert found["health"]["status"] == "unhealthy"
    assert found["health"]["reason"]
    error = assert_openai_error(cluster.chat(model), 503)
    assert SERVICE in error["message"]
    assert cluster.host("alpha")["lease"] == "up"

    engine.start()
    cluster.wait_for_model(model)
    assert cluster.chat(model).status_code == 200


def test_stream_outlives_the_death_of_node_and_control_plane(cluster: Cluster, engine: Engine) -> None:
    body = chat_body(model_of(engine), stream=True, max_tokens=400)
    with cluster.http.stream("POST", "/v1/chat/completions", json=body) as answer:
        lines = answer.iter_lines()
        assert next(lines).startswith("data: ")
        cluster.daemons["alpha"].kill()
        cluster.daemons["control"].kill()
        rest = [line for line in lines if line]
    assert rest[-1] == "data: [DONE]"


def test_gateway_and_node_may_be_there_before_the_control_plane(engine: Engine, tmp_path: Path) -> None:
    with running_cluster(tmp_path) as cluster:
        cluster.start_gateway(ready=False)
        cluster.start_node("beta", [service("beta/llama", engine.url)])
        assert cluster.http.get("/healthz").status_code == 200
        assert_openai_error(cluster.http.get("/readyz"), 503)
        assert_openai_error(cluster.chat("anything"), 503)

        cluster.start_control()
        cluster.wait_for(lambda: cluster.http.get("/readyz").status_code == 200)
        model = engine.start()
        cluster.wait_for_model(model)
        assert cluster.chat(model).status_code == 200


def test_later_node_with_the_same_host_id_wins_and_the_first_one_ends(engine: Engine, tmp_path: Path) -> None:
    model = engine.start()
    with running_cluster(tmp_path) as cluster:
        cluster.start_control()
        cluster.start_gateway()
        first = cluster.start_node("twin", [service("twin/first", engine.url)], name="first")
        cluster.wait_for(lambda: cluster.model(model)["geniehive"]["services"] == ["twin/first"])
        second = cluster.start_node("twin", [service("twin/second", engine.url)], name="second")
        assert first.wait() != 0
        said = first.log().splitlines()[-1]
        assert said.startswith("geniehive: ")
        assert "twin" in said
        assert "host_id" in said
        cluster.wait_for(lambda: cluster.model(model)["geniehive"]["services"] == ["twin/second"])
        heartbeat_arrives(cluster, "twin")
        assert second.running


class SlowEngine:
    """An engine whose stream says one word, and the rest when it is told to."""

    def __init__(self) -> None:
        self.go_on = threading.Event()

    def routes(self) -> dict[tuple[str, str], Handler]:
        return {("POST", "/v1/chat/completions"): self.chat}

    async def chat(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await response.write(chunk('{"content":"first"}', "null"))
        await asyncio.to_thread(self.go_on.wait, 20)
        await response.write(chunk('{"content":" second"}', "null") + chunk("{}", '"stop"') + b"data: [DONE]\n\n")
        return response


def chunk(delta: str, reason: str) -> bytes:
    return (
        'data: {"id":"c","object":"chat.completion.chunk","created":1,"model":"slow",'
        f'"choices":[{{"index":0,"delta":{delta},"finish_reason":{reason}}}]}}\n\n'
    ).encode()


def start_with_slow_engine(cluster: Cluster, url: str) -> None:
    static: Json = {
        "service_id": "gamma/slow",
        "kind": "chat",
        "endpoint": url,
        "assets": [{"asset_id": "slow", "loaded": True}],
    }
    cluster.start("gamma", [static])
    cluster.wait_for_model("slow")


def test_sigterm_lets_a_running_stream_finish(tmp_path: Path) -> None:
    slow = SlowEngine()
    with serving(slow.routes()) as url, running_cluster(tmp_path) as cluster:
        start_with_slow_engine(cluster, url)
        gateway = cluster.daemons["gateway"]
        with cluster.http.stream("POST", "/v1/chat/completions", json=chat_body("slow", stream=True)) as answer:
            lines = answer.iter_lines()
            assert "first" in next(lines)
            gateway.terminate()
            cluster.wait_for(lambda: cluster.http.get("/readyz").status_code == 503)
            assert_openai_error(cluster.chat("slow"), 503)
            slow.go_on.set()
            rest = [line for line in lines if line]
        assert " second" in rest[0]
        assert rest[-1] == "data: [DONE]"
        assert gateway.wait() == 0


def test_stream_that_outlives_the_drain_ends_in_an_error(tmp_path: Path) -> None:
    slow = SlowEngine()
    with serving(slow.routes()) as url, running_cluster(tmp_path, gateway={"drain_timeout_s": 0.3}) as cluster:
        start_with_slow_engine(cluster, url)
        with cluster.http.stream("POST", "/v1/chat/completions", json=chat_body("slow", stream=True)) as answer:
            lines = answer.iter_lines()
            assert "first" in next(lines)
            cluster.daemons["gateway"].terminate()
            rest = [line for line in lines if line]
        slow.go_on.set()
        assert "[DONE]" not in rest[-1]
        assert '"error"' in rest[-1]
        assert cluster.daemons["gateway"].wait() == 0
