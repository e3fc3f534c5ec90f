"""`geniehive connect`, against a real gateway."""

import asyncio
import json

from tests.gateway.harness import gateway
from tests.geniehive.cli.harness import geniehive


async def cli(*arguments, **environ):
    return await asyncio.to_thread(geniehive, *arguments, **environ)


async def test_it_prints_and_writes_and_undoes(tmp_path):
    settings = tmp_path / "settings.json"
    settings.write_text('{"theme": "dark"}')
    async with gateway("http://127.0.0.1:1") as gw:
        told = (await cli("connect", "claude", "--gateway", gw.url, "--file", str(settings))).stdout
        assert f"# {settings}" in told
        assert f'"ANTHROPIC_BASE_URL": "{gw.url}"' in told
        assert '"ANTHROPIC_MODEL": "m"' in told
        assert settings.read_text() == '{"theme": "dark"}'
        told = (await cli("connect", "claude", "--gateway", gw.url, "--file", str(settings), "--write")).stdout
        assert "--undo" in told
        found = json.loads(settings.read_text())
        assert (found["theme"], found["env"]["ANTHROPIC_AUTH_TOKEN"]) == ("dark", "none")
    told = (await cli("connect", "claude", "--file", str(settings), "--undo")).stdout
    assert "as it was" in told
    assert settings.read_text() == '{"theme": "dark"}'


async def test_a_gateway_with_keys_gets_a_placeholder_or_the_given_key(tmp_path):
    target = str(tmp_path / "x")
    async with gateway("http://127.0.0.1:1", keys=("ann",)) as gw:
        asked = ("connect", "codex", "--gateway", f"{gw.url}/v1", "--file", target)
        told = (await cli(*asked, GENIEHIVE_API_KEY="ann")).stdout
        assert "export GENIEHIVE_API_KEY=YOUR-KEY" in told
        assert "ann" not in told
        assert "export GENIEHIVE_API_KEY=ann" in (await cli(*asked, "--key", "ann")).stdout
        refused = await cli(*asked, "--write", GENIEHIVE_API_KEY="ann")
        assert (refused.returncode, "--key" in refused.stderr) == (2, True)
        assert (await cli(*asked)).returncode == 4


async def test_without_a_gateway_a_named_model_is_taken_by_its_word(tmp_path):
    asked = ("connect", "llm", "--gateway", "http://127.0.0.1:1", "--file", str(tmp_path / "x"))
    assert (await cli(*asked)).returncode == 3
    told = await cli(*asked, "--model", "m", "--url", "http://host:9/v1/")
    assert "api_base: http://host:9/v1" in told.stdout
    assert "nothing is known of m" in told.stderr
