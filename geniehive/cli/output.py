"""Prints listings: tables as `kubectl get` makes them, JSON and YAML with every field, once or again and again."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

import msgspec

from geniehive.cli.options import Output

_GOOD = frozenset({"up", "healthy", "succeeded", "ok"})
_BAD = frozenset({"offline", "unhealthy", "failed", "cut", "quarantined", "expired", "revoked"})
_FAIR = frozenset({"stale", "loading", "draining", "unknown", "open", "cancelled"})


@dataclass(frozen=True, kw_only=True)
class Listing:
    """What a listing command found: rows for a table, and the values behind them for programs.

    `columns` begin with those of the plain table; `wide` says how many more `-o wide` shows.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    values: Any
    wide: int = 0
    empty: str = "nothing found"


def plain(value: Any) -> Any:
    """The value as lists, dicts and scalars, with every field; unknown is null."""
    if isinstance(value, msgspec.Struct):
        return {name: plain(getattr(value, name)) for name in value.__struct_fields__}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value


def print_document(value: Any, output: Output) -> None:
    """Print a value as JSON or YAML."""
    print(document(value, output))


def document(value: Any, output: Output) -> str:
    """A value as JSON or YAML text."""
    if output is Output.YAML:
        import yaml

        text: str = yaml.safe_dump(plain(value), sort_keys=False, allow_unicode=True, default_flow_style=False)
        return text.rstrip("\n")
    return msgspec.json.format(msgspec.json.encode(plain(value)), indent=2).decode()


def print_listing(listing: Listing, output: Output) -> None:
    """Print what was found in the form that was asked for."""
    if output in {Output.JSON, Output.YAML}:
        print_document(listing.values, output)
    elif not listing.rows:
        print(listing.empty, file=sys.stderr)
    else:
        print_table(listing, wide=output is Output.WIDE)


def print_table(listing: Listing, *, wide: bool = False) -> None:
    """Print a table. It is never cut to the width of the terminal: scripts read it too."""
    from rich.console import Console
    from rich.table import Table

    shown = len(listing.columns) - (0 if wide else listing.wide)
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="", show_edge=False)
    for name in listing.columns[:shown]:
        table.add_column(name, no_wrap=True)
    for row in listing.rows:
        table.add_row(*(_cell(cell) for cell in row[:shown]))
    unbounded = Console(width=100_000)
    width = unbounded.measure(table).maximum
    Console(width=width, highlight=False, markup=False, emoji=False).print(table)


def _cell(text: str) -> Any:
    """A cell that shows control characters as "?" and takes nothing for markup."""
    from rich.text import Text

    word = text.split(",", maxsplit=1)[0]
    style = "green" if word in _GOOD else "red" if word in _BAD else "yellow" if word in _FAIR else ""
    return Text(printable(text), style=style)


def printable(text: str) -> str:
    """Text whose control characters, which others may have put there, are "?"."""
    return "".join(char if char.isprintable() else "?" for char in text)
