"""The daemons as processes: what they refuse to start with, signals, readiness."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from geniehive.cli import exits
from tests.geniehive.cli.harness import PATIENCE_S, clean_environ, daemon, geniehive


@pytest.fixture
def taken_port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        yield sock.getsockname()[1]


def storage(tmp_path):
    return {"GENIEHIVE_STORAGE__URL": f"sqlite+aiosqlite:///{tmp_path}/db.sqlite3"}


def one_line(result, code):
    assert result.returncode == code, result.stderr
    said = [line for line in result.stderr.splitlines() if line.startswith("geniehive: ")]
    assert len(said) == 1, result.stderr
    assert "Traceback" not in result.stderr
    return said[0]


@pytest.mark.parametrize("name", ["control", "gateway", "node", "up"])
@pytest.mark.parametrize(
    ("text", "words"),
    [("gateway: {prot: 1}", "did you mean gateway.port?"), ("a: [", "not valid YAML"), ("gateway: 1", "expected keys")],
)
def test_a_bad_config_stops_every_daemon_with_one_line(tmp_path, name, text, words):
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    line = one_line(geniehive(name, "--config", path), 2)
    assert words in line
    assert f"{path}:1" in line


def test_a_taken_port_stops_the_control_plane(tmp_path, taken_port):
    environ = storage(tmp_path) | {"GENIEHIVE_CONTROL__LISTEN": f"127.0.0.1:{taken_port}"}
    line = one_line(geniehive("control", **environ), 2)
    assert str(taken_port) in line


def test_a_taken_port_stops_the_gateway(taken_port):
    line = one_line(geniehive("gateway", GENIEHIVE_GATEWAY__PORT=str(taken_port)), 2)
    assert str(taken_port) in line
    assert "gateway.port" in line


def test_a_cycle_of_roles_stops_the_control_plane(tmp_path):
    roles = tmp_path / "roles.yaml"
    roles.write_text("roles: [{role_id: a, routing_policy: {fallback_roles: [a]}}]")
    environ = storage(tmp_path) | {"GENIEHIVE_CONTROL__LISTEN": "127.0.0.1:0", "GENIEHIVE_ROLES_PATH": str(roles)}
    assert "a → a" in one_line(geniehive("control", **environ), 2)


def test_a_damaged_database_stops_the_control_plane_and_is_kept(tmp_path):
    database = tmp_path / "db.sqlite3"
    database.write_bytes(b"this is no database" * 100)
    environ = storage(tmp_path) | {"GENIEHIVE_CONTROL__LISTEN": "127.0.0.1:0"}
    assert "db.sqlite3" in one_line(geniehive("control", **environ), 1)
    assert database.read_bytes().startswith(b"this is no database")


@pytest.mark.parametrize(
    ("name", "environ", "words"),
    [
        ("gateway", {"GENIEHIVE_GATEWAY__HOST": "0.0.0.0"}, "auth.client_api_keys is empty"),
        (
            "control",
            {"GENIEHIVE_CONTROL__LISTEN": "0.0.0.0:0", "GENIEHIVE_CONTROL__TLS": "off"},
            "control.tls is off: let it be on",
        ),
        ("up", {"GENIEHIVE_GATEWAY__HOST": "0.0.0.0"}, "auth.client_api_keys is empty"),
    ],
)
def test_an_open_door_is_refused(name, environ, words):
    line = one_line(geniehive(name, **environ), 2)
    assert words in line
    assert "--insecure" in line


def test_a_fenced_node_ends_with_a_code_that_the_documented_unit_does_not_restart(tmp_path):
    with contextlib.ExitStack() as stack:
        control = stack.enter_context(daemon("control", GENIEHIVE_CONTROL__LISTEN="127.0.0.1:0", **storage(tmp_path)))
        first, _ = [
            stack.enter_context(
                daemon(
                    "node",
                    GENIEHIVE_CONTROL_PLANE__ADDRESS=control.where,
                    GENIEHIVE_NODE__HOST_ID="atlas",
                    GENIEHIVE_NODE__STATE_DIR=str(tmp_path / machine),
                    GENIEHIVE_NODE__STATUS_PORT="0",
                    GENIEHIVE_NODE__DISCOVER="false",
                )
            )
            for machine in ("one", "two")
        ]
        code = first.process.wait(PATIENCE_S)
        (line,) = [line for line in first.process.stdout if line.startswith("geniehive: ")]
    assert "another agent speaks for host 'atlas'" in line
    assert "node.host_id" in line
    unit = Path("docs/install.md").read_text(encoding="utf-8")
    prevented = re.search(r"^RestartPreventExitStatus=(.*)$", unit, re.MULTILINE)[1].split()
    assert code == exits.FENCED
    assert str(code) in prevented
    assert str(exits.USAGE) in prevented


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_daemon_cleanly(tmp_path, number):
    with daemon("control", GENIEHIVE_CONTROL__LISTEN="127.0.0.1:0", **storage(tmp_path)) as control:
        control.signal(number)
        assert control.process.wait(PATIENCE_S) == 0


def test_a_hangup_ends_a_daemon_that_has_nothing_to_read_again():
    with daemon("gateway", GENIEHIVE_GATEWAY__PORT="0") as gateway:
        gateway.signal(signal.SIGHUP)
        assert gateway.process.wait(PATIENCE_S) == 0


def test_a_hangup_makes_the_control_plane_read_its_roles_again(tmp_path):
    roles = tmp_path / "roles.yaml"
    roles.write_text("roles: [{role_id: coder}]")
    environ = storage(tmp_path) | {"GENIEHIVE_CONTROL__LISTEN": "127.0.0.1:0", "GENIEHIVE_ROLES_PATH": str(roles)}
    with daemon("control", **environ) as control:
        for _ in range(2):
            control.signal(signal.SIGHUP)
            assert any("roles were read again: 0 changed" in line for line in control.process.stdout)
        control.signal(signal.SIGTERM)
        assert control.process.wait(PATIENCE_S) == 0


def test_a_daemon_says_where_it_listens_and_tells_systemd(tmp_path):
    path = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(path))
        sock.settimeout(PATIENCE_S)
        environ = storage(tmp_path) | {"NOTIFY_SOCKET": str(path), "WATCHDOG_USEC": "200000"}
        with daemon("control", GENIEHIVE_CONTROL__LISTEN="127.0.0.1:0", **environ) as control:
            assert control.where.startswith("127.0.0.1:")
            assert not control.where.endswith(":0")
            awaited = {b"READY=1", b"WATCHDOG=1"}
            while awaited:  # the socket's time-out ends a wait in vain
                awaited.discard(sock.recv(100))
            control.signal(signal.SIGTERM)
            while sock.recv(100) != b"STOPPING=1":
                pass
            assert control.process.wait(PATIENCE_S) == 0


def test_a_supervised_daemon_ignores_ctrl_c_and_follows_its_parent(tmp_path):
    """The parent is a shell that we kill -9; the daemon's exit closes the pipe that we read."""
    script = f"{sys.executable} -m geniehive.cli control --parent-pid $$ --ready-fd 1 2>&1 & echo pid $!; wait"
    environ = clean_environ(GENIEHIVE_CONTROL__LISTEN="127.0.0.1:0", **storage(tmp_path))
    parent = subprocess.Popen(["/bin/sh", "-c", script], stdout=subprocess.PIPE, text=True, env=environ)
    child = 0
    for line in parent.stdout:
        if line.startswith("pid "):
            child = int(line.split()[1])
        if line.startswith("127.0.0.1:"):
            break
    os.kill(child, signal.SIGINT)
    parent.kill()
    parent.wait(PATIENCE_S)
    ended = threading.Thread(target=parent.stdout.read)
    ended.start()
    ended.join(PATIENCE_S)
    assert not ended.is_alive(), "the daemon outlives its parent"
    parent.stdout.close()
