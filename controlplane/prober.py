"""Asks each service's health from here, round by round, and tells the loop what was found.

A round asks all services at once, up to `AT_ONCE` together and `PER_HOST` at one address, each within
its timeout; it ends with one event. What an answer means is decided in `controlplane.probing`, what it
changes in `controlplane.health`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Final

import aiohttp

from controlplane.events import Finding, ProbesEnded
from controlplane.probing import judge, silent, targets
from geniehive.errors import Overloaded
from geniehive.resources import Snapshot

AT_ONCE: Final = 32
PER_HOST: Final = 4
_HEAD_BYTES: Final = 4096  # of a body: enough for an engine's error, whatever answers there

_log = logging.getLogger(__name__)


class Prober:
    """Probes until cancelled. `snapshot` gives the cluster as it is now, `post` takes the findings."""

    def __init__(
        self,
        snapshot: Callable[[], Snapshot],
        post: Callable[[ProbesEnded], None],
        *,
        interval_s: float,
        timeout_s: float,
    ) -> None:
        self._snapshot = snapshot
        self._post = post
        self._interval_s = interval_s
        self._timeout_s = timeout_s

    async def run(self) -> None:
        """A round every `interval_s`; a round that takes longer delays the next one. Returns at once where it is 0."""
        if not self._interval_s:
            return
        _log.info("probing every service every %g s", self._interval_s)
        async with _session() as session:
            while True:
                await asyncio.sleep(self._interval_s)
                findings = await self._round(session, targets(self._snapshot()))
                try:
                    self._post(ProbesEnded(findings))
                except Overloaded:
                    _log.warning("a round of probes was dropped: the control plane has too much to do")

    async def _round(self, session: aiohttp.ClientSession, urls: Mapping[str, str]) -> Mapping[str, Finding]:
        """Ask everybody."""
        places = asyncio.Semaphore(AT_ONCE)

        async def ask(url: str) -> Finding:
            async with places:
                return await probe(session, url, self._timeout_s)

        async with asyncio.TaskGroup() as tasks:
            asked = {service_id: tasks.create_task(ask(url)) for service_id, url in urls.items()}
        return {service_id: task.result() for service_id, task in asked.items()}


async def probe(session: aiohttp.ClientSession, url: str, timeout_s: float) -> Finding:
    """Ask one URL."""
    try:
        async with asyncio.timeout(timeout_s), session.get(url, allow_redirects=False) as response:
            return judge(response.status, await response.content.read(_HEAD_BYTES))
    except TimeoutError:
        return silent(f"no answer within {timeout_s:g} s")
    except aiohttp.ClientConnectorError:
        return silent("the connection is refused")
    except (aiohttp.ClientError, OSError, ValueError) as error:
        return silent(f"no answer in HTTP ({type(error).__name__})")


def _session() -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        cookie_jar=aiohttp.DummyCookieJar(),
        connector=aiohttp.TCPConnector(limit=AT_ONCE, limit_per_host=PER_HOST, force_close=True),
        timeout=aiohttp.ClientTimeout(total=None),
        trust_env=False,
        headers={"User-Agent": "geniehive-prober"},
    )
