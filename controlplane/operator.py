"""ClusterService: the operators' view of the cluster, and their orders to it.

Reads answer from the loop's immutable snapshot and wait for nothing. An order becomes an event, is
stored by the loop before its node hears of it, and is answered with the stored command. An order
whose `command_id` was used before gets the first answer again.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable
from typing import cast

import msgspec

from controlplane import routes
from controlplane.audit import Auditor
from controlplane.auth import Context, Gatekeeper
from controlplane.events import ClusterEvent, CommandRequested, ForgetRequested
from controlplane.loop import ControlLoop
from controlplane.near import find
from geniehive import __version__, codec
from geniehive.clock import Clock
from geniehive.command_codec import command_to_pb
from geniehive.config import RoutingConfig
from geniehive.errors import InvalidRequest, NotReady, Unauthenticated
from geniehive.resources import AuditEntry, Command, CommandKind, HealthStatus, Host, LeaseState, Service
from geniehive.v1 import cluster_service_pb2 as pb
from geniehive.v1 import cluster_service_pb2_grpc as pb_grpc

_DEFAULT_COMMANDS = 100
_MOST_COMMANDS = 1000
_LONGEST_ID = 256
_ROUTING = RoutingConfig()
_WATCH = "/geniehive.v1.ClusterService/WatchEvents"


def new_command_id() -> str:
    """An id for a command whose caller chose none."""
    return uuid.uuid4().hex


class ClusterService(pb_grpc.ClusterServiceServicer):
    """The gRPC edge for operators; `routing` is that section of the config. Without `callers` it is open."""

    def __init__(
        self,
        loop: ControlLoop,
        clock: Clock,
        callers: Gatekeeper | None = None,
        auditor: Auditor | None = None,
        *,
        routing: RoutingConfig = _ROUTING,
        new_id: Callable[[], str] = new_command_id,
    ) -> None:
        self._loop = loop
        self._clock = clock
        self._started = clock.monotonic()
        self._routing = routing
        self._new_id = new_id
        self._callers = callers or Gatekeeper((), ())
        self._auditor = auditor or Auditor(loop, clock, self._callers)

    # --- reads ---------------------------------------------------------------------------------

    async def GetCluster(self, _request: pb.GetClusterRequest, _context: Context) -> pb.GetClusterResponse:
        """The cluster in a few numbers."""
        snapshot = self._loop.snapshot
        up = {host.host_id for host in snapshot.hosts.values() if host.lease is LeaseState.UP}
        healthy = [
            service
            for service in snapshot.services.values()
            if service.health.status is HealthStatus.HEALTHY and service.host_id in up
        ]
        return pb.GetClusterResponse(
            epoch=snapshot.epoch,
            revision=snapshot.revision,
            version=__version__,
            hosts_up=len(up),
            hosts_total=len(snapshot.hosts),
            services_healthy=len(healthy),
            services_total=len(snapshot.services),
            gateways=self._loop.gateways,
            uptime_seconds=self._clock.monotonic() - self._started,
            refused_calls=self._callers.refusals.counts,
        )

    async def ListHosts(self, _request: pb.ListHostsRequest, _context: Context) -> pb.ListHostsResponse:
        """Hosts, by id."""
        return pb.ListHostsResponse(hosts=[codec.host_to_pb(host) for host in self._loop.host_views()])

    async def GetHost(self, request: pb.GetHostRequest, _context: Context) -> pb.GetHostResponse:
        """One host with its services."""
        host = self._host(request.host_id)
        services = [codec.service_to_pb(service) for service in self._services() if service.host_id == host.host_id]
        return pb.GetHostResponse(host=codec.host_to_pb(host), services=services)

    async def ListServices(self, request: pb.ListServicesRequest, _context: Context) -> pb.ListServicesResponse:
        """Services, by id."""
        operation = codec.operation_from_pb(request.operation)
        if request.host_id:
            self._host(request.host_id)
        chosen = [
            codec.service_to_pb(service)
            for service in self._services()
            if request.host_id in {"", service.host_id} and (operation is None or operation in service.operations)
        ]
        return pb.ListServicesResponse(services=chosen)

    async def GetService(self, request: pb.GetServiceRequest, _context: Context) -> pb.GetServiceResponse:
        """One service."""
        return pb.GetServiceResponse(service=codec.service_to_pb(self._service(request.service_id)))

    async def ListRoles(self, _request: pb.ListRolesRequest, _context: Context) -> pb.ListRolesResponse:
        """Roles, by id."""
        roles = self._loop.snapshot.roles
        return pb.ListRolesResponse(roles=[codec.role_to_pb(roles[key]) for key in sorted(roles)])

    async def GetRole(self, request: pb.GetRoleRequest, _context: Context) -> pb.GetRoleResponse:
        """One role."""
        return pb.GetRoleResponse(role=codec.role_to_pb(find("role", self._loop.snapshot.roles, request.role_id)))

    async def ListCommands(self, request: pb.ListCommandsRequest, _context: Context) -> pb.ListCommandsResponse:
        """Commands, newest first."""
        limit = min(request.limit or _DEFAULT_COMMANDS, _MOST_COMMANDS)
        mine = [each for each in reversed(self._loop.commands) if request.host_id in {"", each.host_id}]
        return pb.ListCommandsResponse(commands=[command_to_pb(each) for each in mine[:limit]])

    async def GetCommand(self, request: pb.GetCommandRequest, _context: Context) -> pb.GetCommandResponse:
        """One command."""
        known = {command.command_id: command for command in self._loop.commands}
        return pb.GetCommandResponse(command=command_to_pb(find("command", known, request.command_id)))

    async def ResolveRoute(self, request: pb.ResolveRouteRequest, _context: Context) -> pb.ResolveRouteResponse:
        """What a model name leads to now."""
        return routes.resolve_route(request, self._loop.snapshot, self._routing)

    async def MatchRoutes(self, request: pb.MatchRoutesRequest, _context: Context) -> pb.MatchRoutesResponse:
        """Roles and services for a task in words."""
        return routes.match_routes(request, self._loop.snapshot, self._routing)

    async def WatchEvents(
        self, request: pb.WatchEventsRequest, context: Context
    ) -> AsyncIterator[pb.WatchEventsResponse]:
        """What happens in the cluster, as it happens; until the caller's token ends."""
        with self._loop.events() as events:
            await context.send_initial_metadata(())  # from here on nothing is missed: let the caller know
            coming = aiter(events)
            while (event := await self._next_event(coming, context)) is not None:
                if event.kind in {"token.revoked", "member.removed"}:
                    self._callers.check_again(_WATCH, context)
                if request.host_id in {"", event.host_id}:
                    yield pb.WatchEventsResponse(
                        at_ms=event.at_ms,
                        kind=event.kind,
                        host_id=event.host_id,
                        service_id=event.service_id,
                        message=event.message,
                        revision=event.revision,
                    )
        raise NotReady("the control plane is stopping, or this watcher read too slowly: watch again")

    async def _next_event(self, events: AsyncIterator[ClusterEvent], context: Context) -> ClusterEvent | None:
        """What happens next; None at the end. Raises Unauthenticated when the caller's token expires before."""
        try:
            async with asyncio.timeout(self._callers.time_left(context)):
                return await anext(events, None)
        except TimeoutError:
            raise Unauthenticated("the token has expired: make another (geniehive token create)") from None

    # --- orders --------------------------------------------------------------------------------

    async def LoadModel(self, request: pb.LoadModelRequest, context: Context) -> pb.LoadModelResponse:
        """Orders a node to bring a model into memory."""
        size = request.context_size if request.HasField("context_size") else None
        async with self._auditor.doing(context, "model.load", f"{request.service_id} {request.asset_id}") as entry:
            command = await self._order(self._about_model(CommandKind.LOAD, request, size), entry)
        return pb.LoadModelResponse(command=command_to_pb(command))

    async def UnloadModel(self, request: pb.UnloadModelRequest, context: Context) -> pb.UnloadModelResponse:
        """Orders a node to take a model out of memory."""
        async with self._auditor.doing(context, "model.unload", f"{request.service_id} {request.asset_id}") as entry:
            command = await self._order(self._about_model(CommandKind.UNLOAD, request, None), entry)
        return pb.UnloadModelResponse(command=command_to_pb(command))

    async def ProbeService(self, request: pb.ProbeServiceRequest, context: Context) -> pb.ProbeServiceResponse:
        """Orders a node to look at a service now."""
        async with self._auditor.doing(context, "service.probe", request.service_id) as entry:
            command = await self._order(
                self._about_service(CommandKind.PROBE, request.service_id, request.command_id), entry
            )
        return pb.ProbeServiceResponse(command=command_to_pb(command))

    async def DrainHost(self, request: pb.DrainHostRequest, context: Context) -> pb.DrainHostResponse:
        """Takes a host out of the routes."""
        host = await self._about_host(CommandKind.DRAIN, request.host_id, context)
        return pb.DrainHostResponse(host=codec.host_to_pb(host))

    async def ResumeHost(self, request: pb.ResumeHostRequest, context: Context) -> pb.ResumeHostResponse:
        """Puts a drained host back into the routes."""
        host = await self._about_host(CommandKind.RESUME, request.host_id, context)
        return pb.ResumeHostResponse(host=codec.host_to_pb(host))

    async def ForgetHost(self, request: pb.ForgetHostRequest, context: Context) -> pb.ForgetHostResponse:
        """Forgets a host that is not up."""
        async with self._auditor.doing(context, "node.forget", request.host_id) as entry:
            await self._loop.ask(ForgetRequested(host_id=self._host(request.host_id).host_id, audit=entry))
        return pb.ForgetHostResponse()

    # --- helpers -------------------------------------------------------------------------------

    def _host(self, host_id: str) -> Host:
        host = find("host", self._loop.snapshot.hosts, host_id)
        return self._loop.host_view(host_id) or host

    def _service(self, service_id: str) -> Service:
        return find("service", self._loop.snapshot.services, service_id)

    def _services(self) -> list[Service]:
        services = self._loop.snapshot.services
        return [services[key] for key in sorted(services)]

    def _about_model(
        self, kind: CommandKind, request: pb.LoadModelRequest | pb.UnloadModelRequest, context_size: int | None
    ) -> Command:
        command = self._about_service(kind, request.service_id, request.command_id)
        asset_id = request.asset_id
        service = self._loop.snapshot.services.get(request.service_id)
        if service is not None:
            names = {name: one.asset_id for one in service.assets for name in (*one.aliases, one.asset_id)}
            asset_id = find("asset", names, asset_id)
        return msgspec.structs.replace(command, asset_id=asset_id, context_size=context_size)

    def _about_service(self, kind: CommandKind, service_id: str, command_id: str) -> Command:
        repeated = next((one for one in self._loop.commands if command_id and one.command_id == command_id), None)
        # A repeat is answered even if its service is gone by now.
        host_id = repeated.host_id if repeated else self._service(service_id).host_id
        return self._command(kind, host_id, service_id, command_id)

    def _command(self, kind: CommandKind, host_id: str, service_id: str = "", command_id: str = "") -> Command:
        if len(command_id) > _LONGEST_ID:
            raise InvalidRequest(f"command_id is longer than {_LONGEST_ID} characters", param="command_id")
        now_ms = self._clock.unix_ms()
        return Command(
            command_id=command_id or self._new_id(),
            host_id=host_id,
            kind=kind,
            service_id=service_id,
            created_at_ms=now_ms,
            updated_at_ms=now_ms,
        )

    async def _about_host(self, kind: CommandKind, host_id: str, context: Context) -> Host:
        async with self._auditor.doing(context, f"node.{kind}", host_id) as entry:
            await self._order(self._command(kind, self._host(host_id).host_id), entry)
        return self._host(host_id)

    async def _order(self, command: Command, audit: AuditEntry) -> Command:
        return cast("Command", await self._loop.ask(CommandRequested(command=command, audit=audit)))
