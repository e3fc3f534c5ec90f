"""`geniehive up`, whole: real daemons, the real embedded llama.cpp, the printed `curl` run as it stands."""

import contextlib
import http.server
import json
import os
import re
import signal
import socket
import stat
import subprocess
import threading
import time

import openai
import psutil
import pytest

from tests.geniehive.cli.harness import COMMAND, PATIENCE_S, clean_environ, geniehive

END = "Ctrl-C ends everything."


class Up:
    """A running `geniehive up`, and what it printed so far."""

    def __init__(self, process):
        self.process = process
        self.lines = []

    def read_until(self, words):
        for line in self.process.stdout:
            self.lines.append(line.rstrip("\n"))
            if words in line:
                return "\n".join(self.lines)
        raise AssertionError("ended:\n" + "\n".join(self.lines))

    @property
    def text(self):
        return "\n".join(self.lines)

    @property
    def base_url(self):
        return re.search(r"OpenAI base URL\s+(\S+)", self.text)[1]

    @property
    def curl(self):
        begin = next(number for number, line in enumerate(self.lines) if line.startswith("  curl "))
        return "\n".join(self.lines[begin : begin + 2]).strip()

    def family(self):
        """Every process below it."""
        return psutil.Process(self.process.pid).children(recursive=True)


@contextlib.contextmanager
def up(state_dir, *arguments, **environ):
    process = subprocess.Popen(
        [*COMMAND, "up", "--port", "0", "--state-dir", str(state_dir), *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=clean_environ(**{"GENIEHIVE_NODE__DISCOVER_PORTS": "[]"} | environ),
    )
    running = Up(process)
    try:
        running.read_until(END)
        yield running
    finally:
        family = running.family() if process.poll() is None else []
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(PATIENCE_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(PATIENCE_S)
        for child in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()
        process.stdout.close()


def gone(processes, within_s):
    """Whether all of them have ended in time."""
    _, alive = psutil.wait_procs(processes, timeout=within_s)
    return [one for one in alive if one.is_running() and one.status() != psutil.STATUS_ZOMBIE] == []


def test_up_answers_curl_and_the_sdk_and_ends_at_ctrl_c(tmp_path):
    with up(tmp_path) as running:
        assert "its words are noise" in running.text
        assert "geniehive up --model path.gguf" in running.text

        answer = subprocess.run(
            running.curl, shell=True, capture_output=True, text=True, timeout=PATIENCE_S, check=True
        )
        assert answer.stdout.count("data: ") > 3, answer.stdout
        assert answer.stdout.rstrip().endswith("data: [DONE]")

        client = openai.OpenAI(base_url=running.base_url, api_key="none", max_retries=0)
        (model,) = [entry.id for entry in client.models.list().data]
        chunks = client.chat.completions.create(
            model=model, messages=[{"role": "user", "content": "Hi"}], stream=True, max_tokens=8
        )
        assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] in {"stop", "length"}

        family = running.family()
        assert len(family) >= 4  # control, gateway, node, engine
        running.process.send_signal(signal.SIGINT)
        assert running.process.wait(PATIENCE_S) == 0
        assert gone(family, PATIENCE_S)


def test_kill_9_leaves_no_orphan(tmp_path):
    with up(tmp_path) as running:
        family = running.family()
        running.process.kill()
        running.process.wait(PATIENCE_S)
        assert gone(family, PATIENCE_S)


def test_a_daemon_that_was_killed_comes_back(tmp_path):
    with up(tmp_path) as running:
        client = openai.OpenAI(base_url=running.base_url, api_key="none", max_retries=0)
        for name in ("control", "gateway", "node"):
            (victim,) = [child for child in running.family() if name in child.cmdline()]
            victim.kill()
            running.read_until(f"{name} ended (signal 9); starting it again")
            until(lambda name=name: any(name in child.cmdline() for child in running.family()))
            (model,) = until(lambda: listed(running))
            until(lambda model=model: answers(client, model))
        assert running.process.poll() is None


def until(look):
    """What `look` returns, once it is something."""
    deadline = time.monotonic() + PATIENCE_S
    while not (seen := look()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return seen


def listed(running):
    try:
        return [entry.id for entry in openai.OpenAI(base_url=running.base_url, api_key="none").models.list().data]
    except openai.OpenAIError:
        return []


def answers(client, model):
    try:
        answer = client.chat.completions.create(model=model, messages=[{"role": "user", "content": "Hi"}], max_tokens=4)
    except openai.OpenAIError:
        return False
    return bool(answer.choices)


def test_state_and_keys_are_for_the_user_alone(tmp_path):
    config = tmp_path / "c.yaml"
    config.write_text("auth: {client_api_keys: [c-key], node_api_keys: [n-key], admin_api_keys: [a-key]}")
    state = tmp_path / "state"
    with up(state, "--config", config) as running:
        assert "c-key" not in running.text
        assert '-H "Authorization: Bearer $GENIEHIVE_KEY"' in running.curl
        environ = {**os.environ, "GENIEHIVE_KEY": "c-key"}
        command = ["/bin/sh", "-c", running.curl]
        answer = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, env=environ, check=True)
        assert answer.stdout.rstrip().endswith("data: [DONE]")
        refused = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=True)
        assert json.loads(refused.stdout)["error"]["code"] == "invalid_api_key"
        private = [*state.glob("*.config.json"), *state.glob("*.log")]
        assert len(private) == 6
        assert [path for path in private if stat.S_IMODE(path.stat().st_mode) & 0o077] == []
        assert "c-key" not in "".join(path.read_text() for path in state.glob("*.log"))


def test_a_model_of_ones_own_is_served_by_its_name(tmp_path):
    from nodeagent.embedded.tiny_model import ensure_tiny_model

    model = ensure_tiny_model(tmp_path / "cache").rename(tmp_path / "my-model.gguf")
    with up(tmp_path / "state", "--model", model) as running:
        assert "noise" not in running.text
        client = openai.OpenAI(base_url=running.base_url, api_key="none")
        assert [entry.id for entry in client.models.list().data] == ["my-model"]


def test_an_engine_that_runs_here_is_used_instead_of_the_embedded_one(tmp_path, llama_server):
    port = llama_server.base_url.rpartition(":")[2]
    with up(tmp_path, GENIEHIVE_NODE__DISCOVER_PORTS=f"[{port}]") as running:
        assert f":{port}" in running.text
        assert "noise" not in running.text
        assert not [child for child in running.family() if "nodeagent.embedded" in child.cmdline()]


def test_without_any_engine_it_says_what_to_do_and_a_second_up_keeps_off(tmp_path):
    with up(tmp_path, "--no-engine") as running:
        assert "No engine was found" in running.text
        assert running.curl.startswith("curl -s http://127.0.0.1:")
        result = geniehive("up", "--port", "0", "--state-dir", tmp_path)
        assert result.returncode == 2
        assert "used by another geniehive up" in result.stderr


# --- what it refuses


@pytest.mark.parametrize(
    ("content", "words"), [(None, "No such file"), (b"not a model", "not a GGUF file"), (b"", "not a GGUF file")]
)
def test_a_model_that_is_none_is_refused(tmp_path, content, words):
    path = tmp_path / "model.gguf"
    if content is not None:
        path.write_bytes(content)
    result = geniehive("up", "--model", path, "--state-dir", tmp_path / "s")
    assert result.returncode == 2
    assert words in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_a_taken_port_is_one_line_that_says_how_to_choose_another(tmp_path):
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        port = sock.getsockname()[1]
        environ = {"GENIEHIVE_GATEWAY__PORT": str(port)}
        result = geniehive("up", "--state-dir", tmp_path, **environ)
    assert result.returncode == 2
    assert len(result.stderr.splitlines()) == 1
    assert f"port {port} for the gateway is in use by another program" in result.stderr
    assert "--port" in result.stderr


def test_a_geniehive_that_runs_already_is_recognised(tmp_path):
    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b'{"status": "ok", "service": "geniehive"}')

        def log_message(self, *_):
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Answer)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        environ = {"GENIEHIVE_GATEWAY__PORT": str(server.server_port)}
        result = geniehive("up", "--state-dir", tmp_path, **environ)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    assert result.returncode == 2
    assert "a GenieHive already runs" in result.stderr


def test_a_daemon_that_cannot_start_ends_everything_with_its_words(tmp_path):
    (tmp_path / "geniehive.sqlite3").write_bytes(b"this is no database" * 100)
    result = geniehive("up", "--port", "0", "--state-dir", tmp_path, "--no-engine")
    assert result.returncode == 1
    (line,) = result.stderr.splitlines()
    assert line.startswith("geniehive: control: ")
    assert "geniehive.sqlite3" in line
