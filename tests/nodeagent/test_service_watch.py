"""Watching one service, against servers on real ports."""

import asyncio
import contextlib
from contextlib import asynccontextmanager

from aiohttp import web

from geniehive.resources import Asset, HealthStatus, Operation, Service
from nodeagent import service_watch
from nodeagent.engines import engine_session
from nodeagent.reach import Reach
from nodeagent.service_watch import ServiceWatch
from nodeagent.target import Target
from tests.nodeagent.peers import OPENAI, eventually, http_server
from tests.ports import free_port


@asynccontextmanager
async def watching(endpoint, protocol="openai", reach=None, interval_s=5.0, **fields):
    seen = []
    service = Service(service_id="atlas/x", host_id="atlas", endpoint=endpoint, **fields)
    target = Target(service=service, protocol=protocol)
    async with engine_session() as session:
        watch = ServiceWatch(target, session, reach or Reach(), tell=seen.append, interval_s=interval_s)
        task = asyncio.create_task(watch.run())
        try:
            yield watch, seen
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


def is_(status):
    return lambda seen: bool(seen) and seen[-1].health.status is status


async def test_an_engine_that_goes_away_is_unhealthy_before_the_next_look_and_comes_back_by_itself():
    port = free_port()
    async with watching(f"http://127.0.0.1:{port}", interval_s=60) as (_, seen):
        async with http_server(OPENAI, port):
            await eventually(lambda: is_(HealthStatus.HEALTHY)(seen))
            assert [asset.asset_id for asset in seen[-1].assets] == ["m"]
        await eventually(lambda: is_(HealthStatus.UNHEALTHY)(seen))
        assert "refused the connection" in seen[-1].health.reason
        assert [(asset.asset_id, asset.loaded) for asset in seen[-1].assets] == [("m", None)]
        async with http_server(OPENAI, port):
            await eventually(lambda: is_(HealthStatus.HEALTHY)(seen))


async def test_auto_finds_out_what_answers_and_finds_out_anew_after_it_was_gone():
    port = free_port()
    ollama = {
        "/api/version": {"version": "0.33.0"},
        "/api/tags": {"models": [{"name": "q", "model": "q", "details": {}}]},
        "/api/ps": {"models": []},
        "/": {"x": 1},
    }
    async with watching(f"http://127.0.0.1:{port}", protocol="auto") as (_, seen):
        async with http_server(OPENAI, port):
            await eventually(lambda: is_(HealthStatus.HEALTHY)(seen))
            assert seen[-1].protocol == "openai"
        await eventually(lambda: is_(HealthStatus.UNHEALTHY)(seen))
        async with http_server(ollama, port):
            await eventually(lambda: seen[-1].protocol == "ollama")


async def test_one_late_look_does_not_make_a_busy_engine_unhealthy_two_do(monkeypatch):
    monkeypatch.setattr(service_watch, "KNOWN_BUDGET_S", 0.2)
    busy = asyncio.Event()

    async def models(_):
        if busy.is_set():
            await asyncio.sleep(0.5)
        return web.json_response(OPENAI["/v1/models"])

    async with http_server({"/v1/models": models}) as endpoint, watching(endpoint, interval_s=0.05) as (_, seen):
        await eventually(lambda: is_(HealthStatus.HEALTHY)(seen))
        busy.set()
        # Until the next look, which is more patient again.
        await eventually(lambda: any(one.health.status is HealthStatus.UNHEALTHY for one in seen))
        late = next(number for number, one in enumerate(seen) if one.health.status is HealthStatus.UNHEALTHY)
        assert seen[late - 1] is seen[late - 2]
        assert "no answer within" in seen[late].health.reason


async def test_an_engine_that_hangs_is_unhealthy_and_a_busy_one_is_not():
    patience, over = 1.0, asyncio.Event()

    async def models(_):
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(over.wait(), patience)
        return web.json_response(OPENAI["/v1/models"])

    async with http_server({"/v1/models": models}) as endpoint, watching(endpoint, interval_s=0.1) as (_, seen):
        await eventually(lambda: is_(HealthStatus.HEALTHY)(seen))
        await eventually(lambda: len(seen) >= 3)
        assert is_(HealthStatus.HEALTHY)(seen)
        patience = 100.0  # as after a SIGSTOP: connections are taken, nothing is answered
        await eventually(lambda: is_(HealthStatus.UNHEALTHY)(seen))
        over.set()  # the server waits at its end for what it has begun


async def test_looks_do_not_overlap_and_a_look_now_is_a_new_one():
    running, most, asked = 0, 0, 0

    async def models(_):
        nonlocal running, most, asked
        asked += 1
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.05)
        running -= 1
        return web.json_response(OPENAI["/v1/models"])

    async with http_server({"/v1/models": models}) as endpoint, watching(endpoint) as (watch, seen):
        await eventually(lambda: seen)
        before = asked
        await asyncio.gather(watch.look_now(), watch.look_now())
        assert asked == before + 1
    assert most == 1


async def test_a_service_that_is_not_asked_keeps_what_config_says():
    assets = (Asset(asset_id="whisperx", loaded=True),)
    async with (
        http_server({}) as endpoint,
        watching(endpoint, protocol=None, assets=assets, operations=(Operation.TRANSCRIPTION,)) as (_, seen),
    ):
        await eventually(lambda: is_(HealthStatus.HEALTHY)(seen))
    assert seen[-1].assets == assets
    assert seen[-1].operations == (Operation.TRANSCRIPTION,)


async def test_nonsense_from_an_engine_makes_that_service_unhealthy_and_nothing_else():
    async def nonsense(_):
        return web.Response(body=b"\xff\x00<", content_type="text/plain")

    async with http_server({"/v1/models": nonsense}) as endpoint, watching(endpoint) as (_, seen):
        await eventually(lambda: seen)
        await eventually(lambda: is_(HealthStatus.UNHEALTHY)(seen))
    assert seen[-1].health.reason


async def test_an_engine_on_loopback_alone_is_announced_as_unreachable_with_the_fix():
    async def refuses(host, port):
        return False

    reach = Reach("192.0.2.7", refuses)
    async with http_server(OPENAI) as endpoint, watching(endpoint, reach=reach) as (_, seen):
        await eventually(lambda: seen)
    assert not seen[-1].reachable
    assert any("loopback" in note for note in seen[-1].notes)
    assert seen[-1].health.status is HealthStatus.HEALTHY


async def test_an_engine_that_listens_for_others_is_announced_under_the_hosts_address():
    async def accepts(host, port):
        return host == "192.0.2.7"

    reach = Reach("192.0.2.7", accepts)
    async with http_server(OPENAI) as endpoint, watching(endpoint, reach=reach) as (_, seen):
        await eventually(lambda: seen)
        assert seen[-1].endpoint == endpoint.replace("127.0.0.1", "192.0.2.7")
        assert seen[-1].reachable


async def test_on_the_control_planes_own_host_loopback_goes_out_as_it_is():
    async with http_server(OPENAI) as endpoint, watching(endpoint, reach=Reach("127.0.0.1")) as (_, seen):
        await eventually(lambda: seen)
    assert seen[-1].endpoint == endpoint
    assert seen[-1].reachable
