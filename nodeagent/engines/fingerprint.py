"""Which engine answers at an endpoint: all probes are asked at once, the answers are judged in a fixed order.

The order is that of `ENGINES`: engines that imitate others (SGLang serves Ollama's routes, LM Studio answers 200 to
everything) come before those that they imitate, the generic one comes last. A port is never looked at. Every probe
is a GET without side effects on any of them: /health is none, because SGLang generates a token for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import aiohttp

from nodeagent.engines.base import Engine, Evidence
from nodeagent.engines.http import Http, Reply
from nodeagent.engines.manifest import Manifest
from nodeagent.engines.registry import ENGINES, SPEECH_ENGINES, by_protocol

BUDGET_S = 2.0


async def fingerprint(
    endpoint: str,
    session: aiohttp.ClientSession,
    budget_s: float = BUDGET_S,
    *,
    api_key: str = "",
    among: Iterable[Engine] = ENGINES,
) -> Engine | None:
    """The engine that answers at `endpoint`, or None if none that is known does within `budget_s` seconds."""
    candidates = tuple(among)
    http = Http(session, endpoint, api_key=api_key, timeout_s=budget_s)
    return decide(await gather(http, candidates, budget_s), candidates)


def decide(seen: Evidence, among: Iterable[Engine]) -> Engine | None:
    """The first engine that recognises itself in the answers. Pure."""
    return next((engine for engine in among if engine.recognise(seen)), None)


async def gather(http: Http, among: Iterable[Engine], budget_s: float) -> dict[str, Reply]:
    """The answers to all probes that came within the budget, by path."""
    paths = dict.fromkeys(path for engine in among for path in engine.probes)
    async with asyncio.timeout(budget_s + 0.5):  # each request ends by itself at budget_s; this one is a safety net
        return await http.get_all(*paths, timeout_s=budget_s)


async def identify(
    word: str | None,
    endpoint: str,
    session: aiohttp.ClientSession,
    *,
    api_key: str = "",
    manifest: str = "",
    runtime: str = "",
) -> Engine | None:
    """The engine for a service of config, `auto` and `whisper` included. None: nothing that is known answers (yet).

    `whisper` is speaches or whisper.cpp if one of them answers; if something else does, it is a server that lists
    nothing. Raises ConfigError for an unknown word.
    """
    if word == "auto":
        return await fingerprint(endpoint, session, api_key=api_key)
    if word != "whisper":
        return by_protocol(word, manifest=manifest, runtime=runtime)
    http = Http(session, endpoint, api_key=api_key, timeout_s=BUDGET_S)
    seen = await gather(http, SPEECH_ENGINES, BUDGET_S)
    return (decide(seen, SPEECH_ENGINES) or Manifest(manifest)) if seen else None
