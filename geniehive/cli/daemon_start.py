"""How a daemon is to be started, and the command lines that say so plainly.

`geniehive control | gateway | node` with nothing but options of `daemons` is read here, in a few lines: a daemon then
starts without the library that reads every other command line, a fifth of a second and 13 MB. Whatever is not plain
(a subcommand, --help, a mistake) is left to that library, which explains it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from geniehive.cli.log_level import LogLevel

DAEMONS: Final = ("control", "gateway", "node")
FLAGS: Final = {"--insecure": "insecure", "--log-json": "log_json"}
VALUES: Final[Mapping[str, tuple[str, Callable[[str], Any]]]] = {
    "--config": ("config", Path),
    "-c": ("config", Path),
    "--log-level": ("log_level", LogLevel),
    "--parent-pid": ("parent_pid", int),
    "--ready-fd": ("ready_fd", int),
}
CONFIG_VARIABLE: Final = "GENIEHIVE_CONFIG"


@dataclass(frozen=True, kw_only=True)
class Start:
    """One daemon, and what its command line says; `insecure` is nothing to a node agent."""

    daemon: str
    config: Path | None = None
    insecure: bool = False
    log_level: LogLevel = LogLevel.INFO
    log_json: bool = False
    parent_pid: int = 0
    ready_fd: int = -1


def plain(arguments: Sequence[str], environ: Mapping[str, str]) -> Start | None:
    """What a plain command line of a daemon asks for; None for any other."""
    if not arguments or arguments[0] not in DAEMONS:
        return None
    found: dict[str, Any] = {"daemon": arguments[0]}
    rest = iter(arguments[1:])
    for word in rest:
        if word in FLAGS and not (word == "--insecure" and arguments[0] == "node"):
            found[FLAGS[word]] = True
            continue
        pair = _value(word, rest)
        if pair is None:
            return None
        found.__setitem__(*pair)
    if "config" not in found and environ.get(CONFIG_VARIABLE):
        found["config"] = Path(environ[CONFIG_VARIABLE])
    return Start(**found)


def _value(word: str, rest: Iterator[str]) -> tuple[str, Any] | None:
    """The field that a word sets, and to what: the text behind its "=", or else the next word."""
    name, equals, value = word.partition("=")
    if name not in VALUES or (equals and not name.startswith("--")):
        return None
    field, convert = VALUES[name]
    if not equals:
        value = next(rest, "-")
    with suppress(ValueError):
        return None if value.startswith("-") else (field, convert(value))
    return None
