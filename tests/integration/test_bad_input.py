"""What a user may get wrong: one clear line that says what to do, and a non-zero exit where nothing can start."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from geniehive.v1 import cluster_service_pb2
from tests.integration.cluster import Cluster, Json, running_cluster
from tests.integration.daemons import Daemon, clean_environ, complaint, eventually, geniehive, listening
from tests.ports import free_port, free_ports

DAEMONS = ("control", "gateway", "node")
USAGE, UNREACHABLE, REFUSED = 2, 3, 4


def write(folder: Path, config: Json) -> str:
    path = folder / "geniehive.yaml"
    path.write_text(json.dumps(config))
    return str(path)


def defaults(folder: Path) -> Json:
    """A config on free ports, with its state in the folder."""
    gateway, control, status = free_ports(3)
    return {
        "gateway": {"port": gateway},
        "control": {"listen": f"127.0.0.1:{control}"},
        "control_plane": {"address": f"127.0.0.1:{control}"},
        "storage": {"url": f"sqlite+aiosqlite:///{folder}/geniehive.sqlite3"},
        "node": {"status_port": status, "discover": False, "state_dir": str(folder / "state"), "host_id": "alpha"},
    }


def refused(folder: Path, *arguments: str, code: int | None = None) -> str:
    """The complaint of a command that has to fail, with a code if only one will do."""
    done = geniehive(*arguments, cwd=folder)
    assert done.returncode == code if code is not None else done.returncode != 0, (done.returncode, done.stderr)
    assert done.stdout == ""
    return complaint(done.stderr)


@pytest.mark.parametrize("daemon", DAEMONS)
def test_unknown_key_names_the_nearest_known_one(tmp_path: Path, daemon: str) -> None:
    (tmp_path / "bad.yaml").write_text("gateway:\n  host: 127.0.0.1\n  prot: 8800\n")
    line = refused(tmp_path, daemon, "--config", "bad.yaml", code=USAGE)
    assert "bad.yaml:3" in line
    assert "gateway.prot" in line
    assert "gateway.port" in line


@pytest.mark.parametrize("daemon", DAEMONS)
def test_bad_yaml_is_told_with_its_line(tmp_path: Path, daemon: str) -> None:
    (tmp_path / "bad.yaml").write_text("gateway:\n  host: 127.0.0.1\n port: [8800\n")
    assert "bad.yaml:" in refused(tmp_path, daemon, "--config", "bad.yaml", code=USAGE)


@pytest.mark.parametrize("daemon", [*DAEMONS, "up"])
def test_missing_file_is_told(tmp_path: Path, daemon: str) -> None:
    assert "nowhere.yaml" in refused(tmp_path, daemon, "--config", "nowhere.yaml", code=USAGE)


def test_wrong_environment_variable_is_told(tmp_path: Path) -> None:
    done = geniehive("gateway", cwd=tmp_path, environ=clean_environ(GENIEHIVE_GATEWAY__PORT="many"))
    assert done.returncode == USAGE
    assert "GENIEHIVE_GATEWAY__PORT" in complaint(done.stderr)


@contextlib.contextmanager
def occupied() -> Iterator[int]:
    """A port that somebody listens on."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen(1)
        yield sock.getsockname()[1]


@pytest.mark.parametrize("daemon", DAEMONS)
def test_port_in_use_is_told(tmp_path: Path, daemon: str) -> None:
    config = defaults(tmp_path)
    with occupied() as port:
        config["gateway"]["port"] = config["node"]["status_port"] = port
        config["control"]["listen"] = f"127.0.0.1:{port}"
        line = refused(tmp_path, daemon, "--config", write(tmp_path, config))
    assert str(port) in line
    assert "in use" in line


def test_port_in_use_is_told_by_up(tmp_path: Path) -> None:
    with occupied() as port:
        line = refused(tmp_path, "up", "--port", str(port), "--state-dir", str(tmp_path / "s"), code=USAGE)
    assert f"port {port}" in line


def test_open_doors_are_refused(tmp_path: Path) -> None:
    config = defaults(tmp_path)
    config["gateway"]["host"] = "0.0.0.0"
    line = refused(tmp_path, "gateway", "--config", write(tmp_path, config), code=USAGE)
    assert "auth.client_api_keys" in line
    assert "--insecure" in line


def test_cycle_of_roles_is_shown(tmp_path: Path) -> None:
    config = defaults(tmp_path)
    config["roles_path"] = str(tmp_path / "roles.yaml")
    names = ("plan", "write", "check")
    roles = [
        {"role_id": name, "routing_policy": {"fallback_roles": [names[(index + 1) % 3]]}}
        for index, name in enumerate(names)
    ]
    (tmp_path / "roles.yaml").write_text(json.dumps({"roles": roles}))
    line = refused(tmp_path, "control", "--config", write(tmp_path, config), code=USAGE)
    assert "roles.yaml" in line
    assert "plan → write → check → plan" in line


def test_damaged_database_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    damaged = b"SQLite format 3\0" + b"nonsense" * 1000
    (tmp_path / "geniehive.sqlite3").write_bytes(damaged)
    line = refused(tmp_path, "control", "--config", write(tmp_path, defaults(tmp_path)))
    assert "geniehive.sqlite3" in line
    assert (tmp_path / "geniehive.sqlite3").read_bytes() == damaged


@pytest.mark.parametrize("command", [("ps",), ("nodes",), ("models",), ("roles",), ("services",)])
def test_commands_say_that_the_control_plane_is_not_there(tmp_path: Path, command: tuple[str, ...]) -> None:
    port = free_port()
    line = refused(tmp_path, *command, "--control", f"127.0.0.1:{port}", code=UNREACHABLE)
    assert f"127.0.0.1:{port}" in line
    assert "geniehive" in line


class Deaf:
    """Something at the control plane's address that hangs up on everybody, and counts them."""

    def __init__(self, port: int) -> None:
        self.turned_away = 0
        self._sock = socket.create_server(("127.0.0.1", port))
        self._thread = threading.Thread(target=self._hang_up)
        self._thread.start()

    def _hang_up(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                self._sock.accept()[0].close()
                self.turned_away += 1

    def close(self) -> None:
        self._sock.shutdown(socket.SHUT_RDWR)
        self._sock.close()
        self._thread.join()


@pytest.mark.parametrize("daemon", ["gateway", "node"])
def test_unreachable_control_plane_is_told_once_and_tried_again(tmp_path: Path, daemon: str) -> None:
    with running_cluster(tmp_path) as cluster:
        with contextlib.closing(Deaf(cluster.control_port)) as deaf:
            process = start(cluster, daemon)
            cluster.wait_for(lambda: deaf.turned_away > 3)
            cluster.wait_for(lambda: lines_about(process, cluster.address))
        assert len(lines_about(process, cluster.address)) == 1, process.log()
        cluster.start_control()
        cluster.wait_for(lambda: connected(cluster, daemon))
        assert process.running


def start(cluster: Cluster, daemon: str) -> Daemon:
    return cluster.start_gateway(ready=False) if daemon == "gateway" else cluster.start_node("alpha", [])


def connected(cluster: Cluster, daemon: str) -> bool:
    if daemon == "gateway":
        return bool(cluster.http.get("/readyz").status_code == 200)
    answer = cluster.operator().ListHosts(cluster_service_pb2.ListHostsRequest(), timeout=20)
    return [host.host_id for host in answer.hosts] == ["alpha"]


def lines_about(process: Daemon, word: str) -> list[str]:
    """The lines of a log, warnings and worse, that have a word in them."""
    return [line for line in process.log().splitlines() if word in line and " info " not in line[:40]]


@pytest.mark.parametrize("daemon", ["gateway", "node"])
def test_wrong_node_key_is_told_once(tmp_path: Path, daemon: str) -> None:
    auth = {"node_api_keys": ["good-key"], "admin_api_keys": ["admin-key"]}
    with running_cluster(tmp_path, auth=auth) as cluster:
        cluster.start_control()
        cluster.node_key = "wrong-key"
        process = start(cluster, daemon)
        (line,) = cluster.wait_for(lambda: lines_about(process, "node_api_key"))
        assert "wrong-key" not in process.log()
        assert "Traceback" not in line


def test_wrong_key_of_a_command_is_told(tmp_path: Path) -> None:
    auth = {"node_api_keys": ["good-key"], "admin_api_keys": ["admin-key"]}
    with running_cluster(tmp_path, auth=auth) as cluster:
        cluster.start_control()
        for key in ("wrong-key", ""):
            line = refused(tmp_path, "ps", "--control", cluster.address, "--api-key", key, code=REFUSED)
            assert "GENIEHIVE_API_KEY" in line
            assert "wrong-key" not in line


def test_nothing_listens_after_a_refusal(tmp_path: Path) -> None:
    config = defaults(tmp_path)
    config["node"]["heartbeat_interval"] = 5
    refused(tmp_path, "node", "--config", write(tmp_path, config), code=USAGE)
    eventually(lambda: not listening(config["node"]["status_port"]))
