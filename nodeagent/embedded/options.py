"""The command line of the embedded engine, both ways: the agent builds it, the engine's process parses it.

Standard library only: the agent imports this without loading llama.cpp, and the process starts quickly.
"""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

POOLINGS = ("mean", "cls", "last", "none", "rank")


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineOptions:
    """What the embedded engine is to run. None always means: let the engine choose, as the field says.

    `model`: a GGUF file; None generates the tiny model in `cache_dir`.
    `port`: 0 picks a free one, which the ready line tells.
    `alias`: the model's name for clients; None takes the file's name without its ending.
    `context`: tokens of KV cache, shared by all slots; None takes the model's own, at most 8192.
    `parallel`: requests answered at once (slots).
    `embedding`: also serve /v1/embeddings from a chat model; None does so for the tiny model alone (a chat model's
    vectors are of little use). Models made for embeddings or reranking are recognised by their file.
    `pooling`: how token vectors become one; None takes the model's own, else mean.
    `threads`: None leaves one core free. `gpu_layers`: None lets llama.cpp fit them to the free GPU memory.
    `predict`: tokens of an answer whose request sets no `max_tokens`; None is 256 for the tiny model (it never ends
    by itself), no limit for others.
    `parent_pid`: exit when this process, the parent, is gone; None lives on its own.
    """

    model: Path | None = None
    host: str = "127.0.0.1"
    port: int = 0
    alias: str | None = None
    context: int | None = None
    parallel: int = 4
    embedding: bool | None = None
    pooling: str | None = None
    threads: int | None = None
    gpu_layers: int | None = None
    predict: int | None = None
    cache_dir: Path | None = None
    parent_pid: int | None = None
    verbose: bool = False


def engine_argv(options: EngineOptions, *, python: str = sys.executable) -> list[str]:
    """The argument vector that runs the embedded engine with these options; `parse` reads the same back."""
    named = {
        "--model": options.model,
        "--host": options.host,
        "--port": options.port,
        "--alias": options.alias,
        "--ctx": options.context,
        "--parallel": options.parallel,
        "--pooling": options.pooling,
        "--threads": options.threads,
        "--gpu-layers": options.gpu_layers,
        "--predict": options.predict,
        "--cache-dir": options.cache_dir,
        "--parent-pid": options.parent_pid,
    }
    argv = [python, "-m", "nodeagent.embedded"]
    for name, value in named.items():
        argv += [] if value is None else [name, str(value)]
    if options.embedding is not None:
        argv.append("--embedding" if options.embedding else "--no-embedding")
    return [*argv, "--verbose"] if options.verbose else argv


def parse(argv: Sequence[str]) -> EngineOptions:
    """Read a command line (without the program's name); exits with a usage message where it is wrong."""
    read = _parser().parse_args(argv)
    return EngineOptions(**vars(read))


def default_cache_dir() -> Path:
    """Where generated models are kept: `$XDG_CACHE_HOME/geniehive`, else `~/.cache/geniehive`."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "geniehive"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m nodeagent.embedded",
        description="Run llama.cpp's server on one model. Prints one line of JSON on stdout when it is ready.",
    )
    add = parser.add_argument
    add("--model", type=Path, help="a GGUF file (default: a tiny generated model, whose words are noise)")
    add("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    add("--port", type=_whole(0, 65535), default=0, help="port to listen on; 0 picks a free one (default)")
    add("--alias", help="the model's name for clients (default: the file's name without .gguf)")
    add("--ctx", dest="context", type=_whole(1), help="tokens of KV cache, shared by all slots")
    add("--parallel", type=_whole(1), default=4, help="requests answered at once (default: %(default)s)")
    add("--embedding", action=argparse.BooleanOptionalAction, help="serve /v1/embeddings beside chat")
    add("--pooling", choices=POOLINGS, help="how token vectors become one (default: the model's own, else mean)")
    add("--threads", type=_whole(1), help="CPU threads (default: all cores but one)")
    add("--gpu-layers", type=_whole(0), help="layers to put on the GPU (default: as many as fit)")
    add("--predict", type=_whole(1), help="tokens of an answer whose request sets no max_tokens")
    add("--cache-dir", type=Path, help="where the generated model is kept (default: ~/.cache/geniehive)")
    add("--parent-pid", type=_whole(1), help="exit when this process, the parent, is gone")
    add("--verbose", action="store_true", help="llama.cpp's own log on stderr, not its errors alone")
    return parser


class _whole:  # noqa: N801 (reads as a type in the table above, which is what it is to argparse)
    """An argparse type: a whole number between two bounds."""

    def __init__(self, low: int, high: int | None = None) -> None:
        self._low, self._high = low, high

    def __call__(self, text: str) -> int:
        number = int(text)
        if number < self._low or (self._high is not None and number > self._high):
            upper = "" if self._high is None else f" and at most {self._high}"
            raise argparse.ArgumentTypeError(f"{number} must be at least {self._low}{upper}")
        return number

    def __repr__(self) -> str:
        return "whole number"
