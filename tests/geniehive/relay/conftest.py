"""The relay's tests run on asyncio's own event loop and on uvloop, which the gateway prefers."""

from __future__ import annotations

import asyncio

import uvloop


def pytest_asyncio_loop_factories():
    return {"asyncio": asyncio.SelectorEventLoop, "uvloop": uvloop.new_event_loop}
