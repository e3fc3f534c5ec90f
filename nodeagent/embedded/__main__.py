"""`python -m nodeagent.embedded`: see `options` for the command line and `server` for what it does."""

import sys

from nodeagent.embedded.server import main

sys.exit(main(sys.argv[1:]))
