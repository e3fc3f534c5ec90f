"""Opening TCP connections, which tells at once whether somebody listens: cheaper than any question over HTTP."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Final
from urllib.parse import urlsplit

CONNECT_TIMEOUT_S: Final = 1.0
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}


def host_and_port(endpoint: str) -> tuple[str, int]:
    """Where an http(s) endpoint is dialled; an IPv6 address comes without its brackets."""
    parts = urlsplit(endpoint)
    return parts.hostname or "", parts.port or _DEFAULT_PORTS.get(parts.scheme, 80)


async def opens(host: str, port: int, timeout_s: float = CONNECT_TIMEOUT_S) -> bool:
    """Whether a connection opens within `timeout_s`; it is closed again, with nothing said."""
    try:
        async with asyncio.timeout(timeout_s):
            _, writer = await asyncio.open_connection(host, port)
    except (OSError, ValueError):  # TimeoutError is an OSError; ValueError is a name that cannot be one
        return False
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
    return True
