"""The `geniehive` command: one file per group of subcommands; it stands on top of all components.

Modules import what a subcommand needs when it runs, so that `geniehive --help` and completion stay quick.
"""
