"""What daemons load, as they run: each package that they need not is memory of every process, for nothing."""

import re
import subprocess
import sys
import time

import pytest

from tests.geniehive.cli.harness import COMMAND, PATIENCE_S, clean_environ

COMMAND_LINE = {"typer", "click", "rich", "pydantic"}
DATABASE = {"sqlalchemy", "alembic", "aiosqlite"}
HTTP_CLIENTS = {"aiohttp", "yarl", "multidict", "attr", "httpx", "anyio"}
TLS = {"cryptography", "_cffi_backend"}
TROUBLE = re.compile("control plane.* 127.0.0.1:1 (?:does not answer|cannot be reached)")
MACHINE = {"psutil", "pynvml", "nodeagent", "controlplane", "simulator"}


@pytest.fixture
def packages_of(tmp_path):
    """The packages that a daemon and its children load until all of them found that no control plane answers."""

    def loaded(daemon, processes=1, **environ):
        log = tmp_path / "log"
        own = {"GENIEHIVE_CONTROL_PLANE__ADDRESS": "127.0.0.1:1", "PYTHONPROFILEIMPORTTIME": "1"}
        with log.open("wb") as out:
            process = subprocess.Popen([*COMMAND, daemon], stdout=out, stderr=out, env=clean_environ(**own, **environ))
        try:
            deadline = time.monotonic() + PATIENCE_S
            while len(TROUBLE.findall(log.read_text())) < processes:
                assert time.monotonic() < deadline, log.read_text()[-2000:]
                assert process.poll() is None, log.read_text()[-2000:]
                time.sleep(0.05)
        finally:
            process.terminate()
            process.wait(PATIENCE_S)
        lines = [line for line in log.read_text().splitlines() if line.startswith("import time:")]
        return {line.rpartition("|")[2].strip().partition(".")[0] for line in lines}

    return loaded


@pytest.mark.parametrize("workers", [1, 2])
def test_a_gateway_loads_what_serves_requests_and_no_more(packages_of, workers):
    found = packages_of("gateway", workers, GENIEHIVE_GATEWAY__PORT="0", GENIEHIVE_GATEWAY__WORKERS=str(workers))
    assert {"gateway", "grpc", "httptools"} <= found
    assert not found & (COMMAND_LINE | DATABASE | HTTP_CLIENTS | TLS | MACHINE)


def test_a_node_agent_loads_no_command_line_and_no_database(packages_of, tmp_path):
    found = packages_of(
        "node",
        GENIEHIVE_NODE__STATE_DIR=str(tmp_path),
        GENIEHIVE_NODE__STATUS_PORT="0",
        GENIEHIVE_NODE__DISCOVER="false",
    )
    assert {"nodeagent", "grpc"} <= found
    assert not found & (COMMAND_LINE | DATABASE | TLS | {"httpx", "gateway", "controlplane", "simulator"})


def test_the_parent_of_workers_is_no_worker():
    code = (
        "import sys, gateway.run; print([m for m in ('grpc', 'gateway.app', 'prometheus_client') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
