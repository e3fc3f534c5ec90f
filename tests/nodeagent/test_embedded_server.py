"""The embedded engine against the real llama.cpp: every route, both ends of its life, and its refusals."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import openai
import psutil
import pytest

from nodeagent.embedded.launch import ReadyLine, reads_ready_line
from nodeagent.embedded.options import EngineOptions, engine_argv
from nodeagent.embedded.tiny_model import ALIAS, ensure_tiny_model
from nodeagent.process import EngineFailedError, ManagedProcess, ProcessSpec, State
from tests.engine_fixture import LlamaServer, llama_server, running_engine
from tests.ports import free_port

__all__ = ["llama_server"]

MESSAGES = [{"role": "user", "content": "hello"}]
FIXTURES = Path(__file__).parents[1] / "fixtures" / "llamacpp"


@pytest.fixture
def http(llama_server: LlamaServer):
    with httpx.Client(base_url=llama_server.base_url, trust_env=False, timeout=30) as client:
        yield client


def keys(value):
    """The shape of a JSON value: its keys, all the way down."""
    match value:
        case dict():
            return {key: keys(item) for key, item in value.items()}
        case list():
            return [keys(value[0])] if value else []
        case _:
            return None


def recorded(name: str):
    return json.loads((FIXTURES / f"{name}.json").read_text())


@pytest.mark.parametrize("name", ["models", "props", "health"])
def test_what_was_recorded_is_still_what_llama_cpp_answers(http, name):
    path = {"models": "/v1/models", "props": "/props", "health": "/health"}[name]
    assert keys(http.get(path).json()) == keys(recorded(name))


def test_the_model_is_listed_under_its_alias_with_its_context(http):
    (model,) = http.get("/v1/models").json()["data"]
    assert (model["id"], model["owned_by"], model["meta"]["n_ctx_train"]) == (ALIAS, "llamacpp", 4096)


def test_slots_and_metrics_are_on(http):
    assert len(http.get("/slots").json()) == 4
    metrics = http.get("/metrics").text
    assert "llamacpp:requests_processing" in metrics
    assert "llamacpp:requests_deferred" in metrics


def test_a_chat_says_words_and_ends_at_max_tokens(http):
    answer = http.post("/v1/chat/completions", json={"messages": MESSAGES, "max_tokens": 9}).json()
    words = answer["choices"][0]["message"]["content"].split()
    assert len(words) == 9
    assert all(word.isalpha() for word in words)
    assert answer["usage"]["completion_tokens"] == 9
    assert keys(answer) == keys(recorded("chat"))


def test_an_answer_without_max_tokens_ends(http):
    answer = http.post("/v1/chat/completions", json={"messages": MESSAGES}).json()
    assert answer["usage"]["completion_tokens"] == 256


def test_a_json_schema_is_kept_to(http):
    schema = {"type": "object", "properties": {"a": {"enum": ["x"]}}, "required": ["a"], "additionalProperties": False}
    wanted = {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}
    body = {"messages": MESSAGES, "response_format": wanted, "max_tokens": 200}
    content = http.post("/v1/chat/completions", json=body).json()["choices"][0]["message"]["content"]
    assert json.loads(content) == {"a": "x"}


def test_the_openai_sdk_streams_a_chat_and_its_usage(llama_server):
    with openai.OpenAI(base_url=f"{llama_server.base_url}/v1", api_key="none") as client:
        chunks = list(
            client.chat.completions.create(
                model=ALIAS, messages=MESSAGES, max_tokens=6, stream=True, stream_options={"include_usage": True}
            )
        )
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert len(text.split()) == 6
    assert chunks[-1].usage.completion_tokens == 6


def test_a_greedy_chat_is_the_same_with_and_without_embeddings(http, tmp_path):
    body = {"messages": MESSAGES, "max_tokens": 12, "temperature": 0}
    answer = http.post("/v1/chat/completions", json=body).json()
    with running_engine(EngineOptions(cache_dir=tmp_path, embedding=False)) as server:
        other = httpx.post(f"{server.base_url}/v1/chat/completions", json=body, trust_env=False).json()
        refusal = httpx.post(f"{server.base_url}/v1/embeddings", json={"input": "x"}, trust_env=False)
    assert answer["choices"] == other["choices"]
    assert (refusal.status_code, refusal.json()) == (501, recorded("error_no_embeddings"))


def test_embeddings_come_from_the_same_server_one_vector_each(http):
    answer = http.post("/v1/embeddings", json={"input": ["hello", "good bye", "hello"]}).json()
    first, second, again = (item["embedding"] for item in answer["data"])
    assert len(first) == 64
    assert sum(value * value for value in first) == pytest.approx(1, abs=1e-3)
    assert first == pytest.approx(again, abs=1e-3)
    assert first != pytest.approx(second, abs=1e-2)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/completions", {"prompt": "once", "max_tokens": 3}),
        ("/v1/responses", {"input": "hello", "max_output_tokens": 3}),
        ("/v1/messages", {"messages": MESSAGES, "max_tokens": 3}),
        ("/v1/messages/count_tokens", {"messages": MESSAGES}),
    ],
)
def test_the_other_routes_answer(http, path, body):
    assert http.post(path, json=body).status_code == 200


def test_eight_requests_share_four_slots(llama_server):
    answers = []

    def ask() -> None:
        body = {"messages": MESSAGES, "max_tokens": 20}
        answers.append(
            httpx.post(f"{llama_server.base_url}/v1/chat/completions", json=body, trust_env=False, timeout=30)
        )

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [answer.json()["usage"]["completion_tokens"] for answer in answers] == [20] * 8


def test_a_web_page_may_not_read_the_answers(http):
    answer = http.get("/v1/models", headers={"Origin": "http://evil.example"})
    assert answer.headers["access-control-allow-origin"] == "http://127.0.0.1"


def start(options: EngineOptions) -> subprocess.Popen[str]:
    return subprocess.Popen(
        engine_argv(options), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_at_once_though_an_answer_is_being_written(tmp_path, number):
    engine = start(EngineOptions(cache_dir=tmp_path))
    try:
        ready = json.loads(engine.stdout.readline())
        body = {"messages": MESSAGES, "max_tokens": 4000, "stream": True}
        with httpx.stream("POST", f"{ready['url']}/v1/chat/completions", json=body, trust_env=False) as answer:
            next(answer.iter_lines())
            engine.send_signal(number)
            assert engine.wait(30) == 0
    finally:
        engine.kill()
        engine.communicate()


def test_the_ready_line_is_the_only_output_and_health_is_200_by_then(tmp_path):
    engine = start(EngineOptions(cache_dir=tmp_path, alias="noise"))
    try:
        ready = json.loads(engine.stdout.readline())
        health = httpx.get(f"{ready['url']}/health", trust_env=False)
        engine.terminate()
        rest, errors = engine.communicate(timeout=30)
    finally:
        engine.kill()
        engine.wait()
    assert health.status_code == 200
    assert (ready["event"], ready["alias"], ready["pid"]) == ("ready", "noise", engine.pid)
    assert ready["operations"] == ["chat", "completion", "embeddings"]
    assert (rest, errors) == ("", "")


def test_it_dies_with_its_parent_by_kill_9(tmp_path):
    code = (
        "import os, subprocess, sys\n"
        "from pathlib import Path\n"
        "from nodeagent.embedded.options import EngineOptions, engine_argv\n"
        "options = EngineOptions(cache_dir=Path(sys.argv[1]), parent_pid=os.getpid())\n"
        "engine = subprocess.Popen(engine_argv(options), stdin=subprocess.PIPE)\n"
        "engine.wait()\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        engine = psutil.Process(json.loads(parent.stdout.readline())["pid"])
    finally:
        parent.kill()
        parent.communicate()
    assert gone(engine)


def gone(process: psutil.Process) -> bool:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            if not process.is_running() or process.status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        time.sleep(0.01)
    return False


def failure(options: EngineOptions, env: dict[str, str] | None = None) -> str:
    """The last line on stderr of an engine that cannot start."""
    done = subprocess.run(engine_argv(options), capture_output=True, text=True, timeout=60, env=env, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert "Traceback" not in done.stderr
    return done.stderr.splitlines()[-1]


def test_a_missing_model_is_one_clear_line(tmp_path):
    assert failure(EngineOptions(model=tmp_path / "no.gguf")) == (
        f"error: there is no model file {tmp_path / 'no.gguf'}: check --model"
    )


def test_a_model_that_is_not_gguf_is_one_clear_line(tmp_path):
    (tmp_path / "page.gguf").write_text("<html>")
    assert "is not a GGUF model" in failure(EngineOptions(model=tmp_path / "page.gguf"))


def test_a_model_that_was_cut_off_ends_in_a_line_that_says_what_to_do(tmp_path):
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(ensure_tiny_model(tmp_path).read_bytes()[:300_000])
    assert "download the file again" in failure(EngineOptions(model=cut))


def test_a_port_in_use_is_one_clear_line(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        line = failure(EngineOptions(cache_dir=tmp_path, port=port))
    assert line.startswith(f"error: cannot listen on 127.0.0.1:{port} (Address already in use)")


def test_a_missing_extra_names_the_install(tmp_path):
    (tmp_path / "xllamacpp.py").write_text("raise ImportError('No module named xllamacpp')")
    env = os.environ | {"PYTHONPATH": str(tmp_path)}
    assert "pip install 'geniehive[engine]'" in failure(EngineOptions(cache_dir=tmp_path), env)


def managed(options, on_ready=None):
    return ManagedProcess(ProcessSpec(name="engine", argv=engine_argv(options)), reads_ready_line(on_ready))


async def test_managed_it_tells_its_url_and_comes_back_on_it_after_kill_9(tmp_path):
    seen: list[ReadyLine] = []
    port = free_port()
    engine = managed(EngineOptions(cache_dir=tmp_path, port=port, parent_pid=os.getpid()), seen.append)
    async with asyncio.timeout(30), asyncio.TaskGroup() as group:
        life = group.create_task(engine.run())
        await engine.wait_running()
        os.kill(seen[0].pid, signal.SIGKILL)
        await engine.wait_for(lambda status: status.state is State.BACKING_OFF)
        assert "SIGKILL" in engine.status.reason
        await engine.wait_for(lambda status: status.state is State.RUNNING)
        async with httpx.AsyncClient(base_url=seen[-1].url, trust_env=False) as client:
            assert (await client.get("/health")).status_code == 200
        life.cancel()
    assert [line.port for line in seen] == [port, port]
    assert engine.status.restarts == 1
    assert not psutil.pid_exists(seen[1].pid)


async def test_managed_it_fails_with_its_own_clear_line(tmp_path):
    engine = managed(EngineOptions(model=tmp_path / "no.gguf", parent_pid=os.getpid()))
    async with asyncio.timeout(30), asyncio.TaskGroup() as group:
        life = group.create_task(engine.run())
        with pytest.raises(EngineFailedError, match="exited with status 1: error: there is no model file"):
            await engine.wait_running()
        life.cancel()
