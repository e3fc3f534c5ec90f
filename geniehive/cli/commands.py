"""Puts the subcommands together. `main` runs them, or a daemon without them."""

from __future__ import annotations

import typer

from geniehive.cli import (
    audit,
    bench,
    config_commands,
    connect,
    daemons,
    doctor,
    listings,
    orders,
    requests,
    route,
    token,
    up,
    version,
)

EPILOG = "Exit codes: 0 done, 1 failed, 2 usage or config, 3 daemon unreachable, 4 key refused, 5 not found, 6 fenced."

app = typer.Typer(
    name="geniehive",
    help="Every model on every box you own, behind one OpenAI endpoint.",
    epilog=EPILOG,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

up.register(app)
daemons.register(app)
listings.register(app)
requests.register(app)
route.register(app)
orders.register(app)
token.register(app)
bench.register(app)
audit.register(app)
connect.register(app)
config_commands.register(app)
doctor.register(app)
version.register(app)
