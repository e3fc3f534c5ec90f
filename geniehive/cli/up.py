"""`geniehive up`: control plane, node agent and gateway on this machine, with the engines that are here.

Here is what is settled before anything starts; `up_run` starts it.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from geniehive.cli import options
from geniehive.cli.log_level import LogLevel
from geniehive.errors import ConfigError


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(up)


def up(
    config: options.ConfigFile = None,
    model: Annotated[
        Path | None,
        typer.Option("--model", "-m", metavar="FILE", help="Serve this GGUF file with the embedded engine."),
    ] = None,
    port: Annotated[
        int | None,
        typer.Option("--port", "-p", min=0, max=65533, help="Port of the gateway; the next two are used too. 0: any."),
    ] = None,
    state_dir: Annotated[
        Path | None,
        typer.Option("--state-dir", metavar="DIR", help="Registry and logs; else ~/.local/state/geniehive/up (XDG)."),
    ] = None,
    engine: Annotated[bool, typer.Option(" /--no-engine", help="Never start the embedded engine.")] = True,
    insecure: options.Insecure = False,
    log_level: options.Level = LogLevel.INFO,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Logs to the terminal, not to files.")] = False,
) -> None:
    """Start everything on this machine: finds engines, prints the URL and a curl that works."""
    from geniehive.cli import up_plan, up_run, up_text
    from geniehive.config_check import check_exposure
    from geniehive.config_load import load_config
    from geniehive.roles_file import load_roles

    loaded = load_config(config, os.environ)
    check_exposure(loaded.config, insecure=insecure)
    if loaded.config.roles_path:
        load_roles(loaded.config.roles_path)
    if model is not None:
        up_plan.check_model(model)
        if not up_plan.embedded_installed():
            raise ConfigError(up_text.NOT_INSTALLED)
    plan = up_plan.make_plan(loaded, port=port, state_dir=state_dir, environ=os.environ)
    wishes = up_run.Wishes(model=model, engine=engine, insecure=insecure, level=log_level, verbose=verbose)
    with _locked(plan.state_dir):
        up_run.run(plan, wishes)


class _locked:  # noqa: N801 - used like a function
    """Holds a state folder, so that two control planes never share one."""

    def __init__(self, state_dir: Path) -> None:
        self._state_dir = state_dir
        self._descriptor = -1

    def __enter__(self) -> None:
        import fcntl

        try:
            self._state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._descriptor = os.open(self._state_dir / "up.lock", os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise ConfigError(
                f"{self._state_dir}: cannot keep state: {error.strerror or error}; choose another: --state-dir DIR"
            ) from None
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._descriptor)
            raise ConfigError(
                f"{self._state_dir} is used by another geniehive up; stop it, or give this one its own: --state-dir DIR"
            ) from None

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)
