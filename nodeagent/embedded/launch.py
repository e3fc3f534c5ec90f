"""The embedded engine as the node agent sees it: a managed process that tells its URL when it is ready."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import msgspec

from nodeagent.embedded.options import EngineOptions, engine_argv
from nodeagent.process import Launched, ManagedProcess, ProcessSpec, ProcessStatus, Ready

if TYPE_CHECKING:
    from collections.abc import Callable


class ReadyLine(msgspec.Struct, frozen=True, kw_only=True):
    """The line of JSON that the embedded engine prints when /health answers 200; see `nodeagent.embedded.server`.

    `context`: tokens of KV cache, shared by the slots. `startup_s`: from the start of its Python to ready.
    """

    event: str
    url: str
    port: int
    pid: int
    alias: str
    operations: tuple[str, ...]
    context: int
    parallel: int
    startup_s: float


@dataclass(frozen=True, kw_only=True, slots=True)
class EmbeddedEngine:
    """A managed embedded engine, and where it will listen (through restarts too)."""

    process: ManagedProcess
    url: str


def embedded_engine(
    options: EngineOptions,
    *,
    on_ready: Callable[[ReadyLine], None] | None = None,
    on_change: Callable[[ProcessStatus], None] | None = None,
) -> EmbeddedEngine:
    """Make the managed process for these options; nothing is started yet. `on_ready` is called at every start.

    Port 0 is made a free one here, so that a restart keeps it. Raises OSError if `options.host` is not ours.
    """
    settled = replace(options, port=options.port or free_port(options.host), parent_pid=os.getpid())
    spec = ProcessSpec(name="embedded llama.cpp", argv=engine_argv(settled))
    process = ManagedProcess(spec, reads_ready_line(on_ready), on_change=on_change)
    return EmbeddedEngine(process=process, url=f"http://{settled.host}:{settled.port}")


def reads_ready_line(on_ready: Callable[[ReadyLine], None] | None = None) -> Ready:
    """A ready check that waits for the ready line, and hands it on."""

    async def wait(launched: Launched) -> None:
        line = msgspec.json.decode(await launched.stdout.first_line(), type=ReadyLine)
        if on_ready is not None:
            on_ready(line)

    return wait


def free_port(host: str) -> int:
    """A port that was free a moment ago."""
    with socket.create_server((host, 0), family=socket.AF_INET6 if ":" in host else socket.AF_INET) as listener:
        port: int = listener.getsockname()[1]
    return port
