"""Workers of one gateway ask one another for receipts, since any of them may answer any client.

Each worker listens on a Unix socket in a folder that only this user may enter; the others' sockets in it
are its siblings. One connection is one question: a `Query` as a line of JSON, then a `Page` to the end.
A sibling that died leaves a socket that nobody answers; its receipts died with it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import msgspec

from gateway.receipts import Page, Query

_log = logging.getLogger(__name__)
_ANSWER_WITHIN_S = 2.0
_LONGEST_QUESTION = 64 * 1024


class Siblings:
    """The other workers; `own` is this worker's socket, None where there are no others."""

    def __init__(self, own: Path | None = None) -> None:
        self._own = own

    @asynccontextmanager
    async def listening(self, answer: Callable[[Query], Page]) -> AsyncIterator[None]:
        """Answer siblings for as long as the block lasts."""
        if self._own is None:
            yield
            return
        try:  # a socket that a killed predecessor left is replaced
            server = await asyncio.start_unix_server(
                lambda reader, writer: _serve(reader, writer, answer), self._own, limit=_LONGEST_QUESTION
            )
        except OSError as error:
            _log.warning("other workers cannot ask this one for receipts: %s", error)
            yield
            return
        try:
            yield
        finally:
            server.close()
            self._own.unlink(missing_ok=True)
            with suppress(OSError):  # the last one out, where the parent cannot any more
                self._own.parent.rmdir()

    async def ask(self, query: Query) -> list[Page | None]:
        """One page of each sibling; None from one that does not answer."""
        if self._own is None:
            return []
        others = [path for path in sorted(self._own.parent.glob("*.sock")) if path != self._own]
        async with asyncio.TaskGroup() as tasks:
            asked = [tasks.create_task(_ask(path, query)) for path in others]
        return [each.result() for each in asked]


async def _serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, answer: Callable[[Query], Page]) -> None:
    try:
        async with asyncio.timeout(_ANSWER_WITHIN_S):
            query = msgspec.json.decode(await reader.readline(), type=Query)
            writer.write(msgspec.json.encode(answer(query)))
            await writer.drain()
    except (OSError, ValueError, TimeoutError, msgspec.DecodeError) as error:
        _log.warning("a question of another worker failed: %s", error)
    finally:
        writer.close()


async def _ask(path: Path, query: Query) -> Page | None:
    try:
        async with asyncio.timeout(_ANSWER_WITHIN_S):
            reader, writer = await asyncio.open_unix_connection(path)
            try:
                writer.write(msgspec.json.encode(query) + b"\n")
                return msgspec.json.decode(await reader.read(), type=Page)
            finally:
                writer.close()
    except (OSError, TimeoutError, msgspec.DecodeError):
        return None
