"""The gRPC server: every service on one port, behind the keys, with health, reflection and channelz.

Errors and keys are interceptors, so a servicer says only what it does. Clients may ping every few
seconds without a call: that is how half-open connections are found.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import grpc.aio
from google.protobuf.descriptor import ServiceDescriptor
from grpc_channelz.v1 import channelz, channelz_pb2
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from controlplane.auth import AuthInterceptor, Gatekeeper
from controlplane.reflection import add_reflection
from controlplane.rpc_errors import ErrorInterceptor
from geniehive.errors import ConfigError
from geniehive.v1 import (
    access_service_pb2,
    access_service_pb2_grpc,
    benchmark_service_pb2,
    benchmark_service_pb2_grpc,
    cluster_service_pb2,
    cluster_service_pb2_grpc,
    node_service_pb2,
    node_service_pb2_grpc,
    routing_service_pb2,
    routing_service_pb2_grpc,
)

_PING_MS = 10_000
_PING_TIMEOUT_MS = 5_000
_ALLOWED_PING_MS = 5_000  # half of what our own clients do, so that none is turned away for a jitter
_LAST_PORT = 65535
_WHY = {
    errno.EADDRINUSE: "the port is in use: end the program that has it, or set control.listen to another port",
    errno.EADDRNOTAVAIL: "no interface of this machine has the address: set control.listen to one that it has",
    errno.EACCES: "ports below 1024 are for root: set control.listen to a higher one",
}


@dataclass(frozen=True, kw_only=True)
class Servicers:
    """What answers, one for each service of the wire contract."""

    node: node_service_pb2_grpc.NodeServiceServicer
    routing: routing_service_pb2_grpc.RoutingServiceServicer
    cluster: cluster_service_pb2_grpc.ClusterServiceServicer
    benchmarks: benchmark_service_pb2_grpc.BenchmarkServiceServicer
    access: access_service_pb2_grpc.AccessServiceServicer


class ControlServer:
    """A server that listens; made by `start`, ended by `announce_end` and `stop`."""

    def __init__(self, server: grpc.aio.Server, health_servicer: health.aio.HealthServicer, address: str) -> None:
        self._server = server
        self._health = health_servicer
        self.address = address
        """host:port that it listens on, with the port that was taken where 0 was asked for."""

    @classmethod
    async def start(
        cls,
        servicers: Servicers,
        gatekeeper: Gatekeeper,
        *,
        listen: str,
        max_message_bytes: int,
        credentials: grpc.ServerCredentials | None = None,
    ) -> ControlServer:
        """Listens on `listen` ("host:port") and serves; without credentials it is plain gRPC.

        Raises:
            ConfigError: The address cannot be listened on.
        """
        server = grpc.aio.server(
            interceptors=(AuthInterceptor(gatekeeper), ErrorInterceptor()), options=_options(max_message_bytes)
        )
        health_servicer = await _add_services(server, servicers)
        port = _bind(server, listen, credentials)
        await server.start()
        return cls(server, health_servicer, f"{listen.rpartition(':')[0]}:{port}")

    async def announce_end(self) -> None:
        """Says NOT_SERVING to health checks from here on."""
        await self._health.enter_graceful_shutdown()

    async def stop(self, grace_s: float) -> None:
        """Takes no new calls, and ends what is left after `grace_s`."""
        await self._server.stop(grace_s)


def _options(max_message_bytes: int) -> list[tuple[str, int]]:
    return [
        ("grpc.so_reuseport", 0),  # a port in use is an error, not a second server that takes half of the calls
        ("grpc.max_receive_message_length", max_message_bytes),
        ("grpc.max_send_message_length", max_message_bytes),
        ("grpc.keepalive_time_ms", _PING_MS),
        ("grpc.keepalive_timeout_ms", _PING_TIMEOUT_MS),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.http2.min_recv_ping_interval_without_data_ms", _ALLOWED_PING_MS),
        ("grpc.http2.max_ping_strikes", 3),
        ("grpc.enable_channelz", 1),
    ]


async def _add_services(server: grpc.aio.Server, servicers: Servicers) -> health.aio.HealthServicer:
    adders: tuple[tuple[ServiceDescriptor, Callable[[Any, grpc.aio.Server], None], Any], ...] = (
        (_service(node_service_pb2), node_service_pb2_grpc.add_NodeServiceServicer_to_server, servicers.node),
        (
            _service(routing_service_pb2),
            routing_service_pb2_grpc.add_RoutingServiceServicer_to_server,
            servicers.routing,
        ),
        (
            _service(cluster_service_pb2),
            cluster_service_pb2_grpc.add_ClusterServiceServicer_to_server,
            servicers.cluster,
        ),
        (
            _service(benchmark_service_pb2),
            benchmark_service_pb2_grpc.add_BenchmarkServiceServicer_to_server,
            servicers.benchmarks,
        ),
        (_service(access_service_pb2), access_service_pb2_grpc.add_AccessServiceServicer_to_server, servicers.access),
    )
    health_servicer = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(health_servicer, server)
    channelz.add_channelz_servicer(server)
    for descriptor, add, servicer in adders:
        add(servicer, server)
        await health_servicer.set(descriptor.full_name, health_pb2.HealthCheckResponse.SERVING)
    own = [descriptor.full_name for descriptor, _, _ in adders]
    add_reflection(server, [*own, _service(health_pb2).full_name, _service(channelz_pb2).full_name])
    return health_servicer


def _service(module: Any) -> ServiceDescriptor:
    """The one service that a proto file of ours, and of gRPC's own, has."""
    (service,) = module.DESCRIPTOR.services_by_name.values()
    found: ServiceDescriptor = service
    return found


async def check_address(listen: str) -> None:
    """Tries the address with a plain socket: gRPC's own attempt says neither why nor quietly.

    Raises:
        ConfigError: It cannot be listened on, and why.
    """
    host, _, port = listen.rpartition(":")
    if not host or not port.isdecimal() or int(port) > _LAST_PORT:
        raise _cannot_listen(listen, 'it is not of the form "host:port"')
    try:
        found = await asyncio.get_running_loop().getaddrinfo(
            host.strip("[]"), int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        family, kind, protocol, _, address = found[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            probe.listen()
    except OSError as error:
        raise _cannot_listen(listen, _WHY.get(error.errno or 0, error.strerror or str(error))) from error


def _bind(server: grpc.aio.Server, listen: str, credentials: grpc.ServerCredentials | None) -> int:
    try:
        port = server.add_secure_port(listen, credentials) if credentials else server.add_insecure_port(listen)
    except RuntimeError as error:
        raise _cannot_listen(listen, str(error)) from error
    if port == 0:
        raise _cannot_listen(listen, "gRPC cannot bind it")
    return port


def _cannot_listen(listen: str, why: str) -> ConfigError:
    return ConfigError(f"cannot listen on {listen}: {why}", param="control.listen")
