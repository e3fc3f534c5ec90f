"""Wires the control plane: roles and store first, then the loop that owns the state, then the server.

Whatever can be wrong with the configuration is found before anybody is served. At the end the order is
the other way round: health says NOT_SERVING, nodes are told to reconnect, running calls get
`GRACE_S`, the loop finishes its write, the store is closed last.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Final

from controlplane.access_service import AccessService
from controlplane.audit import Auditor
from controlplane.auth import Gatekeeper
from controlplane.benchmark_book import RESTORED
from controlplane.benchmarks import BenchmarkService
from controlplane.certificate_watch import CertificateWatch, forget_admin
from controlplane.cluster import ClusterState
from controlplane.endpoint_guard import EndpointGuard
from controlplane.endpoint_policy import EndpointPolicy
from controlplane.events import Instant
from controlplane.join_desk import JoinDesk, Members, Office
from controlplane.leases import LeaseTerms
from controlplane.loop import ControlLoop
from controlplane.node_sessions import NodeSessions
from controlplane.operator import ClusterService
from controlplane.prober import Prober
from controlplane.roles import RoleCatalogue
from controlplane.server import ControlServer, Servicers, check_address
from controlplane.server_tls import Peers, ServerTls, advertised, authority_of, wanted
from controlplane.store.sql_store import SqlStore
from controlplane.token_desk import TokenDesk
from controlplane.watch import RoutingWatch
from geniehive.clock import Clock, SystemClock
from geniehive.config import Config, ControlConfig
from geniehive.errors import GenieHiveError
from geniehive.identity import Identity

GRACE_S: Final = 5.0
"""What running calls get at the end; node and gateway streams end at once, they reconnect."""

_log = logging.getLogger(__name__)


async def run(
    config: Config, *, stop: asyncio.Event, ready: Callable[[str], None], reload: asyncio.Event | None = None
) -> None:
    """Serves until `stop` is set; `ready` gets the address ("host:port") once calls are answered.

    Setting `reload` has the roles read again at once; they are anyway when their file changes.

    Raises:
        ConfigError: The roles, the address or the storage URL are wrong; the message names the fix.
        StoreError: The database is damaged, of a newer version, or refuses.
    """
    try:
        await _run(config, stop, ready, reload or asyncio.Event())
    except BaseExceptionGroup as group:
        if (error := _first(group)) is None:
            raise
        raise error from group


async def _run(config: Config, stop: asyncio.Event, ready: Callable[[str], None], reload: asyncio.Event) -> None:
    catalogue = RoleCatalogue(config.roles_path)
    roles = await catalogue.read()
    await check_address(config.control.listen)
    clock = SystemClock()
    async with _open_store(config.storage.url) as store:
        state = await _restore(config, store, clock)
        loop = ControlLoop(state, store, clock)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(loop.run())
            try:
                await loop.ask(roles)
                tls = await _tls_of(config, store, loop, clock)
                server = await _start_server(config, loop, store, clock, tls)
                looking = tls.look_after(tasks, server.address)
                following = tasks.create_task(catalogue.follow(loop, reload))
                try:
                    ready(server.address)
                    probing = tasks.create_task(_prober(config, loop).run())
                    await stop.wait()
                    probing.cancel()
                finally:
                    following.cancel()
                    looking.cancel()
                    _log.info("the control plane is stopping")
                    await server.announce_end()
                    loop.close()  # ends the streams, so that the server need not wait for them
                    await server.stop(GRACE_S)
            finally:
                loop.close()


@asynccontextmanager
async def _open_store(url: str) -> AsyncIterator[SqlStore]:
    store = await SqlStore.open(url)
    try:
        yield store
    finally:
        await store.close()


async def _restore(config: Config, store: SqlStore, clock: Clock) -> ClusterState:
    terms = LeaseTerms(
        ttl_s=config.control.lease_ttl_s,
        grace_s=config.control.lease_grace_s,
        heartbeat_interval_s=config.control.heartbeat_interval_s,
        measured_s=config.routing.health_stale_after_s,
    )
    # Not below the wall clock: gateways ignore older terms, and a database that was wiped begins again at 1.
    epoch = await store.next_epoch(at_least=clock.unix_ms() // 1000)
    registry = replace(await store.load(), samples=await store.list_samples("", "", RESTORED))
    _log.info("term %d: %d hosts and %d services restored", epoch, len(registry.hosts), len(registry.services))
    return ClusterState(terms, epoch, registry, Instant(clock.monotonic(), clock.unix_ms()))


def _prober(config: Config, loop: ControlLoop) -> Prober:
    routing = config.routing
    return Prober(
        lambda: loop.snapshot, loop.post, interval_s=routing.probe_interval_s, timeout_s=routing.probe_timeout_s
    )


@dataclass(frozen=True, kw_only=True)
class _Tls:
    """The parts of TLS; without it there are no certificates to look after."""

    config: ControlConfig
    server: ServerTls | None
    members: Members
    watch: CertificateWatch | None

    def look_after(self, tasks: asyncio.TaskGroup, address: str) -> asyncio.Task[None]:
        """Write the local administrator's certificate, and look after all. Raises ConfigError."""
        if self.watch is None:
            forget_admin(self.config)
            return tasks.create_task(asyncio.sleep(0))
        self.watch.write_admin(address)
        return tasks.create_task(self.watch.run())


async def _tls_of(config: Config, store: SqlStore, loop: ControlLoop, clock: Clock) -> _Tls:
    members = Members(await store.joins.members())
    if not wanted(config.control):
        return _Tls(config=config.control, server=None, members=members, watch=None)

    def now() -> float:
        return clock.unix_ms() / 1000

    server = ServerTls(config.control, authority_of(config.control, now=now()), now)
    watch = CertificateWatch(server, config.control, members, loop, clock)
    return _Tls(config=config.control, server=server, members=members, watch=watch)


async def _start_server(config: Config, loop: ControlLoop, store: SqlStore, clock: Clock, tls: _Tls) -> ControlServer:
    policy = EndpointPolicy(config.control.allowed_endpoints, (one.endpoint for one in config.services))
    auth, server = config.auth, tls.server
    peers = None
    if server is not None:
        peers = Peers(server.authority.bundle_pem, lambda: clock.unix_ms() / 1000, tls.members.barred)
    gatekeeper = Gatekeeper(
        auth.node_api_keys, auth.admin_api_keys, auth.client_api_keys, tokens=loop.tokens, peers=peers
    )
    auditor = Auditor(loop, clock, gatekeeper)
    nodes, watches = NodeSessions(loop, EndpointGuard(policy), gatekeeper), RoutingWatch(loop, gatekeeper)

    def expel(identity: Identity) -> None:
        nodes.expel(identity)
        watches.expel(identity)

    office = Office(
        config=config.control,
        authority=server.authority if server is not None else None,
        store=store.joins,
        members=tls.members,
        clock=clock,
        loop=loop,
        auditor=auditor,
        gatekeeper=gatekeeper,
        expel=expel,
        address=advertised(config.control.listen),
    )
    servicers = Servicers(
        node=nodes,
        routing=watches,
        cluster=ClusterService(loop, clock, gatekeeper, auditor, routing=config.routing),
        benchmarks=BenchmarkService(store, loop, clock, auditor),
        access=AccessService(TokenDesk(loop, store, clock, auditor), JoinDesk(office)),
    )
    return await ControlServer.start(
        servicers,
        gatekeeper,
        listen=config.control.listen,
        max_message_bytes=config.control.max_message_bytes,
        credentials=server.credentials() if server is not None else None,
    )


def _first(error: BaseException) -> GenieHiveError | None:
    """The one error of ours in a task group's bundle: what the caller is to see."""
    if isinstance(error, BaseExceptionGroup):
        return next((found for each in error.exceptions if (found := _first(each)) is not None), None)
    return error if isinstance(error, GenieHiveError) else None
