"""`geniehive token create | list | revoke`: who may use the cluster; they take an admin key.

The secret is printed alone, so that a shell can take it up; what is to be said about it goes to standard error.
"""

from __future__ import annotations

import re
import sys
import time
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from geniehive import access
from geniehive.cli import cells, client, members, options
from geniehive.cli.options import Output
from geniehive.cli.output import Listing, print_document, print_listing
from geniehive.errors import ConfigError, InvalidRequest
from geniehive.resources import AccessKey, Operation

token = typer.Typer(
    help="Make, list and revoke tokens.", no_args_is_help=True, rich_markup_mode=None, pretty_exceptions_enable=False
)
Name = Annotated[str, typer.Argument(metavar="NAME", help="Name of the token, as receipts and logs show it.")]
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


def register(app: typer.Typer) -> None:
    """Add the group."""
    app.add_typer(token, name="token")


@token.callback()
def group() -> None:
    """Make, list and revoke tokens."""


@token.command()
def create(
    name: Annotated[
        str, typer.Argument(metavar="[NAME]", help="Name of the token, as receipts and logs show it; none for --join.")
    ] = "",
    scope: Annotated[
        list[str] | None, typer.Option("--scope", help=f"Of {', '.join(access.SCOPES)}; may be repeated.")
    ] = None,
    model: Annotated[
        list[str] | None, typer.Option("--model", metavar="MODEL", help="Only this model; may be repeated.")
    ] = None,
    role: Annotated[
        list[str] | None, typer.Option("--role", metavar="ROLE", help="Only this role; may be repeated.")
    ] = None,
    operation: Annotated[
        list[Operation] | None, typer.Option("--operation", help="Only this; may be repeated.")
    ] = None,
    priority: Annotated[str, typer.Option("--priority", help=f"One of {', '.join(access.PRIORITIES)}.")] = "",
    max_concurrency: Annotated[
        int | None, typer.Option("--max-concurrency", min=1, help="Requests open at once, in each gateway worker.")
    ] = None,
    expires: Annotated[
        str,
        typer.Option("--expires", "--ttl", metavar="TIME", help="12h, 30d, 2027-01-31; else never; 1h with --join."),
    ] = "",
    join: Annotated[
        bool, typer.Option("--join", help="A token to join with, once: prints the line to paste on the other machine.")
    ] = False,
    kind: Annotated[
        str, typer.Option("--kind", help="With --join: node, gateway, or operator or admin for a person.")
    ] = "node",
    host_id: Annotated[
        str, typer.Option("--host-id", "--name", help="With --join: only under this name; else any that is free.")
    ] = "",
    address: Annotated[
        str, typer.Option("--address", metavar="HOST:PORT", help="With --join: how the other machine reaches this.")
    ] = "",
    config: options.ConfigFile = None,
    control: options.Control = "",
    api_key: options.ApiKey = "",
    output: options.OutputFormat = Output.TABLE,
) -> None:
    """Make a token. Its secret is printed once, and kept nowhere."""
    if join:
        where, ends = client.target(config, control, api_key), parse_expiry(expires, time.time())
        ttl_s = 0 if ends is None else ends - int(time.time())
        print(members.join_line(where, kind=kind, name=host_id or name, ttl_s=ttl_s, address=address))
        return
    if not name:
        raise ConfigError("which name? geniehive token create NAME; or --join, for another machine")
    wanted = AccessKey(
        name=name,
        secret_sha256=b"",
        scopes=tuple(scope or (access.INFERENCE,)),
        models=(*(model or ()), *(role or ())),
        operations=tuple(operation or ()),
        priority=priority,
        max_concurrency=max_concurrency,
        expires_at=parse_expiry(expires, time.time()),
    )
    _make(client.target(config, control, api_key), wanted, output)


def _make(where: client.Target, wanted: AccessKey, output: Output) -> None:
    from geniehive import codec
    from geniehive.v1 import access_service_pb2 as pb

    request = pb.CreateTokenRequest(key=codec.key_to_pb(wanted))
    answer = _call(where, "CreateToken", request)
    made = codec.key_from_pb(answer.key)
    if output in {Output.JSON, Output.YAML}:
        print_document({"secret": answer.secret, "key": shown(made)}, output)
        return
    print(answer.secret)
    ends = f", until {moment(made.expires_at)}" if made.expires_at is not None else ""
    print(
        f"token {made.name} ({', '.join(made.scopes)}{ends}): copy it now, it is not shown again; "
        f"geniehive token revoke {made.name} ends it",
        file=sys.stderr,
    )


@token.command("list")
def list_tokens(
    everything: Annotated[bool, typer.Option("--all", "-a", help="Revoked ones too.")] = False,
    config: options.ConfigFile = None,
    control: options.Control = "",
    api_key: options.ApiKey = "",
    output: options.OutputFormat = Output.TABLE,
) -> None:
    """List the tokens, without their secrets."""
    from geniehive import codec
    from geniehive.v1 import access_service_pb2 as pb

    where = client.target(config, control, api_key)
    answer = _call(where, "ListTokens", pb.ListTokensRequest(include_revoked=everything))
    found = [codec.key_from_pb(each) for each in answer.keys]
    now = time.time()
    print_listing(
        Listing(
            columns=("NAME", "STATUS", "SCOPES", "MODELS", "OPERATIONS", "CREATED", "EXPIRES", "PRIORITY",
                     "CONCURRENCY", "BY"),
            wide=3,
            rows=[_row(key, now) for key in found],
            values=[shown(key) for key in found],
            empty="no tokens; geniehive token create NAME makes one",
        ),
        output,
    )  # fmt: skip


@token.command()
def revoke(
    name: Name,
    config: options.ConfigFile = None,
    control: options.Control = "",
    api_key: options.ApiKey = "",
) -> None:
    """End a token, and the streams that it opened."""
    from geniehive.v1 import access_service_pb2 as pb

    _call(client.target(config, control, api_key), "RevokeToken", pb.RevokeTokenRequest(name=name))
    print(f"{name}: revoked")


def _call(where: client.Target, method: str, request: Any) -> Any:
    async def talk(cluster: client.ClusterClient) -> Any:
        return await cluster.access(method, request)

    return client.ask(where, talk)


def _row(key: AccessKey, now: float) -> tuple[str, ...]:
    return (
        key.name, _status(key, now), cells.joined(key.scopes), cells.joined(key.models),
        cells.joined(one.value for one in key.operations), f"{cells.age(max(0.0, now - key.created_at))} ago",
        "never" if key.expires_at is None else moment(key.expires_at), cells.text(key.priority),
        cells.count(key.max_concurrency), cells.text(key.created_by),
    )  # fmt: skip


def _status(key: AccessKey, now: float) -> str:
    if key.revoked_at is not None:
        return "revoked"
    return "expired" if access.is_over(key, now) else "ok"


def shown(key: AccessKey) -> dict[str, Any]:
    """Every field of a token but its hash."""
    return {name: getattr(key, name) for name in key.__struct_fields__ if name != "secret_sha256"}


def moment(seconds: float) -> str:
    """A time in Unix seconds as date and time of here."""
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))


def parse_expiry(text: str, now: float) -> int | None:
    """Unix seconds of "12h", "30d", or a date (UTC where it does not say); None for nothing. Raises InvalidRequest."""
    if not text:
        return None
    if found := re.fullmatch(r"([0-9]{1,9})([smhdw])", text):
        return int(now) + int(found[1]) * _UNITS[found[2]]
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        raise InvalidRequest(f'--expires {text!r}: write a span such as "12h" or "30d", or a date') from None
    return int((when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp())
