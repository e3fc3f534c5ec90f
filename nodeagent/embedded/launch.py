"""The embedded engine as the node agent sees it: a managed process that tells its URL when it is ready."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import msgspec

from nodeagent.process import Launched, Ready

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
