"""`geniehive load | unload | probe | drain | resume | forget`: orders to the cluster.

They take a key with the scope operator, `forget` one with the scope admin.
"""

from __future__ import annotations

import time
from typing import Annotated, Any

import typer

from geniehive.cli import client, options, tables
from geniehive.cli.options import Output
from geniehive.cli.output import Listing, print_listing
from geniehive.errors import InternalError
from geniehive.resources import Command, CommandState

ServiceId = Annotated[str, typer.Argument(metavar="SERVICE", help="Service id, as geniehive services shows it.")]
ModelId = Annotated[str, typer.Argument(metavar="MODEL", help="Model, as geniehive models shows it.")]
HostId = Annotated[str, typer.Argument(metavar="HOST", help="Host id, as geniehive nodes shows it.")]
NoWait = Annotated[bool, typer.Option("--no-wait", help="Return when the order is stored, not when it is done.")]
Timeout = Annotated[float, typer.Option("--timeout", min=1, help="Seconds to wait for the end.")]

_ENDED = frozenset({CommandState.SUCCEEDED, CommandState.FAILED, CommandState.UNKNOWN})
_POLL_S = 0.2


def register(app: typer.Typer) -> None:
    """Add the commands."""
    for command in (load, unload, probe, drain, resume, forget):
        app.command()(command)


def load(
    service: ServiceId,
    model: ModelId,
    context: Annotated[
        int | None, typer.Option("--context", min=1, help="Tokens of context; else the engine's.")
    ] = None,
    no_wait: NoWait = False,
    timeout: Timeout = 600,
    config: options.ConfigFile = None,
    control: options.Control = "",
    api_key: options.ApiKey = "",
) -> None:
    """Bring a model into memory."""
    from geniehive.v1 import cluster_service_pb2 as pb

    request = pb.LoadModelRequest(service_id=service, asset_id=model, context_size=context)
    _order(client.target(config, control, api_key), "LoadModel", request, 0 if no_wait else timeout)


def unload(
    service: ServiceId,
    model: ModelId,
    no_wait: NoWait = False,
    timeout: Timeout = 120,
    config: options.ConfigFile = None,
    control: options.Control = "",
    api_key: options.ApiKey = "",
) -> None:
    """Take a model out of memory."""
    from geniehive.v1 import cluster_service_pb2 as pb

    request = pb.UnloadModelRequest(service_id=service, asset_id=model)
    _order(client.target(config, control, api_key), "UnloadModel", request, 0 if no_wait else timeout)


def probe(
    service: ServiceId,
    no_wait: NoWait = False,
    timeout: Timeout = 30,
    config: options.ConfigFile = None,
    control: options.Control = "",
    api_key: options.ApiKey = "",
) -> None:
    """Have a service looked at now."""
    from geniehive.v1 import cluster_service_pb2 as pb

    request = pb.ProbeServiceRequest(service_id=service)
    _order(client.target(config, control, api_key), "ProbeService", request, 0 if no_wait else timeout)


def drain(
    host: HostId,
    config: options.ConfigFile = None,
    control: options.Control = "",
    api_key: options.ApiKey = "",
) -> None:
    """Take a host out of the routes; what runs there may finish."""
    from geniehive.v1 import cluster_service_pb2 as pb

    _call(client.target(config, control, api_key), "DrainHost", pb.DrainHostRequest(host_id=host))
    print(f"{host}: draining; geniehive resume {host} puts it back")


def resume(
    host: HostId,
    config: options.ConfigFile = None,
    control: options.Control = "",
    api_key: options.ApiKey = "",
) -> None:
    """Put a drained host back into the routes."""
    from geniehive.v1 import cluster_service_pb2 as pb

    _call(client.target(config, control, api_key), "ResumeHost", pb.ResumeHostRequest(host_id=host))
    print(f"{host}: available")


def forget(
    host: HostId,
    config: options.ConfigFile = None,
    control: options.Control = "",
    api_key: options.ApiKey = "",
) -> None:
    """Forget a host that is not up, with its services."""
    from geniehive.v1 import cluster_service_pb2 as pb

    _call(client.target(config, control, api_key), "ForgetHost", pb.ForgetHostRequest(host_id=host))
    print(f"{host}: forgotten")


def _call(where: client.Target, method: str, request: Any) -> Any:
    async def talk(cluster: client.ClusterClient) -> Any:
        return await cluster.call(method, request)

    return client.ask(where, talk)


def _order(where: client.Target, method: str, request: Any, patience_s: float) -> None:
    """Give an order, follow it to its end, and print where it stands. Raises InternalError if it failed."""

    async def talk(cluster: client.ClusterClient) -> Command:
        return await _follow(cluster, method, request, patience_s)

    command = client.ask(where, talk)
    print_listing(_listing(command), Output.TABLE)
    if command.state in {CommandState.FAILED, CommandState.UNKNOWN}:
        raise InternalError(f"{command.kind.value} did not succeed: {command.message or command.state.value}")
    if patience_s and command.state not in _ENDED:
        raise InternalError(f"no end after {patience_s:g} s; geniehive commands shows how it goes on")


async def _follow(cluster: client.ClusterClient, method: str, request: Any, patience_s: float) -> Command:
    import asyncio

    from geniehive.command_codec import command_from_pb
    from geniehive.v1 import cluster_service_pb2 as pb

    command = command_from_pb((await cluster.call(method, request)).command)
    deadline = time.monotonic() + patience_s
    while command.state not in _ENDED and time.monotonic() < deadline:
        await asyncio.sleep(_POLL_S)
        answer = await cluster.call("GetCommand", pb.GetCommandRequest(command_id=command.command_id))
        command = command_from_pb(answer.command)
    return command


def _listing(command: Command) -> Listing:
    return tables.command_listing([command], time.time() * 1000)
