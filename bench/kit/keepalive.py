"""One HTTP/1.1 connection that asks the same thing again and again: short chats whose answer says who gave it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from types import TracebackType
from typing import Self

from kit.stack import CLIENT_KEY, MODEL


def chat_request(port: int, **more: object) -> bytes:
    """The bytes of a chat completion request."""
    asked = {"model": MODEL, "messages": [{"role": "user", "content": "Hum."}], **more}
    body = json.dumps(asked).encode()
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n"
        f"Authorization: Bearer {CLIENT_KEY}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


class KeptConnection:
    """Raw, so that the client costs next to nothing."""

    def __init__(self, port: int, **more: object) -> None:
        self._port = port
        self._request = chat_request(port, **more)

    async def __aenter__(self) -> Self:
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        self._writer.close()

    async def ask(self) -> tuple[int, Mapping[str, str]]:
        """One chat: status and headers of its answer."""
        self._writer.write(self._request)
        head = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)}
        await self._reader.readexactly(int(headers["content-length"]))
        return int(head[0].split()[1]), headers
