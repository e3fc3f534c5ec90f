"""Where `geniehive` begins: a daemon is started at once, anything else is one of `commands`.

Errors become one line and an exit code (see `exits`).
"""

from __future__ import annotations

import os
import sys

from geniehive.cli import daemon_run, daemon_start, exits
from geniehive.errors import GenieHiveError


def main() -> None:
    """The console script."""
    # gRPC's own lines ("skipping fork() handlers", "Got goaway") are not for people; what they mean we say ourselves.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    try:
        start = daemon_start.plain(sys.argv[1:], os.environ)
        if start is not None:
            daemon_run.run(start)
        else:
            from geniehive.cli.commands import app  # what reads and explains any command line, 13 MB of it

            app()
    except GenieHiveError as error:
        exits.leave(error)
    except KeyboardInterrupt:  # before the daemon could take it for what it is: an order to stop
        sys.exit(exits.INTERRUPTED)
