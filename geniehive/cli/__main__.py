"""`python -m geniehive.cli`: the same as `geniehive`."""

from geniehive.cli.main import main

main()
