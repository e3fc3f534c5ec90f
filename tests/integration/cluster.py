"""A cluster of real daemons: `geniehive control`, `gateway` and `node`, each with a config file of its own.

Heartbeats are quick (0.3 s). Leases are short (2.5 s) where a test asks for `QUICK`, to see them end; otherwise they
are long, so that a busy machine cannot make a host stale that no test killed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import httpx
import openai
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from geniehive.dial import metadata
from geniehive.v1 import cluster_service_pb2_grpc
from tests.integration.daemons import DEADLINE_S, Daemon, clean_environ, cli, eventually
from tests.ports import free_port, free_ports

Json = dict[str, Any]
QUICK: Json = {"lease_ttl_s": 2.5, "heartbeat_interval_s": 0.3}
_CALM: Json = {"lease_ttl_s": 30, "lease_grace_s": 30, "heartbeat_interval_s": 0.3}
KEYS: Json = {"client_api_keys": ["client-1", "client-2"], "node_api_keys": ["node-1"], "admin_api_keys": ["admin-1"]}


class Cluster:
    """Daemons that know each other. Sections given here are merged over the defaults of every config."""

    def __init__(self, folder: Path, **sections: Json) -> None:
        self.folder = folder
        self.gateway_port, self.control_port = free_ports(2)
        self.url = f"http://127.0.0.1:{self.gateway_port}"
        self.address = f"127.0.0.1:{self.control_port}"
        self.daemons: dict[str, Daemon] = {}
        self.sections = sections
        self.arguments: tuple[str, ...] = ()
        """More of the command line of each daemon."""
        auth = sections.get("auth", {})
        self.client_key = next(iter(auth.get("client_api_keys", [])), "")
        self.node_key = next(iter(auth.get("node_api_keys", [])), "")
        self.admin_key = next(iter(auth.get("admin_api_keys", [])), "")
        headers = {"authorization": f"Bearer {self.client_key}"} if self.client_key else {}
        self.http = httpx.Client(base_url=self.url, trust_env=False, timeout=20, headers=headers)
        self._channel: grpc.Channel | None = None

    # --- daemons ---------------------------------------------------------------------------------

    def start(self, host_id: str, services: list[Json], **node: Any) -> None:
        """All three at once, in no order, as after a power cut; with one node agent."""
        self._start("control", "control", {})
        self._start("gateway", "gateway", {})
        self.start_node(host_id, services, **node)
        self.start_control()
        self.start_gateway()

    def start_control(self) -> Daemon:
        """The control plane, once its health check says SERVING."""
        daemon = self._start("control", "control", {})
        self._wait_for_start(daemon, self.serving)
        return daemon

    def start_gateway(self, *, ready: bool = True) -> Daemon:
        """The gateway, once it is ready, or merely alive."""
        daemon = self._start("gateway", "gateway", {})
        self._wait_for_start(daemon, lambda: self.http.get("/readyz" if ready else "/healthz").status_code == 200)
        return daemon

    def start_node(self, host_id: str, services: list[Json], *, name: str = "", **node: Any) -> Daemon:
        """A node agent, once its status page answers. Discovery is off: this machine may have engines of its own."""
        name = name or host_id
        status_port = free_port()
        own = {
            "host_id": host_id,
            "discover": False,
            "status_port": status_port,
            "state_dir": str(self.folder / f"state-{name}"),
            **node,
        }
        daemon = self._start(name, "node", {"node": own, "services": services})
        status = f"http://127.0.0.1:{status_port}/healthz"
        self._wait_for_start(daemon, lambda: httpx.get(status, trust_env=False).status_code == 200)
        return daemon

    def restart(self, name: str) -> Daemon:
        """Start a daemon again that has ended."""
        return self.daemons[name].start()

    def stop(self) -> None:
        """End all daemons, as an operator would; each has to end well, and none may have shown a traceback."""
        try:
            running = [daemon for daemon in self.daemons.values() if daemon.running]
            for daemon in running:
                daemon.terminate()
            for daemon in running:
                code = daemon.wait()
                assert code == 0, f"exit code {code}\n{daemon.tail()}"
            for daemon in self.daemons.values():
                lines = daemon.log().splitlines()
                assert not [line for line in lines if "Traceback" in line and " debug " not in line], daemon.tail()
        finally:
            self.kill()

    def kill(self) -> None:
        """End all daemons at once."""
        for daemon in self.daemons.values():
            daemon.kill()
        self.http.close()
        if self._channel is not None:
            self._channel.close()

    def _start(self, name: str, command: str, sections: Json) -> Daemon:
        if name in self.daemons:
            known = self.daemons[name]
            return known if known.running else known.start()
        path = self.folder / f"{name}.yaml"
        path.write_text(json.dumps(self.config(sections), indent=1))
        self.daemons[name] = Daemon(
            argv=cli(command, "--config", str(path), *self.arguments),
            log_path=self.folder / f"{name}.log",
            cwd=self.folder,
            environ=clean_environ(HOME=str(self.folder)),
        )
        return self.daemons[name].start()

    def _wait_for_start(self, daemon: Daemon, ask: Callable[[], bool]) -> None:
        def started() -> bool:
            if not daemon.running:
                pytest.fail(f"it ended with exit code {daemon.wait()}\n{daemon.tail()}")
            return ask()

        self.wait_for(started)

    def config(self, sections: Json) -> Json:
        """The whole config of one daemon."""
        config: Json = {
            "gateway": {"port": self.gateway_port},
            "control": {"listen": self.address, **_CALM},
            "control_plane": {"address": self.address, "node_api_key": self.node_key},
            "storage": {"url": f"sqlite+aiosqlite:///{self.folder}/geniehive.sqlite3"},
        }
        for given in (self.sections, sections):
            for key, value in given.items():
                config[key] = {**config.get(key, {}), **value} if isinstance(value, dict) else value
        return config

    # --- questions -------------------------------------------------------------------------------

    def wait_for(self, ask: Any, *, within: float = DEADLINE_S) -> Any:
        """See `eventually`; a failure shows the logs."""
        return eventually(ask, within=within, logs=self.tails)

    def tails(self) -> str:
        """The ends of all logs."""
        return "\n".join(daemon.tail() for daemon in self.daemons.values())

    @property
    def channel(self) -> grpc.Channel:
        """A channel to the control plane, which reconnects quickly."""
        if self._channel is None:
            options = [("grpc.max_reconnect_backoff_ms", 100), ("grpc.use_local_subchannel_pool", 1)]
            self._channel = grpc.insecure_channel(self.address, options=options)
        return self._channel

    @property
    def credentials(self) -> tuple[tuple[str, str], ...]:
        """Metadata of an operator's call."""
        return metadata(admin_key=self.admin_key)

    def operator(self) -> Any:
        """ClusterService."""
        return cluster_service_pb2_grpc.ClusterServiceStub(self.channel)

    def serving(self) -> bool:
        """Whether the control plane's health check says SERVING."""
        try:
            answer = health_pb2_grpc.HealthStub(self.channel).Check(health_pb2.HealthCheckRequest(), timeout=5)
        except grpc.RpcError:
            return False
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)

    def model(self, name: str) -> Json:
        """An entry of /v1/models."""
        answer = self.http.get(f"/v1/models/{name}")
        assert answer.status_code == 200, answer.text
        return answer.json()

    def model_status(self, name: str) -> Json:
        """Its status."""
        return self.model(name)["status"]

    def wait_for_model(self, name: str) -> Json:
        """The entry of /v1/models, once the model can answer."""
        self.wait_for(lambda: self.model_status(name)["value"] in {"loaded", "unloaded"})
        return self.model(name)

    def health(self) -> Json:
        """/v1/cluster/health."""
        return self.http.get("/v1/cluster/health").raise_for_status().json()

    def host(self, host_id: str) -> Json:
        """/v1/cluster/hosts/{host_id}."""
        return self.http.get(f"/v1/cluster/hosts/{host_id}").raise_for_status().json()

    def chat(self, model: str, **body: Any) -> httpx.Response:
        """A short plain chat."""
        return self.http.post("/v1/chat/completions", json=chat_body(model, **body))

    def openai(self, **options: Any) -> openai.OpenAI:
        """The SDK, with the client's key and without retries of its own."""
        return openai.OpenAI(
            base_url=f"{self.url}/v1", api_key=self.client_key or "unused", max_retries=0,
            http_client=httpx.Client(trust_env=False), **options,
        )  # fmt: skip

    def openai_async(self) -> openai.AsyncOpenAI:
        """The SDK's asynchronous client."""
        return openai.AsyncOpenAI(
            base_url=f"{self.url}/v1", api_key=self.client_key or "unused", max_retries=0,
            http_client=httpx.AsyncClient(trust_env=False),
        )  # fmt: skip


def chat_body(model: str, **body: Any) -> Json:
    """A chat request of eight tokens."""
    return {"model": model, "messages": [{"role": "user", "content": "Say hello."}], "max_tokens": 8, **body}


def service(service_id: str, endpoint: str, **more: Any) -> Json:
    """A service of a config whose engine is asked what it serves."""
    return {"service_id": service_id, "endpoint": endpoint, "discover_protocol": "auto", **more}


@contextmanager
def running_cluster(folder: Path, **sections: Json) -> Iterator[Cluster]:
    """A cluster without any daemon yet; all that were started have ended well afterwards."""
    cluster = Cluster(folder, **sections)
    try:
        yield cluster
    except BaseException:
        print(cluster.tails())  # noqa: T201 - pytest shows it with the failure
        cluster.kill()
        raise
    cluster.stop()
