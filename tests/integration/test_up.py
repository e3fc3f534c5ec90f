"""`geniehive up`: one command on a fresh machine, and nothing left of it afterwards."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import openai
import psutil
import pytest

from nodeagent.embedded.tiny_model import ALIAS, write_tiny_model
from nodeagent.parentage import guarded
from tests.integration.daemons import (
    DEADLINE_S,
    clean_environ,
    cli,
    complaint,
    eventually,
    geniehive,
    listening,
)
from tests.ports import free_port, free_run

USAGE = 2
_LAST_LINE = "Ctrl-C ends everything."


class Up:
    """A running `geniehive up`, first of its own process group, as a shell starts it."""

    def __init__(self, folder: Path, *, discover_port: int | None = None) -> None:
        self.folder = folder
        self.port = free_run(3)
        engine_port = discover_port or free_port()
        self.environ = clean_environ(
            HOME=str(folder),
            XDG_STATE_HOME=str(folder / "state"),
            XDG_CACHE_HOME=str(folder / "cache"),
            GENIEHIVE_NODE__DISCOVER_PORTS=f"[{engine_port}]",
            GENIEHIVE_NODE__HOST_ID="here",
        )
        self._seen: list[psutil.Process] = []
        self._out = folder / "up.out"
        with self._out.open("wb") as out:
            self.process = subprocess.Popen(
                guarded(cli("up", "--port", str(self.port)), os.getpid()), cwd=folder, env=self.environ,
                stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True,
            )  # fmt: skip

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def said(self) -> str:
        return self._out.read_text()

    def wait_until_up(self) -> str:
        """All that it printed until it was up."""

        def up() -> bool:
            if self.process.poll() is not None:
                pytest.fail(f"up ended with {self.process.returncode}\n{self.said()}\n{self.logs()}")
            return _LAST_LINE in self.said()

        eventually(up, within=180, logs=lambda: self.said() + self.logs())
        return self.said()

    def logs(self) -> str:
        return "\n".join(f"--- {path}\n{path.read_text()[-3000:]}" for path in self.folder.glob("state/**/*.log"))

    def family(self) -> list[psutil.Process]:
        """The process, all that descend from it, and all of its group."""
        first = psutil.Process(self.process.pid)
        found = {process.pid: process for process in [first, *first.children(recursive=True)]}
        for process in psutil.process_iter():
            with contextlib.suppress(ProcessLookupError):
                if os.getpgid(process.pid) == self.process.pid:
                    found[process.pid] = process
        self._seen = list(found.values())
        return self._seen

    def curl(self) -> str:
        """The command that it printed, as a user would copy it."""
        found = re.search(r"Try it:\n(.*?)\n\n", self.said(), re.DOTALL)
        assert found, self.said()
        return found[1]

    def end(self) -> None:
        """End it and what it left behind, whatever it takes."""
        for process in self.family() if self.process.poll() is None else self._seen:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self.process.wait()


@contextmanager
def running_up(folder: Path, **options: int) -> Iterator[Up]:
    up = Up(folder, **options)
    try:
        up.wait_until_up()
        yield up
    finally:
        up.end()


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    with running_up(tmp_path_factory.mktemp("up")) as up:
        yield up


def alive(family: list[psutil.Process]) -> list[psutil.Process]:
    """Those that still run; an ended one that nobody has collected yet does not."""
    left = []
    for process in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                left.append(process)
    return left


def homes_of_listeners(port: int) -> list[str]:
    """The HOME of each process that listens on a port; a test beside this one may have taken it meanwhile."""
    found = []
    for one in psutil.net_connections("tcp"):
        if one.status == psutil.CONN_LISTEN and one.laddr.port == port and one.pid is not None:
            with contextlib.suppress(psutil.Error):
                found.append(psutil.Process(one.pid).environ().get("HOME", ""))
    return found


def assert_nothing_left(up: Up, family: list[psutil.Process]) -> None:
    eventually(lambda: not alive(family), logs=lambda: f"{alive(family)}\n{up.said()}\n{up.logs()}")
    for port in range(up.port, up.port + 3):
        assert str(up.folder) not in homes_of_listeners(port)


def test_it_says_what_it_found_and_where_it_is(up: Up) -> None:
    said = up.said()
    assert f"{up.url}/v1" in said
    assert ALIAS in said
    assert "llama.cpp" in said
    assert "--model" in said, "it must say how to name a real model"
    assert "noise" in said
    assert "Traceback" not in said


def test_its_curl_works_when_it_is_pasted_into_bash(up: Up, require_tool: Callable[[str], str]) -> None:
    require_tool("curl")
    done = subprocess.run(
        ["bash", "-c", up.curl()], env=clean_environ(), capture_output=True, text=True, timeout=30, check=True
    )
    events = [line.removeprefix("data: ") for line in done.stdout.splitlines() if line.startswith("data: ")]
    assert events[-1] == "[DONE]"
    words = [json.loads(event)["choices"][0]["delta"].get("content") for event in events[:-1]]
    assert [word for word in words if word]


def test_openai_sdk_streams_and_lists(up: Up) -> None:
    with openai.OpenAI(
        base_url=f"{up.url}/v1", api_key="any", max_retries=0, http_client=httpx.Client(trust_env=False)
    ) as client:
        assert [model.id for model in client.models.list()] == [ALIAS]
        chunks = list(
            client.chat.completions.create(
                model=ALIAS, messages=[{"role": "user", "content": "hi"}], max_tokens=8, stream=True
            )
        )
    assert chunks[-1].choices[0].finish_reason == "length"


def test_tables_find_it(up: Up) -> None:
    done = geniehive("ps", "--control", f"127.0.0.1:{up.port + 1}", cwd=up.folder, environ=up.environ)
    assert done.returncode == 0, done.stderr
    assert ALIAS in done.stdout


def test_second_one_on_the_same_ports_is_refused_in_one_line(up: Up) -> None:
    done = geniehive("up", "--port", str(up.port), cwd=up.folder, environ=up.environ)
    assert done.returncode == USAGE
    line = complaint(done.stderr)
    assert str(up.port) in line
    assert "already runs" in line


def test_second_one_with_the_same_state_is_refused_in_one_line(up: Up) -> None:
    (state,) = {path.parent for path in up.folder.glob("state/**/control.log")}
    done = geniehive("up", "--port", str(free_run(3)), "--state-dir", str(state), cwd=up.folder, environ=up.environ)
    assert done.returncode == USAGE
    assert str(state) in complaint(done.stderr)


@pytest.mark.parametrize("name", ["control", "gateway", "node"])
def test_daemon_that_is_killed_is_started_again(up: Up, name: str) -> None:
    (daemon,) = [
        process for process in up.family() if name in process.cmdline() and "--parent-pid" in process.cmdline()
    ]
    daemon.kill()
    eventually(lambda: not daemon.is_running() or daemon.status() == psutil.STATUS_ZOMBIE)

    def answers() -> bool:
        if len(daemons(up)) < 3 or httpx.get(f"{up.url}/v1/cluster/health", trust_env=False).json()["status"] != "ok":
            return False  # to ask meanwhile would only have the engine ejected for what it cannot help
        body = {"model": ALIAS, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 4}
        return httpx.post(f"{up.url}/v1/chat/completions", json=body, trust_env=False, timeout=30).status_code == 200

    eventually(answers, logs=up.logs)


def daemons(up: Up) -> list[psutil.Process]:
    """Its three children that run."""
    return [process for process in alive(up.family()) if "--ready-fd" in process.cmdline()]


# The last one of the module's: it ends what the others used.
def test_ctrl_c_ends_everything(up: Up) -> None:
    family = up.family()
    assert len(family) > 4, "up, three daemons, an engine"
    os.killpg(up.process.pid, signal.SIGINT)
    assert up.process.wait(DEADLINE_S) in {0, 130}
    assert_nothing_left(up, family)
    assert "Traceback" not in up.said()
    assert "Traceback" not in up.logs()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=["kill -9", "SIGTERM"])
def test_no_orphan_is_left_when_it_alone_is_ended(tmp_path: Path, number: signal.Signals) -> None:
    with running_up(tmp_path) as up:
        family = up.family()
        up.process.send_signal(number)
        up.process.wait(DEADLINE_S)
        assert_nothing_left(up, family)


def test_real_ollama_is_found_and_answers(tmp_path: Path) -> None:
    program = shutil.which("ollama")
    if program is None:
        pytest.skip("ollama is not on PATH; its recorded answers are tested in tests/nodeagent/engines")
    with ollama(program, tmp_path) as port, running_up(tmp_path, discover_port=port) as up:
        said = up.said()
        assert "ollama" in said.lower()
        assert "tiny" in said
        assert "noise" not in said, "the embedded engine must not run beside it"
        done = subprocess.run(
            ["bash", "-c", up.curl()], env=clean_environ(), capture_output=True, text=True, timeout=60, check=True
        )
        assert "data: [DONE]" in done.stdout


@contextmanager
def ollama(program: str, folder: Path) -> Iterator[int]:
    """A real Ollama with one tiny model; yields its port."""
    port = free_port()
    home = folder / "ollama"
    home.mkdir()
    environ = clean_environ(HOME=str(home), OLLAMA_HOST=f"127.0.0.1:{port}", OLLAMA_MODELS=str(home / "models"))
    write_tiny_model(home / "tiny.gguf")
    (home / "Modelfile").write_text("FROM ./tiny.gguf\n")
    with (folder / "ollama.log").open("wb") as log:
        process = subprocess.Popen([program, "serve"], env=environ, stdout=log, stderr=log)
    try:
        eventually(lambda: listening(port), logs=(folder / "ollama.log").read_text)
        subprocess.run(
            [program, "create", "tiny", "-f", "Modelfile"], cwd=home, env=environ, capture_output=True, timeout=60,
            check=True,
        )  # fmt: skip
        yield port
    finally:
        process.terminate()
        process.wait(DEADLINE_S)
