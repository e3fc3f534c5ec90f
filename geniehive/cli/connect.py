"""`geniehive connect CLIENT`: the configuration that a client needs for this gateway, printed or written."""

from __future__ import annotations

import os
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from geniehive.cli import exits, options
from geniehive.errors import ConfigError, GatewayUnreachable

if TYPE_CHECKING:
    from geniehive.connect.choose import Choices

KEY_PLACEHOLDER = "YOUR-KEY"


class Client(StrEnum):
    """Whom there is a recipe for."""

    CODEX = "codex"
    CLAUDE = "claude"
    OPENWEBUI = "openwebui"
    CONTINUE = "continue"
    ZED = "zed"
    AIDER = "aider"
    LLM = "llm"


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(connect)


def connect(
    client: Annotated[Client, typer.Argument(help="Whose configuration.")],
    config: options.ConfigFile = None,
    gateway: Annotated[
        str, typer.Option("--gateway", metavar="URL", help="The gateway; else the config's host and port.")
    ] = "",
    url: Annotated[
        str, typer.Option("--url", metavar="URL", help="What the client dials, where that is another URL.")
    ] = "",
    key: Annotated[str, typer.Option("--key", metavar="KEY", help="The key that the client shows the gateway.")] = "",
    model: Annotated[str, typer.Option("--model", metavar="MODEL", help="For its main work; else one is chosen.")] = "",
    small_model: Annotated[
        str, typer.Option("--small-model", metavar="MODEL", help="For small work; else a quick one is chosen.")
    ] = "",
    file: Annotated[
        Path | None, typer.Option("--file", metavar="FILE", help="Instead of the client's usual file.")
    ] = None,
    write: Annotated[bool, typer.Option("--write", help="Write it into the client's file.")] = False,
    undo: Annotated[bool, typer.Option("--undo", help="Put back what was there before --write.")] = False,
) -> None:
    """Print the configuration that lets a client use this gateway, or write it.

    What is in the client's file already stays; what --write changed, --undo puts back.
    """
    from geniehive.cli.gateway_client import gateway_target
    from geniehive.connect import files
    from geniehive.connect.choose import Choice, Choices
    from geniehive.connect.clients import CLIENTS, Recipe, Setup
    from geniehive.connect.merge import merged, written

    if undo:
        nothing = Choices(Choice(""), Choice(""))
        path = files.expand(str(file or CLIENTS[client.value](Setup("", "", nothing)).path))
        print(f"{path} is as it was" if files.undo(path) else f"{path} is gone again: there was none before")
        return
    where = gateway_target(config, gateway, os.environ.get("GENIEHIVE_API_KEY", ""))
    choices, guarded = _choices(where.url, key or where.key, model, small_model)
    shown = key or (KEY_PLACEHOLDER if guarded and not write else "")
    if guarded and write and not key:
        raise ConfigError(
            f"the gateway wants a key: give {client.value} one with --key (geniehive token create makes one)"
        )
    recipe: Recipe = CLIENTS[client.value](Setup(_base(url or where.url), shown, choices))
    path = files.expand(str(file or recipe.path))
    if write:
        files.write(path, merged(recipe._replace(path=str(path)), files.read(path)))
        print(f"{path} is written; geniehive connect {client.value} --undo puts back what was there")
    else:
        print(f"# {path}")
        print(written(recipe, recipe.content), end="")
    if recipe.then:
        print("\n# then:" if not write else "then:")
        print("\n".join(recipe.then))


def _choices(url: str, key: str, model: str, small_model: str) -> tuple[Choices, bool]:
    """The models, and whether the gateway wants a key. With a model named, the gateway may be away."""
    from geniehive.cli.gateway_client import GatewayClient, GatewayTarget
    from geniehive.connect.choose import Choice, Choices, choose

    try:
        with GatewayClient(GatewayTarget(url=url, key=key)) as asked:
            entries = asked.get("/v1/models")["data"]
    except GatewayUnreachable as error:
        if not model:
            raise
        exits.say_error(f"{error.message}; so nothing is known of {model}")
        return Choices(Choice(model), Choice(small_model or model)), bool(key)
    return choose(entries, model, small_model), bool(key) and _refuses_strangers(url)


def _refuses_strangers(url: str) -> bool:
    from geniehive.cli.gateway_client import GatewayClient, GatewayTarget
    from geniehive.errors import Unauthenticated

    try:
        with GatewayClient(GatewayTarget(url=url)) as asked:
            asked.get("/v1/models")
    except Unauthenticated:
        return True
    return False


def _base(url: str) -> str:
    return url.rstrip("/").removesuffix("/v1").rstrip("/")
