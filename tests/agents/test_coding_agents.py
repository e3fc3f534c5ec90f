"""The Codex CLI and Claude Code themselves, headless, each in a home of its own: a task that needs a tool is done.

The engine's words are scripted, so the end is known: it calls the agent's shell once. Both agents run over an engine
with their route and over one that has chat completions alone.
"""

from __future__ import annotations

import asyncio
import os

import msgspec
import pytest

from tests.agents.scripted import ROUTES, SAID, THOUGHT, scripted_engine
from tests.gateway.harness import gateway, service

TASK = "Write forty-two into answer.txt"
DEADLINE_S = 90
MODEL = "claude-of-the-house"
KEY = "key-of-the-agent"
QUIET = {
    "CI": "1",
    "DISABLE_AUTOUPDATER": "1",
    "DISABLE_ERROR_REPORTING": "1",
    "DISABLE_TELEMETRY": "1",
    "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
    "NO_PROXY": "127.0.0.1",
    # Whatever would go elsewhere goes to a port where nobody is.
    "HTTPS_PROXY": "http://127.0.0.1:9",
    "HTTP_PROXY": "http://127.0.0.1:9",
}
CODEX = """
model = "{model}"
model_provider = "geniehive"
check_for_update_on_startup = false
[analytics]
enabled = false
[model_providers.geniehive]
name = "GenieHive"
base_url = "{url}/v1"
wire_api = "responses"
env_key = "GENIEHIVE_API_KEY"
"""


async def run(argv, home, work, **env):
    """Runs an agent to its end; what it printed."""
    environ = {"PATH": os.environ["PATH"], "HOME": str(home), **QUIET, **env}
    process = await asyncio.create_subprocess_exec(
        *argv,
        cwd=work,
        env=environ,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        async with asyncio.timeout(DEADLINE_S):
            said, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, said.decode()
    return said.decode()


@pytest.fixture
def places(tmp_path):
    home, work = tmp_path / "home", tmp_path / "work"
    home.mkdir()
    work.mkdir()
    return home, work


def announced(engine, *, native):
    return msgspec.structs.replace(service(1, engine.url, asset=MODEL), routes=ROUTES if native else ())


def thoughts(engine):
    """What the engine is told at last that it thought."""
    return [each["reasoning_content"] for each in engine.asked[-1][1]["messages"] if "reasoning_content" in each]


def paths(engine):
    return {path for path, _ in engine.asked}


@pytest.mark.parametrize("native", [True, False], ids=["own route", "chat completions alone"])
async def test_codex_finishes_a_task_that_uses_a_tool(native, places, require_tool):
    codex = require_tool("codex")
    home, work = places
    async with scripted_engine(native=native) as engine, gateway(announced(engine, native=native), keys=(KEY,)) as gw:
        (home / "config.toml").write_text(CODEX.format(model=MODEL, url=gw.url))
        argv = [codex, "exec", "--skip-git-repo-check", "--dangerously-bypass-approvals-and-sandbox", TASK]
        said = await run(argv, home, work, CODEX_HOME=str(home), GENIEHIVE_API_KEY=KEY)
    assert (work / "answer.txt").read_text() == "forty-two\n"
    assert SAID in said
    assert paths(engine) == {"/v1/responses" if native else "/v1/chat/completions"}
    assert len(engine.asked) == 2
    if not native:
        assert thoughts(engine) == [THOUGHT], "what the model thought goes back to it with the call"


@pytest.mark.parametrize("native", [True, False], ids=["own route", "chat completions alone"])
async def test_claude_code_finishes_a_task_that_uses_a_tool(native, places, require_tool):
    claude = require_tool("claude")
    home, work = places
    async with scripted_engine(native=native) as engine, gateway(announced(engine, native=native), keys=(KEY,)) as gw:
        said = await run(
            [claude, "-p", TASK, "--allowedTools", "Bash"],
            home,
            work,
            CLAUDE_CONFIG_DIR=str(home / ".claude"),
            ANTHROPIC_BASE_URL=gw.url,
            ANTHROPIC_AUTH_TOKEN=KEY,
            ANTHROPIC_MODEL=MODEL,
        )
    assert (work / "answer.txt").read_text() == "forty-two\n"
    assert SAID in said
    own = {"/v1/messages", "/v1/messages/count_tokens"}
    assert paths(engine) <= (own if native else {"/v1/chat/completions"})
    if native:
        assert all("claude-code" in headers["anthropic-beta"] for headers in engine.headers)
    else:
        assert not any(name.startswith("anthropic") for headers in engine.headers for name in headers)
        assert thoughts(engine) == [THOUGHT], "what the model thought goes back to it with the call"
