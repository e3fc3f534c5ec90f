"""`geniehive node join | gateway join | login`: get a certificate for a join token, keep it, and go on.

`node join` and `gateway join` then start their daemon in place of this process, whose arguments have the token in them:
one pasted line and the host works. The token may also come on stdin (`-`), where others cannot see it.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from geniehive.cli import options
from geniehive.errors import ConfigError, Conflict

if TYPE_CHECKING:
    from geniehive.config_load import LoadedConfig
    from geniehive.identity import Kind
    from geniehive.membership import Joined, Membership

Address = Annotated[str, typer.Argument(metavar="HOST:PORT", help="The control plane.")]
Token = Annotated[str, typer.Argument(metavar="TOKEN", help="Join token; - reads it from stdin.")]
NoStart = Annotated[bool, typer.Option("--no-start", help="Only join; start the daemon yourself.")]
ServerName = Annotated[
    str,
    typer.Option(
        "--server-name", help="Name in the control plane's certificate, if it is not one that it makes itself."
    ),
]


def join_node(
    address: Address,
    token: Token,
    host_id: Annotated[str, typer.Option("--host-id", help="Name in the cluster; else the host's own.")] = "",
    no_start: NoStart = False,
    server_name: ServerName = "",
    config: options.ConfigFile = None,
) -> None:
    """Join a cluster as a host, and run the node agent."""
    from geniehive.identity import Kind
    from nodeagent.host import host_id_of

    loaded = _load(config).config
    name = host_id or loaded.node.host_id
    _join(Kind.HOST, loaded.node.state_dir, address, token, (name, host_id_of(loaded.node)), server_name)
    if not no_start:
        _become("node", config)


def join_gateway(
    address: Address,
    token: Token,
    gateway_id: Annotated[str, typer.Option("--gateway-id", help="Name in the cluster; else the host's own.")] = "",
    no_start: NoStart = False,
    server_name: ServerName = "",
    config: options.ConfigFile = None,
) -> None:
    """Join a cluster as a gateway, and run it."""
    import msgspec

    from geniehive.identity import Kind
    from nodeagent.host import host_id_of

    loaded = _load(config).config
    name = gateway_id or loaded.gateway.gateway_id
    proposed = host_id_of(msgspec.structs.replace(loaded.node, host_id=""))
    _join(Kind.GATEWAY, loaded.gateway.state_dir, address, token, (name, proposed), server_name)
    if not no_start:
        _become("gateway", config)


def login(address: Address, token: Token, server_name: ServerName = "") -> None:
    """Get a certificate for yourself: later commands ask that control plane with it."""
    from geniehive.cli.trust import operator_folder
    from geniehive.identity import Kind
    from geniehive.membership import Membership

    kinds = frozenset({Kind.OPERATOR, Kind.ADMIN})
    joined = _apply(Membership(operator_folder()), kinds, address, token, ("", ""), server_name)
    print(f"logged in at {address} as {joined.kind} {joined.name}; geniehive nodes shows its hosts")


def _join(kind: Kind, state_dir: str, address: str, token: str, names: tuple[str, str], server_name: str) -> None:
    """Join as `names[0]`, or, where the token is for any name and none is wanted, as `names[1]`."""
    from geniehive.membership import Membership, folder_of

    membership = Membership(folder_of(state_dir, kind))
    joined = membership.joined()
    if joined is not None:
        raise Conflict(
            f"{membership.folder} has joined {', '.join(joined.addresses)} already, as {joined.kind} {joined.name}: "
            f"start it with geniehive {_command(kind)}, or remove that folder to join anew"
        )
    joined = _apply(membership, frozenset({kind}), address, token, names, server_name)
    print(f"joined {address} as {joined.kind} {joined.name}; its certificate is in {membership.folder}", flush=True)


def _apply(
    membership: Membership,
    kinds: frozenset[Kind],
    address: str,
    token: str,
    names: tuple[str, str],
    server_name: str,
) -> Joined:
    import asyncio

    from geniehive.config_check import parse_address
    from geniehive.identity import CONTROL_NAME
    from geniehive.join_token import parse_join_token
    from geniehive.joining import Application, join

    try:
        parse_address(address)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    wish = Application(
        address=address,
        token=parse_join_token(sys.stdin.readline() if token == "-" else token),  # noqa: S105 - stdin, no secret
        name=names[0],
        proposed_name=names[1],
        kinds=kinds,
        server_name=server_name or CONTROL_NAME,
    )
    membership.prepare()  # before the token is used up
    credentials, joined = asyncio.run(join(wish, _waiting))
    membership.keep(credentials, joined)
    return joined


def _waiting(name: str) -> None:
    print(f"{name} waits for approval: geniehive nodes approve {name}, where the control plane runs", flush=True)


def _command(kind: Kind) -> str:
    return "gateway" if kind.value == "gateway" else "node"


def _become(command: str, config: Path | None) -> None:
    """Go on as the daemon: the same process, without the token among its arguments."""
    print(f"starting geniehive {command}; later start it so yourself, or from your init system", flush=True)
    arguments = ["--config", str(config)] if config else []
    os.execv(sys.executable, [sys.executable, "-P", "-m", "geniehive.cli", command, *arguments])  # noqa: S606 - itself


def _load(config: Path | None) -> LoadedConfig:
    from geniehive.config_load import load_config

    return load_config(config, os.environ)
