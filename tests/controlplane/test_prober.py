"""The prober against engines that listen, alone and in a whole control plane; and what traffic says of a service."""

from __future__ import annotations

import asyncio

import aiohttp
import pytest
from aiohttp import web

from controlplane.events import ProbesEnded
from controlplane.prober import Prober, probe
from geniehive.config import RoutingConfig
from geniehive.resources import Health, HealthStatus, Host, Snapshot
from tests.gateway.hive import engine, hive, service, until
from tests.ports import free_port

QUICK = RoutingConfig(probe_interval_s=0.05, probe_timeout_s=1)


@pytest.fixture
async def upstream():
    async with engine() as made:
        yield made


async def ask(url, timeout_s=1.0):
    async with aiohttp.ClientSession() as session:
        return await probe(session, url, timeout_s)


async def test_a_probe_says_what_it_found(upstream):
    assert (await ask(f"{upstream.url}/v1/models")).status is HealthStatus.HEALTHY
    assert (await ask(f"{upstream.url}/nothing")).status is None
    refused = await ask(f"http://127.0.0.1:{free_port()}/v1/models")
    assert (refused.status, refused.reason) == (HealthStatus.UNHEALTHY, "the connection is refused")


async def test_a_probe_waits_no_longer_than_it_may():
    done = asyncio.Event()

    async def say_nothing(_reader, writer):
        await done.wait()
        writer.close()

    server = await asyncio.start_server(say_nothing, "127.0.0.1", 0)
    found = await ask(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/", timeout_s=0.05)
    assert (found.status, found.reason) == (HealthStatus.UNHEALTHY, "no answer within 0.05 s")
    done.set()
    server.close()


async def test_a_redirect_is_not_followed():
    asked = []

    async def redirect(request):
        asked.append(request.path)
        raise web.HTTPFound("/elsewhere")

    app = web.Application()
    app.router.add_get("/{path}", redirect)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    found = await ask(f"http://127.0.0.1:{runner.addresses[0][1]}/here")
    await runner.cleanup()
    assert (found.status, asked) == (None, ["/here"])


async def test_an_interval_of_zero_is_off():
    prober = Prober(Snapshot, lambda event: pytest.fail(str(event)), interval_s=0, timeout_s=1)
    async with asyncio.timeout(20):
        await prober.run()


async def test_a_round_asks_everybody_and_ends_with_one_event(upstream):
    heard: asyncio.Future[ProbesEnded] = asyncio.get_running_loop().create_future()
    services = {
        "atlas/up": service("up", upstream.url),
        "atlas/down": service("down", f"http://127.0.0.1:{free_port()}"),
        "atlas/far": service("far", upstream.url, reachable=False),
    }
    snapshot = Snapshot(hosts={"atlas": Host(host_id="atlas")}, services=services)

    def post(event):
        if not heard.done():
            heard.set_result(event)

    task = asyncio.create_task(Prober(lambda: snapshot, post, interval_s=0.01, timeout_s=1).run())
    async with asyncio.timeout(10):
        findings = (await heard).findings
    task.cancel()
    assert {key: one.status for key, one in findings.items()} == {
        "atlas/up": HealthStatus.HEALTHY,
        "atlas/down": HealthStatus.UNHEALTHY,
    }
    assert set(upstream.seen) == {"/v1/models"}


async def test_probes_change_health_alone_and_change_it_back(upstream, tmp_path):
    async with hive(tmp_path, service("one", upstream.url), routing=QUICK) as made:
        before = await made.until_health("atlas/one", "healthy")
        upstream.sick = True
        sick = await made.until_health("atlas/one", "unhealthy")
        assert sick["health"]["reason"] == "probe: it answers with status 500"
        answer = await made.http.post("/v1/chat/completions", json={"model": "m", "messages": []})
        assert answer.status_code == 503
        upstream.sick = False
        after = await made.until_health("atlas/one", "healthy")
        assert {**after, "observed": None} == {**before, "observed": None}


async def test_a_probe_finds_what_the_node_could_not_tell(upstream, tmp_path):
    unknown = service("one", upstream.url, health=Health())
    async with hive(tmp_path, unknown, routing=QUICK) as made:
        await made.until_health("atlas/one", "healthy")


# --- passive health ---


async def chat(made):
    body = {"model": "m", "messages": [{"role": "user", "content": "x"}]}
    return (await made.http.post("/v1/chat/completions", json=body)).status_code


async def test_failing_traffic_ejects_and_a_success_brings_back(upstream, tmp_path):
    async with hive(tmp_path, service("one", upstream.url)) as made:
        upstream.failing = True

        async def ejected():
            await chat(made)
            await asyncio.sleep(0.1)  # a client's pause: a service that always has requests open may merely be full
            found = await made.seen("atlas/one")
            return found if found["health"]["status"] == "unhealthy" else None

        found = await until(ejected)
        assert found["health"]["reason"].startswith("traffic: ")
        upstream.failing = False
        await made.until_health("atlas/one", "healthy")  # its trial
        assert await chat(made) == 200


async def test_failures_among_successes_do_not_eject(upstream, tmp_path):
    async with hive(tmp_path, service("one", upstream.url)) as made:
        for _ in range(4):
            upstream.failing = True
            await chat(made)
            upstream.failing = False
            assert await chat(made) == 200
        assert (await made.seen("atlas/one"))["health"]["status"] == "healthy"
