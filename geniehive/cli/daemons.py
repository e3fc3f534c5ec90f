"""`geniehive control | gateway | node` as commands, with their help; `daemon_start` reads the plain ones itself."""

from __future__ import annotations

from typing import Annotated

import typer

from geniehive.cli import daemon_run, joins, options
from geniehive.cli.daemon_start import Start
from geniehive.cli.log_level import LogLevel

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
    daemon_run.run(
        Start(
            daemon="control",
            config=config,
            insecure=insecure,
            log_level=log_level,
            log_json=log_json,
            parent_pid=parent_pid,
            ready_fd=ready_fd,
        )
    )


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
    daemon_run.run(
        Start(
            daemon="gateway",
            config=config,
            insecure=insecure,
            log_level=log_level,
            log_json=log_json,
            parent_pid=parent_pid,
            ready_fd=ready_fd,
        )
    )


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
    daemon_run.run(
        Start(
            daemon="node",
            config=config,
            log_level=log_level,
            log_json=log_json,
            parent_pid=parent_pid,
            ready_fd=ready_fd,
        )
    )
