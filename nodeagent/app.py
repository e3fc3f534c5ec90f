"""Wires the node agent: status page, probes, services, then the session.

Before the first Hello every service is looked at once and the local ports are scanned once, for at most `FIRST_S`
seconds: a Hello that left out the engines of this host would take them out of the routes for a moment. GPU drivers
that take longer to wake up are told of in a second Hello. Managed engines start at once, and are announced as loading.
At the end they are ended first, so that the control plane hears of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from geniehive.clock import Clock, SystemClock
from geniehive.config import Config, ServiceConfig
from geniehive.config_check import is_loopback, parse_address
from geniehive.credentials import source_for
from geniehive.errors import GenieHiveError
from geniehive.identity import Kind
from geniehive.renewal import Renewal
from geniehive.resources import Command, HealthStatus, Host
from nodeagent import events as ev
from nodeagent.agent import Agent, AgentView
from nodeagent.engines import engine_session
from nodeagent.host import find_address, host_id_of, host_of, next_boot_epoch
from nodeagent.loop import NodeLoop
from nodeagent.managed import managed_engine
from nodeagent.node_metrics import NodeMetrics
from nodeagent.probes.host_probe import HostProbe, basic_facts
from nodeagent.reach import Reach
from nodeagent.services import Services
from nodeagent.session import Dialling, Session
from nodeagent.status import StatusPage, serving
from nodeagent.target import configured_target

FIRST_S: Final = 0.8
LOOK_INTERVAL_S: Final = 2.0
"""Looks are at least so frequent, and as frequent as heartbeats where those are more so; they show a hung engine."""
MEASURE_INTERVAL_S: Final = 5.0
"""The same for measurements of the machine."""
GOODBYE_S: Final = 1.0
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeReady:
    """What is there once the agent runs; as text it is one line. `services`: ids of what was found so far."""

    host_id: str
    status_url: str
    services: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.status_url} (host {self.host_id}, {len(self.services)} services)"


async def run(config: Config, *, stop: asyncio.Event, ready: Callable[[NodeReady], None]) -> None:
    """Runs the agent until `stop` is set; `ready` is called when the status page answers and services were looked at.

    Raises:
        ConfigError: The status page's port is taken; the message names the fix.
        Fenced: A later agent speaks for this host.
        Conflict: The control plane speaks another protocol version.
    """
    try:
        await _NodeAgent(config, SystemClock()).run(stop, ready)
    except* _StoppedError:
        pass
    except* GenieHiveError as group:
        raise _first(group) from group


class _StoppedError(Exception):
    """Ends the task group: everything in it is cancelled."""


class _NodeAgent:
    """The parts, and what goes between them."""

    def __init__(self, config: Config, clock: Clock) -> None:
        self._config = config
        self._host_id = host_id_of(config.node)
        self._facts = basic_facts()
        self._facts_known = asyncio.Event()
        self._boot_epoch = next_boot_epoch(Path(config.node.state_dir), self._host_id, clock.unix_ms())
        self._reach = Reach()
        self._credentials = source_for(config, Kind.HOST)
        self._renewal = Renewal(self._credentials, config.control_plane.targets, random.random)
        self._loop = NodeLoop(Agent(self._host(), heartbeat_interval_s=config.node.heartbeat_interval_s), clock)
        self._session = Session(self._dialling(), self._loop.offer)
        self._interval_s = min(config.node.heartbeat_interval_s or LOOK_INTERVAL_S, LOOK_INTERVAL_S)
        self._engines: dict[str, asyncio.Task[None]] = {}

    def _dialling(self) -> Dialling:
        return Dialling(
            addresses=self._config.control_plane.targets,
            node_key=self._config.control_plane.node_api_key,
            host_id=self._host_id,
            boot_epoch=self._boot_epoch,
            prepare=self._find_address,
            credentials=self._credentials,
        )

    async def run(self, stop: asyncio.Event, ready: Callable[[NodeReady], None]) -> None:
        """See the module."""
        node = self._config.node
        metrics = NodeMetrics(
            lambda: self._loop.view, lambda: self._session.reconnects, lambda: self._renewal.expires_at
        )
        page = StatusPage(lambda: self._loop.view, metrics)
        async with serving(page, node.status_host, node.status_port) as url, engine_session() as session:
            await self._find_address()
            async with asyncio.TaskGroup() as group:
                services = Services(
                    self._host_id,
                    session,
                    self._reach,
                    post=self._loop.post,
                    interval_s=self._interval_s,
                    group=group,
                )
                await self._start(services, group)
                ready(self._ready(url))
                await stop.wait()
                await self._end_engines()
                raise _StoppedError

    async def _start(self, services: Services, group: asyncio.TaskGroup) -> None:
        """Everything in its order; see the module for why the session comes last."""

        def start_command(command: Command) -> None:
            group.create_task(self._carry_out(services, command), name=f"command {command.command_id}")

        group.create_task(self._loop.run(self._session, start_command), name="agent")
        group.create_task(self._measure(), name="measure")
        for service in self._config.services:
            self._add(service, services, group)
        ports = self._ports() if self._config.node.discover else ()
        settled = {
            group.create_task(services.settle(ports), name="first looks"),
            group.create_task(self._facts_known.wait(), name="facts"),
        }
        await asyncio.wait(settled, timeout=FIRST_S)
        group.create_task(services.keep_scanning(ports), name="scan")
        group.create_task(self._session.run(), name="session")
        group.create_task(self._renewal.run(), name="renewal")

    def _ready(self, url: str) -> NodeReady:
        services = tuple(one.service_id for one in self._loop.view.services)
        return NodeReady(host_id=self._host_id, status_url=url, services=services)

    def _add(self, config: ServiceConfig, services: Services, group: asyncio.TaskGroup) -> None:
        """Watch a configured service; start its engine where that is ours to do."""
        if config.runtime.launcher != "managed":
            services.add(configured_target(config, self._host_id, config.endpoint))
            return
        service_id = config.service_id
        engine = managed_engine(config, on_change=lambda _: services.poke(service_id))
        services.add(configured_target(config, self._host_id, engine.endpoint, engine.process))
        self._engines[service_id] = group.create_task(engine.process.run(), name=f"engine {service_id}")

    def _ports(self) -> tuple[int, ...]:
        """Where engines are looked for: never at GenieHive's own ports, or a gateway would be found as an engine."""
        config = self._config
        own = {config.gateway.port, config.node.status_port, parse_address(config.control.listen)[1]}
        return tuple(port for port in config.node.discover_ports if port not in own)

    async def _carry_out(self, services: Services, command: Command) -> None:
        self._loop.post(await services.carry_out(command))

    async def _measure(self) -> None:
        """Facts once, measurements now and then; in a thread, for drivers may take their time."""
        probe = await asyncio.to_thread(HostProbe.open)
        self._facts = await asyncio.to_thread(probe.facts)
        self._loop.post(ev.HostFound(self._host()))
        self._facts_known.set()
        while True:
            self._loop.post(ev.HostMeasured(await asyncio.to_thread(probe.observe)))
            await asyncio.sleep(min(self._config.node.heartbeat_interval_s or MEASURE_INTERVAL_S, MEASURE_INTERVAL_S))

    async def _find_address(self) -> None:
        """Keep the last address where none can be told now."""
        found = await find_address(self._config.node, self._config.control_plane.targets)
        if found and found != self._reach.address:
            if not is_loopback(found):
                _log.info("other hosts reach this one at %s", found)
            self._reach.address = found
            self._loop.post(ev.HostFound(self._host()))

    def _host(self) -> Host:
        return host_of(self._config.node, self._facts, boot_epoch=self._boot_epoch, address=self._reach.address)

    async def _end_engines(self) -> None:
        """End what we started, and let the control plane hear that these services are gone."""
        if not self._engines:
            return
        for task in self._engines.values():
            task.cancel()
        await asyncio.wait(self._engines.values())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(GOODBYE_S):
                await self._loop.wait_for(self._all_ended)
                await self._session.flush()

    def _all_ended(self, view: AgentView) -> bool:
        managed = (one for one in view.services if one.service_id in self._engines)
        return all(one.health.status is HealthStatus.UNHEALTHY for one in managed)


def _first(group: BaseExceptionGroup[GenieHiveError]) -> GenieHiveError:
    """The one error of ours in a task group's bundle: what the caller is to see."""
    found = group.exceptions[0]
    return _first(found) if isinstance(found, BaseExceptionGroup) else found
