"""`geniehive control | gateway | node`: the daemons, each alone in its process."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from geniehive.cli import joins, options
from geniehive.cli.options import LogLevel

if TYPE_CHECKING:
    import asyncio

    from geniehive.cli.daemon import Ready
    from geniehive.config import Config
    from geniehive.config_load import LoadedConfig

ParentPid = Annotated[int, typer.Option("--parent-pid", hidden=True)]
ReadyFd = Annotated[int, typer.Option("--ready-fd", hidden=True)]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(control)
    for daemon, join in ((gateway, joins.join_gateway), (node, joins.join_node)):
        group = typer.Typer(rich_markup_mode=None, pretty_exceptions_enable=False)
        group.callback(invoke_without_command=True)(daemon)
        group.command("join")(join)
        app.add_typer(group, name=daemon.__name__)
    app.command()(joins.login)


def control(
    config: options.ConfigFile = None,
    insecure: options.Insecure = False,
    log_level: options.Level = LogLevel.INFO,
    log_json: options.LogJson = False,
    parent_pid: ParentPid = 0,
    ready_fd: ReadyFd = -1,
) -> None:
    """Run the control plane: sections control, storage, auth, roles_path, routing."""
    import asyncio

    from geniehive.cli.daemon import Supervision, serve
    from geniehive.config_check import check_exposure

    loaded = _with_tls(_load(config).config, insecure=insecure)
    check_exposure(loaded, insecure=insecure, gateway=False)
    reload = asyncio.Event()

    async def run(stop: asyncio.Event, ready: Ready) -> None:
        from controlplane import app

        await app.run(loaded, stop=stop, ready=ready, reload=reload)

    supervision = Supervision(parent_pid=parent_pid, ready_fd=ready_fd)
    serve("control", run, level=log_level, log_json=log_json, supervision=supervision, reload=reload)


def gateway(
    context: typer.Context,
    config: options.ConfigFile = None,
    insecure: options.Insecure = False,
    log_level: options.Level = LogLevel.INFO,
    log_json: options.LogJson = False,
    parent_pid: ParentPid = 0,
    ready_fd: ReadyFd = -1,
) -> None:
    """Run the gateway: sections gateway, control_plane, auth, routing."""
    if context.invoked_subcommand is not None:
        return
    import asyncio

    from geniehive.cli.daemon import Supervision, serve
    from geniehive.config_check import check_exposure

    loaded = joins.as_joined(_load(config), "gateway")
    check_exposure(loaded, insecure=insecure, control=False)
    reload = asyncio.Event() if loaded.gateway.tls_cert_file else None

    async def run(stop: asyncio.Event, ready: Ready) -> None:
        from gateway import app

        await app.run(loaded, stop=stop, ready=ready, reload=reload)

    supervision = Supervision(parent_pid=parent_pid, ready_fd=ready_fd)
    serve("gateway", run, level=log_level, log_json=log_json, supervision=supervision, reload=reload)


def node(
    context: typer.Context,
    config: options.ConfigFile = None,
    log_level: options.Level = LogLevel.INFO,
    log_json: options.LogJson = False,
    parent_pid: ParentPid = 0,
    ready_fd: ReadyFd = -1,
) -> None:
    """Run the node agent of this host: sections node, services, control_plane."""
    if context.invoked_subcommand is not None:
        return
    from geniehive.cli.daemon import Supervision, serve

    loaded = joins.as_joined(_load(config), "node")

    async def run(stop: asyncio.Event, ready: Ready) -> None:
        from nodeagent import app

        await app.run(loaded, stop=stop, ready=ready)

    supervision = Supervision(parent_pid=parent_pid, ready_fd=ready_fd)
    serve("node", run, level=log_level, log_json=log_json, supervision=supervision)


def _load(config: Path | None) -> LoadedConfig:
    from geniehive.config_load import load_config

    return load_config(config, os.environ)


def _with_tls(config: Config, *, insecure: bool) -> Config:
    """The config of a control plane, whose `control.tls: auto` is off where the operator insists."""
    if not insecure or config.control.tls != "auto":
        return config
    import msgspec

    return msgspec.structs.replace(config, control=msgspec.structs.replace(config.control, tls="off"))
