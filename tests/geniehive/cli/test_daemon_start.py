"""The short way to a daemon: it reads what the command would read, and leaves the rest to it."""

import subprocess
import sys
from pathlib import Path

import pytest
import typer.main

from geniehive.cli import commands, daemon_run, daemon_start
from geniehive.cli.daemon_start import Start, plain
from geniehive.cli.log_level import LogLevel

LINES = [
    [],
    ["--config", "a.yaml"],
    ["--config=a.yaml"],
    ["-c", "a.yaml", "-c", "b.yaml"],
    ["--log-level", "warning", "--log-json"],
    ["--log-level=debug", "--parent-pid", "7", "--ready-fd=5"],
    ["--insecure", "--config", "a b.yaml"],
]
NOT_PLAIN = [
    ["--help"],
    ["-h"],
    ["join", "host:1", "token"],
    ["--config"],
    ["--config", "--log-json"],
    ["-c=a.yaml"],
    ["-ca.yaml"],
    ["--log-level", "loud"],
    ["--log-level"],
    ["--parent-pid", "me"],
    ["--log-json=1"],
    ["--conf", "a.yaml"],
    ["a.yaml"],
    ["--"],
]


@pytest.fixture
def by_the_command(monkeypatch):
    """What the command of the command line starts."""

    def start(arguments):
        started = []
        monkeypatch.setattr(daemon_run, "run", started.append)
        commands.app(arguments, standalone_mode=False)
        return started[0]

    return start


@pytest.mark.parametrize("daemon", daemon_start.DAEMONS)
@pytest.mark.parametrize("line", LINES, ids=" ".join)
@pytest.mark.parametrize("environ", [{}, {"GENIEHIVE_CONFIG": "c.yaml"}, {"GENIEHIVE_CONFIG": ""}], ids=str)
def test_a_plain_line_starts_what_the_command_would(by_the_command, monkeypatch, daemon, line, environ):
    if daemon == "node" and "--insecure" in line:
        assert plain([daemon, *line], environ) is None
        return
    monkeypatch.delenv("GENIEHIVE_CONFIG", raising=False)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    assert plain([daemon, *line], environ) == by_the_command([daemon, *line])


@pytest.mark.parametrize("line", NOT_PLAIN, ids=" ".join)
def test_what_is_not_plain_is_left_to_the_commands(line):
    assert plain(["gateway", *line], {}) is None


@pytest.mark.parametrize("arguments", [[], ["up"], ["nodes", "-o", "json"], ["--config", "a", "gateway"]], ids=" ".join)
def test_other_commands_are_left_to_the_commands(arguments):
    assert plain(arguments, {}) is None


def test_every_option_of_the_daemons_is_read():
    for daemon in daemon_start.DAEMONS:
        options = {
            name
            for each in typer.main.get_command(commands.app).commands[daemon].params
            for name in each.opts
            if name not in {"--help", "-h"}
        }
        assert options == (daemon_start.FLAGS.keys() | daemon_start.VALUES.keys()) - (
            {"--insecure"} if daemon == "node" else set()
        )


def test_the_fields_are_what_was_said():
    line = ["gateway", "--insecure", "--config", "a", "--log-level", "error", "--log-json", "--parent-pid", "2"]
    assert plain([*line, "--ready-fd", "3"], {"GENIEHIVE_CONFIG": "b"}) == Start(
        daemon="gateway",
        config=Path("a"),
        insecure=True,
        log_level=LogLevel.ERROR,
        log_json=True,
        parent_pid=2,
        ready_fd=3,
    )


def test_a_daemon_loads_no_command_line(tmp_path):
    config = tmp_path / "bad.yaml"
    config.write_text("gateway: {port: x}")
    code = (
        "import sys, atexit\n"
        "atexit.register(lambda: print([m for m in ('typer', 'click', 'rich', 'pydantic') if m in sys.modules]))\n"
        f"sys.argv = ['geniehive', 'gateway', '--config', {str(config)!r}]\n"
        "from geniehive.cli.main import main\n"
        "main()"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 2, result.stderr
    assert result.stdout.strip() == "[]"
