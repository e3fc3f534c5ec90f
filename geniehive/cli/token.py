"""`geniehive token`: for now, of those who join."""

from __future__ import annotations

from typing import Annotated

import typer

from geniehive.cli import client, members, options
from geniehive.errors import ConfigError

token = typer.Typer(no_args_is_help=True, rich_markup_mode=None, pretty_exceptions_enable=False)


def register(app: typer.Typer) -> None:
    """Add the group."""
    app.add_typer(token, name="token")


@token.callback()
def group() -> None:
    """Tokens: who may use the cluster, and who may join it."""


@token.command()
def create(
    join: Annotated[bool, typer.Option("--join", help="A token to join with; prints the line for the other host.")] = False,
    kind: Annotated[str, typer.Option("--kind", help="--join: node, gateway, operator or admin.")] = "node",
    host_id: Annotated[str, typer.Option("--host-id", "--name", help="--join: for this name alone.")] = "",
    ttl: Annotated[int, typer.Option("--ttl", min=1, help="--join: seconds until it expires.")] = 3600,
    address: Annotated[str, typer.Option("--address", help="--join: how the other host reaches the control plane.")] = "",
    config: options.ConfigFile = None,
    control: options.Control = "",
    api_key: options.ApiKey = "",
) -> None:
    """Make a token."""
    if not join:
        raise ConfigError("only --join is known")
    where = client.target(config, control, api_key)
    print(members.join_line(where, kind=kind, name=host_id, ttl_s=ttl, address=address))
