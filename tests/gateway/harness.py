"""A gateway in this process, in front of given upstreams, without a control plane."""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from types import SimpleNamespace

import grpc.aio
import msgspec

from gateway.admission import Queue
from gateway.app import Keepers, build_app, spawner
from gateway.circuit import Circuits
from gateway.cluster import ClusterViews
from gateway.http import refusal_of
from gateway.inflight import InFlight
from gateway.receipts import Receipts
from gateway.request_views import RequestViews
from gateway.server.server import Server
from gateway.siblings import Siblings
from gateway.upstream import Upstream
from gateway.view import RoutingView
from geniehive.config import AuthConfig, Config, GatewayConfig
from geniehive.relay.outbox import Outbox
from geniehive.resources import Asset, Health, HealthStatus, Host, Operation, Role, Runtime, Service, Snapshot

ALL = tuple(Operation)


def service(number, url, *, asset="m", protocol="openai", operations=ALL):
    """A healthy service `h<number>/s` with one loaded asset."""
    return Service(
        service_id=f"h{number}/s",
        host_id=f"h{number}",
        endpoint=url,
        protocol=protocol,
        operations=operations,
        runtime=Runtime(engine="test"),
        assets=(Asset(asset_id=asset, loaded=True, aliases=("nick",)),),
        health=Health(status=HealthStatus.HEALTHY),
    )


def snapshot(services, roles=()):
    """A picture of the cluster with a host for each service."""
    return Snapshot(
        revision=1,
        hosts={each.host_id: Host(host_id=each.host_id) for each in services},
        services={each.service_id: each for each in services},
        roles={each.role_id: each for each in roles},
    )


@asynccontextmanager
async def gateway(*services, roles=(), keys=(), admins=(), snapshotted=True, strategy="round_robin", **limits):
    """A running gateway; `limits` are fields of GatewayConfig. Services may be given as URLs."""
    made = [service(n, each) if isinstance(each, str) else each for n, each in enumerate(services, 1)]
    config = Config(
        gateway=GatewayConfig(port=0, **limits), auth=AuthConfig(client_api_keys=keys, admin_api_keys=admins)
    )
    view = RoutingView(strategy)
    if snapshotted:
        view.replace(snapshot(made, roles))
    in_flight = InFlight(time.monotonic)
    loop = asyncio.get_running_loop()
    outbox = Outbox(loop)
    async with (
        asyncio.TaskGroup() as tasks,
        grpc.aio.insecure_channel("127.0.0.1:1") as channel,
        Upstream(connect_timeout_s=config.gateway.connect_timeout_s, outbox=outbox) as relay,
    ):
        cluster = ClusterViews(view, in_flight, channel, "")
        requests = RequestViews(Receipts(config.gateway.receipts), Siblings())
        keepers = Keepers(Circuits(config.gateway.ejection), Queue())
        front = build_app(config, view, in_flight, relay, cluster, requests, spawner(tasks), keepers)
        limits = config.gateway
        server = Server(
            front,
            refusal_of,
            spawner(tasks),
            outbox=outbox,
            header_timeout_s=limits.header_timeout_s,
            max_connections=limits.max_connections,
        )
        listener = await loop.create_server(server, "127.0.0.1", 0)
        port = listener.sockets[0].getsockname()[1]
        try:
            yield SimpleNamespace(
                url=f"http://127.0.0.1:{port}",
                port=port,
                view=view,
                in_flight=in_flight,
                front=front,
                server=server,
                circuits=keepers.circuits,
                line=keepers.line,
            )
        finally:
            listener.close()
            await server.shutdown(1.0)


async def until(condition, seconds=20.0):
    """Wait until a condition holds; fails after so many seconds.

    That is far longer than anything takes on a machine that does nothing else, and far shorter than the timeouts of a
    gateway (30 s and more): what holds by then was not brought about by one of them.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to hold in time"
        await asyncio.sleep(0.005)


async def raw(port, data, *, seconds=20.0, until_close=True):
    """Send bytes to a port and read what comes back, to its end or for a while."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(data)
        async with asyncio.timeout(seconds):
            return await (reader.read() if until_close else reader.readuntil(b"\r\n\r\n"))
    finally:
        writer.close()


def role(role_id, **policy):
    """A role with a routing policy."""
    return msgspec.convert({"role_id": role_id, "routing_policy": policy}, Role)
