"""Two hosts as two network namespaces with a cable between them: what is pasted on the second one makes it a node.

It takes the right to make network namespaces (root, and iproute2), which many machines and containers do not give.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.integration.daemons import Daemon, clean_environ, cli, eventually
from tests.integration.test_mtls import MODEL, body

HUB, ATLAS = "10.77.7.1", "10.77.7.2"
CONTROL = f"{HUB}:8801"
ENGINE = """
import asyncio
from aiohttp import web
from tests.integration.test_mtls import models, talk

async def main():
    app = web.Application()
    app.add_routes([web.get("/v1/models", models), web.post("/v1/chat/completions", talk)])
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "0.0.0.0", 9001).start()
    await asyncio.Event().wait()

asyncio.run(main())
"""


def ip(*arguments: str) -> None:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise PermissionError(done.stderr.strip())


@dataclass
class Host:
    """A network namespace with a folder: a machine, as far as the network goes."""

    name: str
    folder: Path
    daemons: list[Daemon] = field(default_factory=list)

    @property
    def within(self) -> list[str]:
        return ["ip", "netns", "exec", self.name]

    @property
    def environ(self) -> dict[str, str]:
        return clean_environ(HOME=str(self.folder))

    def start(self, argv: list[str]) -> Daemon:
        log = self.folder / f"{len(self.daemons)}.log"
        self.daemons.append(Daemon(argv=[*self.within, *argv], log_path=log, cwd=self.folder, environ=self.environ))
        return self.daemons[-1].start()

    def run(self, *arguments: str) -> str:
        done = subprocess.run(
            [*self.within, *cli(*arguments)], cwd=self.folder, env=self.environ, capture_output=True, text=True,
            timeout=30, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture
def two_hosts(tmp_path: Path) -> Iterator[tuple[Host, Host]]:
    if shutil.which("ip") is None:
        pytest.skip("two hosts need the program ip (iproute2)")
    tag = f"gh{os.getpid() % 100_000}"
    names = (f"{tag}a", f"{tag}b")
    with contextlib.ExitStack() as cleanup:
        try:
            for name in names:
                ip("netns", "add", name)
                cleanup.callback(subprocess.run, ["ip", "netns", "del", name], check=False)
            ip("link", "add", names[0], "netns", names[0], "type", "veth", "peer", "name", names[1], "netns", names[1])
            for name, address in zip(names, (HUB, ATLAS), strict=True):
                ip("-n", name, "addr", "add", f"{address}/24", "dev", name)
                ip("-n", name, "link", "set", name, "up")
                ip("-n", name, "link", "set", "lo", "up")
        except PermissionError as error:
            pytest.skip(f"this machine gives no network namespaces: {error}")
        hosts = []
        for name in names:
            (tmp_path / name).mkdir()
            hosts.append(Host(name, tmp_path / name))
        try:
            yield hosts[0], hosts[1]
        finally:
            for host in hosts:
                for daemon in host.daemons:
                    print(daemon.tail())  # noqa: T201 - pytest shows it with a failure
                    daemon.kill()


def test_two_machines_become_a_cluster_by_two_pasted_commands(two_hosts: tuple[Host, Host]) -> None:
    hub, atlas = two_hosts
    environ = {"control": {"listen": CONTROL}, "gateway": {"port": 8800}}
    (hub.folder / "hub.yaml").write_text(json.dumps(environ))
    control = hub.start(cli("control", "--config", "hub.yaml"))
    eventually(lambda: "control is ready" in control.log())
    line = hub.run("token", "create", "--join", "--config", "hub.yaml").split()
    assert line[:4] == ["geniehive", "node", "join", CONTROL]
    engine = [*cli("x")[:1], "-c", ENGINE]
    atlas.start(engine)
    service = {"service_id": "atlas/chat", "endpoint": f"http://{ATLAS}:9001", "kind": "chat"}
    config = {"node": {"discover": False, "host_id": "atlas"}, "services": [{**service, "discover_protocol": "openai"}]}
    (atlas.folder / "atlas.yaml").write_text(json.dumps(config))
    node = atlas.start(cli(*line[1:], "--config", "atlas.yaml"))
    eventually(lambda: "connected to the control plane" in node.log())
    hosts = json.loads(hub.run("nodes", "--config", "hub.yaml", "-o", "json"))
    assert [(host["host_id"], host["address"]) for host in hosts] == [("atlas", ATLAS)]
    front = hub.run("token", "create", "--join", "--kind", "gateway", "--config", "hub.yaml").split()
    gateway = hub.start(cli(*front[1:], "--config", "hub.yaml"))
    eventually(lambda: "routing by snapshot" in gateway.log())
    # A chat on the first machine, answered by the engine of the second.
    ask = ["curl", "-s", "-m", "10", "http://127.0.0.1:8800/v1/chat/completions", "-d", json.dumps(body(stream=False)),
           "-H", "content-type: application/json"]  # fmt: skip

    def answered() -> bool:
        done = subprocess.run([*hub.within, *ask], capture_output=True, text=True, check=False)
        return json.loads(done.stdout)["choices"][0]["message"]["content"] == "yes"

    def patient() -> bool:
        try:
            return answered()
        except (ValueError, LookupError):
            return False

    eventually(patient)
    assert MODEL in hub.run("models", "--config", "hub.yaml")
