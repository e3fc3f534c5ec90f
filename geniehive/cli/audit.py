"""`geniehive audit`: who did what to the cluster; it takes an admin key."""

from __future__ import annotations

import time
from typing import Annotated, Any

import typer

from geniehive.cli import cells, client, options
from geniehive.cli.options import Output
from geniehive.cli.output import Listing, print_listing
from geniehive.resources import AuditEntry


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(audit)


def audit(
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=1000, help="How many at most.")] = 50,
    before: Annotated[int, typer.Option("--before", min=0, metavar="ID", help="Only older ones than this entry.")] = 0,
    actor: Annotated[str, typer.Option("--actor", metavar="KEY", help="Only what this key did.")] = "",
    action: Annotated[
        str, typer.Option("--action", metavar="ACTION", help="Only actions that begin so, such as token.")
    ] = "",
    config: options.ConfigFile = None,
    control: options.Control = "",
    api_key: options.ApiKey = "",
    output: options.OutputFormat = Output.TABLE,
) -> None:
    """List who did what to the cluster, newest first."""
    from geniehive import codec
    from geniehive.v1 import access_service_pb2 as pb

    request = pb.ListAuditEntriesRequest(limit=limit, before_entry_id=before, actor=actor, action=action)

    async def talk(cluster: client.ClusterClient) -> Any:
        return await cluster.access("ListAuditEntries", request)

    answer = client.ask(client.target(config, control, api_key), talk)
    found = [codec.audit_from_pb(each) for each in answer.entries]
    print_listing(
        Listing(
            columns=("TIME", "ACTOR", "ACTION", "SUBJECT", "OUTCOME", "ID"),
            wide=1,
            rows=[_row(entry) for entry in found],
            values=found,
            empty="nobody did anything of that kind yet",
        ),
        output,
    )


def _row(entry: AuditEntry) -> tuple[str, ...]:
    at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(entry.at_ms / 1000))
    return at, entry.actor, entry.action, cells.text(entry.subject), entry.outcome, str(entry.entry_id)
