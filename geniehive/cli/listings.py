"""`geniehive ps | nodes | models | roles | services | commands`: what is in the cluster, as tables or documents."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated

import typer

from geniehive.cli import client, exits, members, options, tables
from geniehive.cli.options import Output
from geniehive.cli.output import Listing, print_listing
from geniehive.errors import GenieHiveError

HostFilter = Annotated[str, typer.Option("--host", metavar="HOST", help="Only of this host.")]
Fetch = Callable[[client.ClusterClient], Awaitable[Listing]]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    for command in (ps, models, roles, services, commands):
        app.command()(command)
    hosts = typer.Typer(rich_markup_mode=None, pretty_exceptions_enable=False)
    hosts.callback(invoke_without_command=True)(nodes)
    hosts.command("approve")(members.approve)
    hosts.command("remove")(members.remove)
    hosts.command("members")(members.members)
    app.add_typer(hosts, name="nodes")


def ps(
    config: options.ConfigFile = None,
    control: options.Control = "",
    api_key: options.ApiKey = "",
    output: options.OutputFormat = Output.TABLE,
    watch: options.Watch = False,
    interval: options.Interval = 2.0,
    everything: Annotated[bool, typer.Option("--all", "-a", help="Models that are not in memory too.")] = False,
) -> None:
    """List the models in memory, and how busy they are."""
    _run(config, control, api_key, lambda cluster: tables.ps(cluster, everything=everything), output, watch, interval)


def nodes(
    context: typer.Context,
    config: options.ConfigFile = None,
    control: options.Control = "",
    api_key: options.ApiKey = "",
    output: options.OutputFormat = Output.TABLE,
    watch: options.Watch = False,
    interval: options.Interval = 2.0,
) -> None:
    """List the hosts."""
    if context.invoked_subcommand is not None:
        return
    _run(config, control, api_key, tables.nodes, output, watch, interval)


def models(
    config: options.ConfigFile = None,
    control: options.Control = "",
    api_key: options.ApiKey = "",
    output: options.OutputFormat = Output.TABLE,
    watch: options.Watch = False,
    interval: options.Interval = 2.0,
    host: HostFilter = "",
) -> None:
    """List the models, each once over all hosts."""
    _run(config, control, api_key, lambda cluster: tables.models(cluster, host), output, watch, interval)


def roles(
    config: options.ConfigFile = None,
    control: options.Control = "",
    api_key: options.ApiKey = "",
    output: options.OutputFormat = Output.TABLE,
    watch: options.Watch = False,
    interval: options.Interval = 2.0,
) -> None:
    """List the roles."""
    _run(config, control, api_key, tables.roles, output, watch, interval)


def services(
    config: options.ConfigFile = None,
    control: options.Control = "",
    api_key: options.ApiKey = "",
    output: options.OutputFormat = Output.TABLE,
    watch: options.Watch = False,
    interval: options.Interval = 2.0,
    host: HostFilter = "",
) -> None:
    """List the services: the engines and whether they answer."""
    _run(config, control, api_key, lambda cluster: tables.services(cluster, host), output, watch, interval)


def commands(
    config: options.ConfigFile = None,
    control: options.Control = "",
    api_key: options.ApiKey = "",
    output: options.OutputFormat = Output.TABLE,
    watch: options.Watch = False,
    interval: options.Interval = 2.0,
    host: HostFilter = "",
) -> None:
    """List the orders to nodes, newest first."""
    _run(config, control, api_key, lambda cluster: tables.commands(cluster, host), output, watch, interval)


def _run(
    config: Path | None,
    control: str,
    api_key: str,
    fetch: Fetch,
    output: Output,
    watch: bool,
    interval: float,
) -> None:
    import asyncio

    where = client.target(config, control, api_key)
    if not watch:
        print_listing(client.ask(where, fetch), output)
        return

    async def keep(cluster: client.ClusterClient) -> None:
        while True:
            await _once(cluster, fetch, output)
            await asyncio.sleep(interval)

    try:
        client.ask(where, keep)
    except KeyboardInterrupt:
        raise typer.Exit(exits.INTERRUPTED) from None


async def _once(cluster: client.ClusterClient, fetch: Fetch, output: Output) -> None:
    """One round of --watch; a control plane that is away for a while does not end it."""
    try:
        listing = await fetch(cluster)
    except GenieHiveError as error:
        exits.say_error(error.message)
        return
    if sys.stdout.isatty():
        print("\x1b[H\x1b[2J", end="")
    print_listing(listing, output)
    sys.stdout.flush()
