"""The loop that owns the agent: events come in from everywhere, one task applies them and carries out the effects.

Nothing here waits for an effect: messages go into the session's outbox, commands into tasks. So the queue stays short,
and what the core decided is done in the order in which it was decided.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable
from typing import Final, Protocol, assert_never

from geniehive.clock import Clock
from geniehive.errors import Conflict, Fenced
from geniehive.resources import Command
from nodeagent import events as ev
from nodeagent.agent import Agent, AgentView
from nodeagent.events import Level

QUEUE_LIMIT: Final = 10_000
_LEVELS: Final = {Level.INFO: logging.INFO, Level.WARNING: logging.WARNING, Level.ERROR: logging.ERROR}
_log = logging.getLogger(__name__)


class Link(Protocol):
    """The session, as the loop sees it."""

    def send(self, message: ev.Send) -> None:
        """Send a message; nothing happens where there is no stream."""
        ...

    def reconnect(self, reason: str) -> None:
        """Give up the stream and open another one."""
        ...


class NodeLoop:
    """Feeds the agent. `start_command` begins work whose end is posted as `CommandEnded`."""

    def __init__(self, agent: Agent, clock: Clock) -> None:
        self._agent = agent
        self._clock = clock
        self._events = asyncio.Queue[ev.Event](QUEUE_LIMIT)
        self._changed = asyncio.Event()

    @property
    def view(self) -> AgentView:
        """The agent as it is now."""
        return self._agent.view

    def post(self, event: ev.Event) -> None:
        """Something happened on this host."""
        self._events.put_nowait(event)

    async def offer(self, event: ev.Event) -> None:
        """Something came from the control plane, which has to wait while the queue is full."""
        await self._events.put(event)

    async def wait_for(self, holds: Callable[[AgentView], bool]) -> AgentView:
        """Wait until a view for which `holds`; that view."""
        while not holds(self.view):
            changed = self._changed
            await changed.wait()
        return self.view

    async def run(self, link: Link, start_command: Callable[[Command], None]) -> None:
        """Apply events until cancelled. Raises Fenced or Conflict, with what to do, if this agent must not go on."""
        while True:
            event = await self._next()
            for effect in self._agent.apply(event, self._clock.monotonic()):
                _carry_out(effect, link, start_command)
            changed, self._changed = self._changed, asyncio.Event()
            changed.set()

    async def _next(self) -> ev.Event:
        """The next event; a Tick when the agent has something to do by itself."""
        due = self._agent.due
        patience = None if due == math.inf else max(0.0, due - self._clock.monotonic())
        try:
            async with asyncio.timeout(patience):
                return await self._events.get()
        except TimeoutError:
            return ev.Tick()


def _carry_out(effect: ev.Effect, link: Link, start_command: Callable[[Command], None]) -> None:
    match effect:
        case ev.SendHello() | ev.SendHeartbeat() | ev.SendInventory() | ev.SendResult():
            link.send(effect)
        case ev.StartCommand(command):
            _log.info("command %s: %s %s %s", command.command_id, command.kind, command.service_id, command.asset_id)
            start_command(command)
        case ev.Reconnect(reason):
            link.reconnect(reason)
        case ev.Say(level, message):
            _log.log(_LEVELS[level], "%s", message)
        case ev.Stop(message, fenced):
            raise Fenced(message) if fenced else Conflict(message)
        case _:
            assert_never(effect)
