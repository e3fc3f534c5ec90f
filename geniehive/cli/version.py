"""`geniehive version`."""

from __future__ import annotations

import typer

from geniehive.cli.options import Output, OutputFormat

_DEPENDENCIES = ("aiohttp", "grpcio", "msgspec", "protobuf", "sqlalchemy", "uvloop", "xllamacpp")


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(version)


def version(output: OutputFormat = Output.TABLE) -> None:
    """Print the version; with -o wide, json or yaml more: Python, main dependencies, whether the relay is compiled."""
    from geniehive import __version__

    if output is Output.TABLE:
        print(f"geniehive {__version__}")
        return
    from geniehive.cli.output import print_document

    facts = _versions(__version__)
    if output is Output.WIDE:
        print("\n".join(f"{name} {value or '-'}" for name, value in facts.items()))
    else:
        print_document(facts, output)


def _versions(own: str) -> dict[str, str | None]:
    import platform
    from importlib import metadata

    from geniehive.relay import lane

    facts: dict[str, str | None] = {"geniehive": own, "python": platform.python_version()}
    facts["relay"] = "compiled" if lane.COMPILED else "python"
    for name in _DEPENDENCIES:
        try:
            facts[name] = metadata.version(name)
        except metadata.PackageNotFoundError:  # an extra that is not installed
            facts[name] = None
    return facts
