"""The options that several subcommands share."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from geniehive.cli.log_level import LogLevel


class Output(StrEnum):
    """How a listing is printed."""

    TABLE = "table"
    WIDE = "wide"
    JSON = "json"
    YAML = "yaml"


ConfigFile = Annotated[
    Path | None, typer.Option("--config", "-c", envvar="GENIEHIVE_CONFIG", metavar="FILE", help="YAML config.")
]
OutputFormat = Annotated[Output, typer.Option("--output", "-o", help="How to print.")]
Watch = Annotated[bool, typer.Option("--watch", "-w", help="Print again and again, until Ctrl-C.")]
Interval = Annotated[float, typer.Option("--interval", min=0.1, max=3600, help="Seconds between prints of --watch.")]
Control = Annotated[
    str, typer.Option("--control", metavar="HOST:PORT", help="Control plane to ask, instead of the config's.")
]
ApiKey = Annotated[
    str,
    typer.Option(
        "--api-key",
        envvar="GENIEHIVE_API_KEY",
        show_envvar=True,
        help="Key or token, instead of the config's. Better set by the variable: others can see your arguments.",
    ),
]
Gateway = Annotated[
    str, typer.Option("--gateway", metavar="URL", help="Gateway to ask, instead of the config's address.")
]
GatewayKey = Annotated[
    str,
    typer.Option(
        "--api-key",
        envvar="GENIEHIVE_API_KEY",
        show_envvar=True,
        help="Key or token, instead of the config's; a client's sees its own requests, an operator's all.",
    ),
]
Insecure = Annotated[bool, typer.Option("--insecure", help="Listen beyond loopback although no keys are set.")]
Level = Annotated[LogLevel, typer.Option("--log-level", help="How much to log.")]
LogJson = Annotated[bool, typer.Option("--log-json", help="Log one JSON object a line.")]
