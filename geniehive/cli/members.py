"""`geniehive token create --join`, `geniehive nodes approve | pending | remove`: who may join, and who has."""

from __future__ import annotations

import time
from typing import Annotated, Any

import typer

from geniehive.cli import client, options
from geniehive.cli.options import Output
from geniehive.cli.output import Listing, print_listing
from geniehive.errors import ConfigError

Name = Annotated[str, typer.Argument(metavar="HOST", help="Host id; with --kind gateway a gateway's.")]
KindOption = Annotated[str, typer.Option("--kind", help="node, gateway, operator or admin.")]

_COMMANDS = {"node": "node join", "gateway": "gateway join", "operator": "login", "admin": "login"}
_STATES = {1: "pending", 2: "approved", 3: "joined", 4: "removed"}


def join_line(where: client.Target, *, kind: str, name: str, ttl_s: int, address: str) -> str:
    """The line to paste on the other machine. Raises GenieHiveError."""
    from geniehive.v1 import access_service_pb2 as pb

    if kind not in _COMMANDS:
        raise ConfigError(f"--kind {kind}: choose from {', '.join(_COMMANDS)}")
    request = pb.CreateJoinTokenRequest(host_id=name, ttl_seconds=ttl_s, kind=kind)
    made = call(where, "CreateJoinToken", request)
    return f"geniehive {_COMMANDS[kind]} {address or made.address} {made.join_token}"


def call(where: client.Target, method: str, request: Any) -> Any:
    """One call of AccessService. Raises GenieHiveError."""

    async def talk(cluster: client.ClusterClient) -> Any:
        return await cluster.access(method, request)

    return client.ask(where, talk)


def approve(
    name: Name,
    kind: KindOption = "node",
    config: options.ConfigFile = None,
    control: options.Control = "",
    api_key: options.ApiKey = "",
) -> None:
    """Let a host in that waits for approval."""
    from geniehive.v1 import access_service_pb2 as pb

    call(client.target(config, control, api_key), "ApproveNode", pb.ApproveNodeRequest(host_id=name, kind=kind))
    print(f"{name}: approved; it gets its certificate within seconds")


def remove(
    name: Name,
    kind: KindOption = "node",
    config: options.ConfigFile = None,
    control: options.Control = "",
    api_key: options.ApiKey = "",
) -> None:
    """Take a host out: its certificate is refused at once, and it must join again."""
    from geniehive.v1 import access_service_pb2 as pb

    call(client.target(config, control, api_key), "RemoveMember", pb.RemoveMemberRequest(name=name, kind=kind))
    print(f"{name}: removed; a token for it lets it join again: geniehive token create --join --host-id {name}")


def members(
    everybody: Annotated[bool, typer.Option("--all", "-a", help="Those that have joined too.")] = False,
    config: options.ConfigFile = None,
    control: options.Control = "",
    api_key: options.ApiKey = "",
    output: options.OutputFormat = Output.TABLE,
) -> None:
    """List who waits for approval, and with --all everybody with a certificate."""
    from geniehive.v1 import access_service_pb2 as pb

    answer = call(client.target(config, control, api_key), "ListMembers", pb.ListMembersRequest())
    found = [member for member in answer.members if everybody or member.state == pb.MEMBER_STATE_PENDING]
    rows = [(one.kind, one.name, _STATES.get(one.state, "?"), one.peer or "-", _until(one.expires_at)) for one in found]
    values = [
        {"kind": one.kind, "name": one.name, "state": _STATES.get(one.state, ""), "peer": one.peer,
         "expires_at": one.expires_at or None}
        for one in found
    ]  # fmt: skip
    print_listing(
        Listing(columns=("KIND", "NAME", "STATE", "FROM", "CERTIFICATE UNTIL"), rows=rows, values=values), output
    )


def _until(unix_s: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(unix_s)) if unix_s else "-"
