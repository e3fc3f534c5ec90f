"""All services of a host: discovery beside what is configured."""

import asyncio
from contextlib import asynccontextmanager

from geniehive.resources import HealthStatus, Service
from nodeagent import events as ev
from nodeagent import service_watch
from nodeagent.engines import engine_session
from nodeagent.reach import Reach
from nodeagent.services import Services
from nodeagent.target import Target
from tests.nodeagent.peers import OPENAI, eventually, http_server
from tests.ports import free_port


class EndError(Exception):
    pass


@asynccontextmanager
async def services_of():
    """Services, what they posted, and the group that their tasks live in."""
    posted = []
    try:
        async with engine_session() as session, asyncio.TaskGroup() as group:
            services = Services("atlas", session, Reach("127.0.0.1"), post=posted.append, interval_s=0.1, group=group)
            yield services, posted, group
            raise EndError
    except* EndError:
        pass


def looked(posted):
    return {event.service.service_id: event.service for event in posted if isinstance(event, ev.Looked)}


async def test_an_engine_that_comes_later_is_found_by_a_later_scan():
    port = free_port()
    async with services_of() as (services, posted, group):
        await services.settle([port])
        assert posted == []
        group.create_task(services.keep_scanning([port], interval_s=0.05))
        async with http_server(OPENAI, port):
            await eventually(lambda: f"atlas/openai-{port}" in looked(posted))


async def test_a_port_that_accepts_and_says_nothing_delays_no_other_one():
    given_up = asyncio.Event()

    async def say_nothing(reader, writer):
        if await reader.read():  # not a mere look whether the port is open
            given_up.set()
        writer.close()

    hang = await asyncio.start_server(say_nothing, "127.0.0.1", 0)
    silent = hang.sockets[0].getsockname()[1]
    async with http_server(OPENAI) as url, services_of() as (services, posted, group):
        port = int(url.rpartition(":")[2])
        group.create_task(services.settle([silent, port]))
        await eventually(lambda: f"atlas/openai-{port}" in looked(posted))
        assert not given_up.is_set()
    hang.close()


async def test_a_configured_engine_is_not_found_a_second_time():
    async with http_server(OPENAI) as url, services_of() as (services, posted, _):
        service = Service(service_id="atlas/mine", host_id="atlas", endpoint=url.replace("127.0.0.1", "localhost"))
        services.add(Target(service=service, protocol="openai"))
        await services.settle([int(url.rpartition(":")[2])])
        assert set(looked(posted)) == {"atlas/mine"}


async def test_a_found_engine_that_stays_away_is_unhealthy_first_and_gone_later(monkeypatch):
    monkeypatch.setattr(service_watch, "FORGET_AFTER_S", 0.3)
    port = free_port()
    async with services_of() as (services, posted, _):
        async with http_server(OPENAI, port):
            await services.settle([port])
        gone = ev.ServiceGone(f"atlas/openai-{port}")
        await eventually(lambda: gone in posted)
        assert looked(posted)[f"atlas/openai-{port}"].health.status is HealthStatus.UNHEALTHY
