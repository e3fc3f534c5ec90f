"""A control plane with mTLS as a real daemon, and whatever is pasted from it on "other hosts": folders of their own."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import httpx

from geniehive import codec
from geniehive.membership import Membership
from geniehive.v1 import cluster_service_pb2, cluster_service_pb2_grpc
from tests.integration.daemons import Daemon, clean_environ, cli, eventually, geniehive, listening
from tests.ports import free_port

Json = dict[str, Any]


class Hub:
    """`geniehive control` in a folder; `paste` is what an operator does on another host."""

    def __init__(self, folder: Path, **control: Any) -> None:
        self.folder = folder
        port = free_port()
        self.port = port
        self.address = f"127.0.0.1:{port}"
        self.daemons: dict[str, Daemon] = {}
        listen = {"listen": self.address, "tls": "on", "lease_ttl_s": 30, "heartbeat_interval_s": 0.3}
        self.home = self._home("hub")
        self.write("hub", {"control": {**listen, **control}})

    def _home(self, host: str) -> Path:
        home = self.folder / host
        home.mkdir(exist_ok=True)
        return home

    def write(self, host: str, config: Json) -> Path:
        path = self._home(host) / "config.yaml"
        path.write_text(json.dumps(config))
        return path

    def start(self) -> None:
        """The control plane, once its port is open."""
        if "hub" in self.daemons:
            self.daemons["hub"].start()
        else:
            self.daemons["hub"] = self._daemon("hub", "control", "--config", "config.yaml").start()
        eventually(lambda: listening(self.port), logs=self.tails)

    def _daemon(self, host: str, *arguments: str) -> Daemon:
        home = self._home(host)
        return Daemon(argv=cli(*arguments), log_path=self.folder / f"{host}.log", cwd=home, environ=self.environ(host))

    def environ(self, host: str) -> dict[str, str]:
        """Each host has a home of its own."""
        return clean_environ(HOME=str(self._home(host)))

    def ask(self, *arguments: str, host: str = "hub") -> str:
        """A command on a host that has to do well; what it printed."""
        done = self.tell(*arguments, host=host)
        assert done.returncode == 0, done.stderr + self.tails()
        return done.stdout

    def tell(self, *arguments: str, host: str = "hub"):
        """A command on a host, with its config if it has one."""
        home = self._home(host)
        environ = self.environ(host)
        if (home / "config.yaml").exists():
            environ["GENIEHIVE_CONFIG"] = "config.yaml"
        return geniehive(*arguments, cwd=home, environ=environ)

    def line(self, *options: str) -> list[str]:
        """The line to paste, as its words after `geniehive`."""
        printed = self.ask("token", "create", "--join", *options)
        assert printed.count("\n") == 1
        words = shlex.split(printed)
        assert words[0] == "geniehive"
        return words[1:]

    def paste(self, host: str, line: list[str], config: Json) -> Daemon:
        """Run a pasted line as a daemon on a host."""
        self.write(host, config)
        self.daemons[host] = self._daemon(host, *line, "--config", "config.yaml").start()
        return self.daemons[host]

    def join_node(self, host: str, services: list[Json] | None = None) -> int:
        """A joined host; the port of its status page, once it answers."""
        port = free_port()
        node = {"discover": False, "status_port": port}
        self.paste(host, [*self.line("--host-id", host)], {"node": node, "services": services or []})
        eventually(lambda: httpx.get(f"http://127.0.0.1:{port}/healthz", trust_env=False).is_success, logs=self.tails)
        return port

    def join_gateway(self, host: str, **gateway: Any) -> int:
        """A joined gateway; its port, once somebody listens there."""
        port = free_port()
        self.paste(host, self.line("--kind", "gateway"), {"gateway": {"port": port, **gateway}})
        eventually(lambda: listening(port), logs=self.tails)
        return port

    def hosts(self) -> dict[str, str]:
        """Leases, by host: asked as the local administrator, without a process for each question."""
        shown = Membership(self.home / "state/admin-identity").credentials()
        assert shown is not None
        credentials = grpc.ssl_channel_credentials(shown.ca_pem, shown.key_pem, shown.chain_pem)
        options = [("grpc.ssl_target_name_override", shown.server_name), ("grpc.use_local_subchannel_pool", 1)]
        with grpc.secure_channel(self.address, credentials, options=options) as channel:
            stub = cluster_service_pb2_grpc.ClusterServiceStub(channel)
            found = stub.ListHosts(cluster_service_pb2.ListHostsRequest(), timeout=20).hosts
        return {host.host_id: codec.host_from_pb(host).lease.value for host in found}

    def tails(self) -> str:
        return "\n".join(daemon.tail() for daemon in self.daemons.values())

    def stop(self) -> None:
        running = [daemon for daemon in self.daemons.values() if daemon.running]
        try:
            for daemon in running:
                daemon.terminate()
            for daemon in running:
                assert daemon.wait() == 0, daemon.tail()
            for daemon in self.daemons.values():
                assert "Traceback" not in daemon.log(), daemon.tail()
        finally:
            for daemon in running:
                daemon.kill()


@contextmanager
def running_hub(folder: Path, **control: Any) -> Iterator[Hub]:
    hub = Hub(folder, **control)
    try:
        hub.start()
        yield hub
    except BaseException:
        print(hub.tails())  # noqa: T201 - pytest shows it with the failure
        for daemon in hub.daemons.values():
            daemon.kill()
        raise
    hub.stop()
