"""All services of the host: the configured ones, the managed ones, and those that a scan of local ports finds.

Each has a `ServiceWatch` in a task of its own, so a hung engine delays nobody. A scan looks only at ports that no
known service has. Commands for a service go through its watch.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Final

import aiohttp

from geniehive.config_check import is_loopback
from geniehive.errors import GenieHiveError, NotFound
from geniehive.resources import Command, CommandKind, HealthStatus, Service
from nodeagent import discovery
from nodeagent import events as ev
from nodeagent.dialling import host_and_port
from nodeagent.reach import Reach
from nodeagent.service_watch import ServiceWatch
from nodeagent.target import Target, found_target

SCAN_INTERVAL_S: Final = 30.0
_log = logging.getLogger(__name__)


class Services:
    """The watches by service id. `post` gets `Looked` and `ServiceGone`; `group` owns every task."""

    def __init__(
        self,
        host_id: str,
        session: aiohttp.ClientSession,
        reach: Reach,
        *,
        post: Callable[[ev.Event], None],
        interval_s: float,
        group: asyncio.TaskGroup,
    ) -> None:
        self._host_id = host_id
        self._session = session
        self._reach = reach
        self._post = post
        self._interval_s = interval_s
        self._group = group
        self._watches: dict[str, ServiceWatch] = {}

    def add(self, target: Target, initial: Service | None = None) -> None:
        """Announce a service as it is known now, and watch it."""
        service_id = target.service.service_id
        watch = ServiceWatch(
            target,
            self._session,
            self._reach,
            tell=lambda service: self._post(ev.Looked(service)),
            interval_s=self._interval_s,
            initial=initial,
        )
        self._watches[service_id] = watch
        self._post(ev.Looked(initial or target.service))
        self._group.create_task(self._live(watch), name=f"watch {service_id}")

    def poke(self, service_id: str) -> None:
        """Look at a service soon."""
        if service_id in self._watches:
            self._watches[service_id].poke()

    async def settle(self, ports: Sequence[int]) -> None:
        """Scan once, and wait until every service that is known then was looked at once."""
        await self.scan(ports)
        for watch in tuple(self._watches.values()):
            await watch.looked.wait()

    async def scan(self, ports: Sequence[int]) -> None:
        """Look once for engines at local ports that no known service has. A port that hangs delays no other one."""
        async with asyncio.TaskGroup() as group:
            for port in set(ports) - self._local_ports():
                group.create_task(self._scan_port(port))

    async def _scan_port(self, port: int) -> None:
        try:
            for found in await discovery.scan(self._session, [port]):
                target, seen = found_target(self._host_id, found)
                if target.service.service_id not in self._watches:
                    _log.info("found %s at %s", found.engine.runtime_name or found.engine.name, found.endpoint)
                    self.add(target, seen)
        except Exception:  # noqa: BLE001 - what answers at a port is not trusted, and the rest must go on
            _log.exception("the search for an engine at port %d failed; please report it", port)

    async def keep_scanning(self, ports: Sequence[int], interval_s: float = SCAN_INTERVAL_S) -> None:
        """Look for engines now and then."""
        while True:
            await asyncio.sleep(interval_s)
            await self.scan(ports)

    async def carry_out(self, command: Command) -> ev.CommandEnded:
        """Do what a command orders; never raises for what fails."""
        try:
            message = await self._do(command)
        except GenieHiveError as error:
            return ev.CommandEnded(command.command_id, failed=True, message=error.message)
        except Exception as error:  # noqa: BLE001 - the operator gets it as the command's end
            _log.exception("command %s failed in a way that is not expected; please report it", command.command_id)
            return ev.CommandEnded(command.command_id, failed=True, message=f"failed: {type(error).__name__}: {error}")
        return ev.CommandEnded(command.command_id, message=message)

    async def _do(self, command: Command) -> str:
        if command.kind is CommandKind.PROBE:
            return await self._probe(command.service_id)
        watch = self._watch(command.service_id)
        if command.kind is CommandKind.LOAD:
            await watch.load(command.asset_id, command.context_size)
        else:
            await watch.unload(command.asset_id)
        await watch.look_now()  # so that what was ordered shows before it is reported as done
        return f"{command.asset_id} is {'in' if command.kind is CommandKind.LOAD else 'out of'} memory"

    async def _probe(self, service_id: str) -> str:
        watches = [self._watch(service_id)] if service_id else list(self._watches.values())
        async with asyncio.TaskGroup() as group:
            looks = [group.create_task(watch.look_now()) for watch in watches]
        return _summary(look.result() for look in looks)

    def _watch(self, service_id: str) -> ServiceWatch:
        watch = self._watches.get(service_id)
        if watch is None:
            raise NotFound(f"there is no service {service_id!r} on this host any more", param="service_id")
        return watch

    async def _live(self, watch: ServiceWatch) -> None:
        await watch.run()
        service_id = watch.target.service.service_id
        del self._watches[service_id]
        _log.info("%s is gone: it did not answer for long", service_id)
        self._post(ev.ServiceGone(service_id))

    def _local_ports(self) -> set[int]:
        """Ports of this host that known services have."""
        places = (host_and_port(watch.target.service.endpoint) for watch in self._watches.values())
        return {port for host, port in places if is_loopback(host) or host == self._reach.address}


def _summary(services: Iterable[Service]) -> str:
    words = []
    for one in services:
        why = f" ({one.health.reason})" if one.health.status is not HealthStatus.HEALTHY and one.health.reason else ""
        words.append(f"{one.service_id} is {one.health.status}{why}")
    return "; ".join(words) or "there is no service on this host"
