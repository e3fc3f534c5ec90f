"""`geniehive config check | show`: is the config good, what does it come to, and where does each value come from."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, Any

import typer

from geniehive.cli import options
from geniehive.cli.options import Output
from geniehive.cli.output import Listing, plain, print_document, print_table

MASK = "***"
_SECRET = re.compile(r"(^|_)(api_keys?|password|secret|token)$")
_PASSWORD_IN_URL = re.compile(r"(://[^:/@\s]*:)[^@\s]*@")

group = typer.Typer(
    help="Check and show the config.", no_args_is_help=True, rich_markup_mode=None, pretty_exceptions_enable=False
)

File = Annotated[Path | None, typer.Argument(metavar="[FILE]", help="YAML config; else --config, else none.")]


def register(app: typer.Typer) -> None:
    """Add the group."""
    app.add_typer(group, name="config")


@group.command()
def check(file: File = None, config: options.ConfigFile = None, insecure: options.Insecure = False) -> None:
    """Check a config and the roles that it names, environment included, as the daemons would."""
    from geniehive.config_check import check_exposure
    from geniehive.config_load import load_config
    from geniehive.roles_file import load_roles

    path = file or config
    loaded = load_config(path, os.environ)
    check_exposure(loaded.config, insecure=insecure)
    roles = load_roles(loaded.config.roles_path) if loaded.config.roles_path else ()
    services = len(loaded.config.services)
    print(f"{path or 'defaults and environment'}: good ({services} services, {len(roles)} roles)")


@group.command()
def show(
    file: File = None,
    config: options.ConfigFile = None,
    origin: Annotated[bool, typer.Option("--origin", help="Every key with where its value comes from.")] = False,
    output: options.OutputFormat = Output.YAML,
) -> None:
    """Print the whole config as it is used; secrets are masked."""
    from geniehive.config_load import load_config

    loaded = load_config(file or config, os.environ)
    values = masked(plain(loaded.config))
    if not origin:
        print_document(values, Output.JSON if output is Output.JSON else Output.YAML)
        return
    flat = flatten(values)
    if output is Output.JSON:
        print_document({key: {"value": value, "origin": loaded.origin(key)} for key, value in flat}, output)
        return
    rows = [(key, _shown(value), loaded.origin(key)) for key, value in flat]
    print_table(Listing(columns=("KEY", "VALUE", "ORIGIN"), rows=rows, values=None))


def masked(value: Any, key: str = "") -> Any:
    """The value with every secret replaced: keys, passwords in URLs, variables handed to engines."""
    if _SECRET.search(key):
        return [MASK] * len(value) if isinstance(value, list) else MASK if value else value
    if isinstance(value, dict):
        if key == "env":
            return dict.fromkeys(value, MASK)
        return {name: masked(item, name) for name, item in value.items()}
    if isinstance(value, list):
        return [masked(item, key) for item in value]
    return _PASSWORD_IN_URL.sub(rf"\g<1>{MASK}@", value) if isinstance(value, str) else value


def flatten(value: Any, path: str = "") -> list[tuple[str, Any]]:
    """Every leaf with its dotted key; empty lists and maps are leaves."""
    if isinstance(value, dict) and value:
        return [pair for name, item in value.items() for pair in flatten(item, f"{path}.{name}" if path else name)]
    if isinstance(value, list) and value:
        return [pair for index, item in enumerate(value) for pair in flatten(item, f"{path}[{index}]")]
    return [(path, value)]


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return "null" if value is None else str(value) if value != "" else '""'
