"""`geniehive route`: what a model name leads to now, and what suits a task."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from geniehive.cli import cells, client, options
from geniehive.cli.options import Output
from geniehive.cli.output import Listing, print_document, print_table
from geniehive.resources import Operation

route = typer.Typer(
    help="Ask how requests are routed.", no_args_is_help=True, rich_markup_mode=None, pretty_exceptions_enable=False
)


def register(app: typer.Typer) -> None:
    """Add the group."""
    app.add_typer(route, name="route")


@route.callback()
def group() -> None:
    """Ask how requests are routed."""


@route.command()
def resolve(
    model: Annotated[str, typer.Argument(help="Asset, alias, service id or role.")],
    operation: Annotated[
        Operation | None, typer.Option("--operation", help="What would be asked of it; else chat, or the role's own.")
    ] = None,
    config: options.ConfigFile = None,
    control: options.Control = "",
    api_key: options.ApiKey = "",
    output: options.OutputFormat = Output.TABLE,
) -> None:
    """Show what a model name leads to: candidates in order, and why others were dropped."""
    from geniehive import codec
    from geniehive.v1 import cluster_service_pb2 as pb

    request = pb.ResolveRouteRequest(model=model, operation=codec.operation_to_pb(operation))

    async def talk(cluster: client.ClusterClient) -> Any:
        return await cluster.call("ResolveRoute", request)

    answer = client.ask(client.target(config, control, api_key), talk)
    if output in {Output.JSON, Output.YAML}:
        from google.protobuf import json_format

        print_document(json_format.MessageToDict(answer, preserving_proto_field_name=True), output)
    else:
        _print(model, answer, output)


@route.command("match")
def match_task(
    task: Annotated[list[str], typer.Argument(metavar="TASK...", help="What the model is for, in words; one or more.")],
    workload: Annotated[
        list[str] | None, typer.Option("--workload", "-w", help="Benchmark workload that the task resembles.")
    ] = None,
    kind: Annotated[Operation | None, typer.Option("--kind", "--operation", help="Only what does this.")] = None,
    modality: Annotated[str, typer.Option("--modality", help="Only this: text, audio, image or vector.")] = "",
    services: Annotated[bool, typer.Option("--services", help="Offer services beside roles.")] = False,
    limit: Annotated[int, typer.Option("--limit", min=1, max=1000, help="Most matches.")] = 10,
    config: options.ConfigFile = None,
    control: options.Control = "",
    api_key: options.ApiKey = "",
    output: options.OutputFormat = Output.TABLE,
) -> None:
    """Show which roles and services suit a task, best first, and why."""
    from geniehive import codec
    from geniehive.v1 import cluster_service_pb2 as pb

    request = pb.MatchRoutesRequest(
        tasks=task,
        workloads=workload or (),
        operation=codec.operation_to_pb(kind),
        modality=modality,
        include_direct_services=services,
        limit=limit,
    )

    async def talk(cluster: client.ClusterClient) -> Any:
        return await cluster.call("MatchRoutes", request)

    answer = client.ask(client.target(config, control, api_key), talk)
    if output in {Output.JSON, Output.YAML}:
        from google.protobuf import json_format

        print_document(json_format.MessageToDict(answer, preserving_proto_field_name=True), output)
    elif not answer.matches:
        hint = "" if services else ", or ask for services too: --services"
        print(f"nothing that can answer now shares a word with the task; say more{hint}", file=sys.stderr)
    else:
        print_table(_matches(answer), wide=output is Output.WIDE)


def _matches(answer: Any) -> Listing:
    return Listing(
        columns=("#", "KIND", "NAME", "SCORE", "SERVICE", "MODEL", "REASONS", "SIGNALS"),
        wide=1,
        rows=[
            (
                str(place),
                one.kind,
                one.name,
                f"{one.score:.3f}",
                one.candidate.service_id,
                one.candidate.asset_id,
                cells.text("; ".join(one.reasons)),
                cells.joined(f"{name}={value:.4g}" for name, value in sorted(one.signals.items())),
            )
            for place, one in enumerate(answer.matches, 1)
        ],
        values=None,
    )


def _print(model: str, answer: Any, output: Output) -> None:
    role = f", role {answer.role_id}" if answer.role_id else ""
    print(f"{model}: matched as {answer.match or 'nothing'}{role}, strategy {answer.strategy or cells.UNKNOWN}")
    candidates = Listing(
        columns=("#", "SERVICE", "MODEL", "HOST", "SCORE", "REASONS", "SIGNALS"),
        wide=1,
        rows=[
            (
                str(place), one.service_id, one.asset_id, one.host_id,
                cells.count(one.score if one.HasField("score") else None, 3), cells.text("; ".join(one.reasons)),
                cells.joined(f"{name}={value:g}" for name, value in sorted(one.signals.items())),
            )
            for place, one in enumerate(answer.candidates, 1)
        ],
        values=None,
    )  # fmt: skip
    if candidates.rows:
        print_table(candidates, wide=output is Output.WIDE)
    else:
        print("no service can answer now")
    if answer.dropped:
        print("\nnot considered:")
        rows = [(one.service_id, cells.text(one.asset_id), one.reason) for one in answer.dropped]
        print_table(Listing(columns=("SERVICE", "MODEL", "WHY"), rows=rows, values=None))
