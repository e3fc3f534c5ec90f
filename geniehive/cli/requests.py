"""`geniehive requests` and `geniehive explain`: what became of requests, from the gateway's receipts."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import Annotated, Any
from urllib.parse import quote

import typer

from geniehive.cli import cells, exits, gateway_client, options, story
from geniehive.cli.options import Output
from geniehive.cli.output import Listing, print_document, print_listing
from geniehive.errors import GenieHiveError

_PATH = "/v1/cluster/requests"


def register(app: typer.Typer) -> None:
    """Add the commands."""
    for command in (requests, explain):
        app.command()(command)


def requests(
    config: options.ConfigFile = None,
    gateway: options.Gateway = "",
    api_key: options.GatewayKey = "",
    output: options.OutputFormat = Output.TABLE,
    watch: options.Watch = False,
    interval: options.Interval = 2.0,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=1000, help="How many at most.")] = 20,
    model: Annotated[str, typer.Option("--model", metavar="MODEL", help="Only for this model.")] = "",
    service: Annotated[str, typer.Option("--service", metavar="SERVICE", help="Only those that tried it.")] = "",
    status: Annotated[
        str, typer.Option("--status", metavar="STATUS", help="Only open, ok, failed, cut or cancelled; or 502, or 5xx.")
    ] = "",
) -> None:
    """List what the gateway was asked last, newest first."""
    wanted: dict[str, str | int] = {"limit": limit, "model": model, "service_id": service, "status": status}
    given = {name: value for name, value in wanted.items() if value}
    with gateway_client.GatewayClient(gateway_client.gateway_target(config, gateway, api_key)) as client:
        if not watch:
            print_listing(_listing(client, given), output)
            return
        try:
            while True:
                _once(client, given, output)
                time.sleep(interval)
        except KeyboardInterrupt:
            raise typer.Exit(exits.INTERRUPTED) from None


def explain(
    request_id: Annotated[str, typer.Argument(help="As in geniehive requests, or in the answer's x-request-id.")],
    config: options.ConfigFile = None,
    gateway: options.Gateway = "",
    api_key: options.GatewayKey = "",
    output: options.OutputFormat = Output.TABLE,
) -> None:
    """Tell the story of one request: who could answer it and why, who was tried, how it ended."""
    with gateway_client.GatewayClient(gateway_client.gateway_target(config, gateway, api_key)) as client:
        found = client.get(f"{_PATH}/{quote(request_id, safe='')}")
    if output in {Output.JSON, Output.YAML}:
        print_document(found, output)
    else:
        story.tell(found, wide=output is Output.WIDE)


def _once(client: gateway_client.GatewayClient, given: Mapping[str, str | int], output: Output) -> None:
    """One round of --watch; a gateway that is away for a while does not end it."""
    try:
        listing = _listing(client, given)
    except GenieHiveError as error:
        exits.say_error(error.message)
        return
    if sys.stdout.isatty():
        print("\x1b[H\x1b[2J", end="")
    print_listing(listing, output)
    sys.stdout.flush()


def _listing(client: gateway_client.GatewayClient, given: Mapping[str, str | int]) -> Listing:
    found = client.get(_PATH, given)["data"]
    return Listing(
        columns=("TIME", "ID", "MODEL", "SERVICE", "ATTEMPTS", "STATUS", "TTFT", "TOTAL", "KIND", "KEY", "STREAM",
                 "FINISH", "TOKENS", "OVERHEAD", "ERROR"),
        wide=7,
        rows=[_row(one) for one in found],
        values=found,
        empty="no requests are on record; the gateway keeps the last ones (gateway.receipts)",
    )  # fmt: skip


def _row(one: Mapping[str, Any]) -> tuple[str, ...]:
    spent = one["timings"]
    return (
        story.clock(one["at_ms"]), one["request_id"], one["model"], cells.text(one["service_id"]),
        str(len(one["attempts"])), story.status(one), story.ms(spent["first_byte_ms"]), story.ms(spent["total_ms"]),
        cells.text(one["operation"]), cells.text(one["principal"]), "yes" if one["stream"] else "no",
        cells.text(one["finish_reason"]), cells.count(one["completion_tokens"]), story.ms(spent["overhead_ms"]),
        cells.text(one["error"]),
    )  # fmt: skip
