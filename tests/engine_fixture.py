"""A real llama.cpp for the tests: the embedded engine on its generated model, one process a session and worker."""

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import httpx
import pytest

from nodeagent.embedded.options import EngineOptions, engine_argv
from nodeagent.embedded.tiny_model import ALIAS
from tests.ports import free_port

START_DEADLINE_S = 30.0


@dataclass(frozen=True, kw_only=True)
class LlamaServer:
    """A llama.cpp that answers. `base_url` has no /v1; `model` is the id that /v1/models lists."""

    base_url: str
    model: str
    pid: int


@pytest.fixture(scope="session")
def llama_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LlamaServer]:
    """Serves chat, completion and embeddings; shared by all tests of a session, so nobody may stop it."""
    with running_engine(EngineOptions(cache_dir=tmp_path_factory.mktemp("engine"))) as server:
        yield server


@contextmanager
def running_engine(options: EngineOptions) -> Iterator[LlamaServer]:
    """Run an embedded engine of a test's own, for instance to kill it by its `pid`."""
    options = replace(options, port=options.port or free_port(), parent_pid=os.getpid())
    cache_dir = options.cache_dir or Path.cwd()
    log = cache_dir / f"engine-{options.port}.log"
    with log.open("wb") as stderr:
        process = subprocess.Popen(
            engine_argv(options), stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=stderr
        )
    try:
        base_url = f"http://{options.host}:{options.port}"
        wait_until_healthy(base_url, process, log)
        yield LlamaServer(base_url=base_url, model=options.alias or ALIAS, pid=process.pid)
    finally:
        process.kill()
        process.wait()


def wait_until_healthy(base_url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    """Poll /health until 200; fail with the engine's own words if it ends, or START_DEADLINE_S is over."""
    deadline = time.monotonic() + START_DEADLINE_S
    with httpx.Client(base_url=base_url, trust_env=False) as client:
        while time.monotonic() < deadline:
            if process.poll() is not None:
                pytest.fail(f"the engine exited with status {process.returncode}: {log.read_text()}")
            try:
                if client.get("/health").status_code == 200:
                    return
            except httpx.TransportError:
                pass
            time.sleep(0.02)
    pytest.fail(f"the engine was not healthy within {START_DEADLINE_S} s: {log.read_text()}")
