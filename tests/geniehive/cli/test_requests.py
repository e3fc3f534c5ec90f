"""`geniehive requests` and `explain`, against a real gateway with engines that a test scripts."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess

import httpx
import pytest
import yaml

from geniehive.cli import gateway_client
from geniehive.cli.story import tell
from geniehive.errors import ConfigError
from tests.gateway.harness import gateway
from tests.gateway.misbehaving import KEEP, answer, completion, upstream
from tests.geniehive.cli.harness import COMMAND, PATIENCE_S, clean_environ, geniehive
from tests.geniehive.cli.test_listings import rows

CHAT = "/v1/chat/completions"
BOOM = {"error": {"message": "boom", "type": "server_error", "code": 500}}


async def cli(*arguments, **environ):
    return await asyncio.to_thread(geniehive, *arguments, **environ)


async def ask(gw, model="m", key=""):
    async with httpx.AsyncClient() as http:
        response = await http.post(gw.url + CHAT, json={"model": model, "messages": []}, headers={"x-api-key": key})
    return response.headers["x-request-id"]


async def test_requests_lists_them_newest_first_and_explain_tells_the_story():
    async with (
        upstream((answer(500, BOOM), KEEP)) as bad,
        upstream((completion(), KEEP)) as good,
        gateway(bad.url, good.url) as gw,
    ):
        first, unknown = await ask(gw, "nick"), await ask(gw, "nope")
        top, below = rows((await cli("requests", "--gateway", gw.url)).stdout)
        assert (top["ID"], top["MODEL"], top["SERVICE"], top["STATUS"]) == (unknown, "nope", "-", "failed,404")
        assert (top["ATTEMPTS"], top["TTFT"]) == ("0", "-")
        assert (below["ID"], below["SERVICE"], below["STATUS"], below["ATTEMPTS"]) == (first, "h2/s", "ok,200", "2")
        assert below["TTFT"] == "-"  # it was not a stream
        assert below["TOTAL"].endswith("ms")

        (only,) = rows((await cli("requests", "--gateway", gw.url, "--status", "ok", "-o", "wide")).stdout)
        assert (only["KEY"], only["FINISH"], only["TOKENS"], only["ERROR"]) == ("anonymous", "stop", "2", "-")
        found = json.loads((await cli("requests", "--gateway", gw.url, "-n", "1", "-o", "json")).stdout)
        assert [each["request_id"] for each in found] == [unknown]

        told = (await cli("explain", first, "--gateway", gw.url)).stdout
        assert f"{first}  20" in told
        assert 'asked    "nick" for chat by anonymous' in told
        assert "matched  alias, strategy round_robin" in told
        assert "service is healthy; model is loaded" in told
        assert "own_in_flight=0" in told
        attempts = rows(told[told.index("attempts\n") + len("attempts\n") : told.index("\n\noutcome")])
        assert [each["SERVICE"] for each in attempts] == ["h1/s", "h2/s"]
        assert [each["OUTCOME"] for each in attempts] == ["failed", "ok"]
        assert [each["WHY"] for each in attempts] == ["the engine failed with status 500", "-"]
        assert "outcome  ok 200, m at h2/s on h2, finish stop, 3 tokens of prompt, 2 of answer" in told
        assert "waiting for engines" in told
        found = yaml.safe_load((await cli("explain", first, "--gateway", gw.url, "-o", "yaml")).stdout)
        assert [each["service_id"] for each in found["attempts"]] == ["h1/s", "h2/s"]

        told = (await cli("explain", unknown, "--gateway", gw.url)).stdout
        assert "matched  nothing" in told
        assert "outcome  failed 404, model 'nope' does not exist" in told


async def test_the_address_and_a_key_come_from_the_config(tmp_path):
    async with upstream((completion(), KEEP)) as one, gateway(one.url, keys=("ann",), admins=("boss",)) as gw:
        asked = await ask(gw, key="ann")
        config = tmp_path / "geniehive.yaml"
        config.write_text(
            f"gateway: {{port: {gw.port}}}\nauth: {{client_api_keys: [ann, bob], admin_api_keys: [boss]}}\n"
        )
        by_admin = await cli("requests", "--config", config)
        assert [row["ID"] for row in rows(by_admin.stdout)] == [asked]
        by_another = await cli("explain", asked, "--config", config, GENIEHIVE_API_KEY="ann")
        assert by_another.returncode == 0
        refused = await cli("requests", "--gateway", gw.url, GENIEHIVE_API_KEY="wrong")
        assert refused.returncode == 4
        assert refused.stderr.startswith(f"geniehive: the gateway at {gw.url} wants a key: ")
        assert "GENIEHIVE_API_KEY" in refused.stderr


async def test_exit_codes_say_what_was_wrong(unused_port):
    nowhere = await cli("requests", "--gateway", f"127.0.0.1:{unused_port}")
    assert nowhere.returncode == 3
    assert nowhere.stderr.startswith(f"geniehive: cannot reach the gateway at http://127.0.0.1:{unused_port}: ")
    assert nowhere.stderr.count("\n") == 1
    async with gateway("http://127.0.0.1:1") as gw, upstream((answer(200, b"<html>", "text/html"), KEEP)) as page:
        unknown = await cli("explain", "../x?y\x1b[31m", "--gateway", gw.url)
        assert unknown.returncode == 5
        assert "this gateway keeps 0" in unknown.stderr
        assert "\x1b" not in unknown.stderr
        nonsense = await cli("requests", "--status", "bad", "--gateway", gw.url)
        assert nonsense.returncode == 1
        assert "one of open, ok, failed, cut, cancelled" in nonsense.stderr
        nothing = await cli("requests", "--gateway", gw.url)
        assert (nothing.returncode, nothing.stdout) == (0, "")
        assert "no requests are on record" in nothing.stderr
        stranger = await cli("requests", "--gateway", page.url)
        assert stranger.returncode == 1
        assert "is no GenieHive gateway" in stranger.stderr


async def test_names_of_strangers_are_inert():
    async with gateway("http://127.0.0.1:1") as gw:
        asked = await ask(gw, "[red]\x1b[31m\nx")
        listed = await cli("requests", "--gateway", gw.url)
        (row,) = rows(listed.stdout)
        assert row["MODEL"] == "[red]?[31m?x"
        told = await cli("explain", asked, "--gateway", gw.url)
        assert '"[red]?[31m?x"' in told.stdout
        assert "\x1b" not in told.stdout


def interruptible():
    """What a shell started in the background ignores SIGINT, and so does all that it starts: these tests too, maybe."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


async def test_watch_goes_on_until_it_is_interrupted():
    async with upstream((completion(), KEEP)) as one, gateway(one.url) as gw:
        asked = await ask(gw)
        process = await asyncio.create_subprocess_exec(
            *COMMAND, "requests", "--watch", "--interval", "0.1", "--gateway", gw.url,
            stdout=subprocess.PIPE, env=clean_environ(), preexec_fn=interruptible,
        )  # fmt: skip
        async with asyncio.timeout(PATIENCE_S):
            seen = 0
            while seen < 2:
                seen += asked.encode() in await process.stdout.readline()
            process.send_signal(signal.SIGINT)
            assert await process.wait() == 130


@pytest.mark.parametrize(
    ("given", "url"),
    [
        ("gateway: {host: 0.0.0.0, port: 9000}", "http://127.0.0.1:9000"),
        ("gateway: {host: '::', port: 9000}", "http://[::1]:9000"),
        ("gateway: {host: atlas.lan}", "http://atlas.lan:8800"),
    ],
)
def test_what_is_listened_on_becomes_what_is_dialled(tmp_path, given, url):
    (tmp_path / "c.yaml").write_text(given)
    assert gateway_client.gateway_target(tmp_path / "c.yaml", "", "").url == url


def test_a_url_may_be_given_as_clients_have_it(tmp_path):
    (tmp_path / "c.yaml").write_text("{}")
    target = gateway_client.gateway_target(tmp_path / "c.yaml", "https://hive.lan/v1/", "k")
    assert (target.url, target.key) == ("https://hive.lan", "k")


def test_a_url_that_is_none_is_wrong_usage():
    with pytest.raises(ConfigError, match="--gateway"):
        gateway_client.GatewayClient(gateway_client.GatewayTarget(url="http://[::1"))


async def test_explain_tells_where_a_request_stood_and_what_was_special_about_an_attempt(capsys):
    async with upstream((completion(), KEEP)) as up, gateway(up.url) as gw:
        request_id = await ask(gw)
        async with httpx.AsyncClient() as http:
            receipt = (await http.get(f"{gw.url}/v1/cluster/requests/{request_id}")).json()
    assert receipt["timings"]["queue_position"] is None
    receipt["timings"] |= {"queue_ms": 310.0, "queue_position": 3}
    receipt["attempts"][0] |= {"note": "a hedge: nothing had come within 0.34 s", "error": "another service was faster"}
    tell(receipt)
    told = capsys.readouterr().out
    assert "queue 310ms (number 3)" in told
    assert "a hedge: nothing had come within 0.34 s; another service was faster" in told
