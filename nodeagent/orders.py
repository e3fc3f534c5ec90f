"""[pure] The commands that a node agent has: done once however often they are sent.

A command is known by its id. It is accepted at once, runs when no other one runs for its service, and ends; what ended
is remembered for repeats, the last `ENDED_KEPT` of them. A result that could not be told, because there was no session,
is told after the next Welcome.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Final

from geniehive.resources import Command, CommandKind, CommandState

ENDED_KEPT: Final = 256

TRANSITIONS: Final[Mapping[CommandState, frozenset[CommandState]]] = {
    CommandState.ACCEPTED: frozenset({CommandState.RUNNING, CommandState.SUCCEEDED, CommandState.FAILED}),
    CommandState.RUNNING: frozenset({CommandState.SUCCEEDED, CommandState.FAILED}),
    CommandState.SUCCEEDED: frozenset(),
    CommandState.FAILED: frozenset(),
}
"""Every legal move of a command at its node."""

_QUEUED: Final = frozenset({CommandKind.LOAD, CommandKind.UNLOAD})
_ACKNOWLEDGED: Final = {
    CommandKind.DRAIN: "the control plane gives this host no new work",
    CommandKind.RESUME: "the control plane gives this host work again",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """A command and how it goes; `told`: whether its state went out in a session."""

    command_id: str
    command: Command | None = None
    state: CommandState = CommandState.ACCEPTED
    message: str = ""
    told: bool = False

    @property
    def ended(self) -> bool:
        """Whether nothing more will happen."""
        return not TRANSITIONS[self.state]


class OrderBook:
    """Every command that this agent knows, in order of arrival. Each change returns the orders to tell about."""

    def __init__(self) -> None:
        self._orders: dict[str, Order] = {}

    def receive(self, command: Command, service_ids: Collection[str]) -> list[Order]:
        """A command came: a repeat is its last result; a new one is accepted, and ends at once where it can."""
        known = self._orders.get(command.command_id)
        if known is not None:
            return [known]
        accepted = self._put(Order(command_id=command.command_id, command=command))
        if command.kind in _ACKNOWLEDGED:
            return [accepted, self._move(accepted, CommandState.SUCCEEDED, _ACKNOWLEDGED[command.kind])]
        if problem := _problem(command, service_ids):
            return [accepted, self._move(accepted, CommandState.FAILED, problem)]
        return [accepted]

    def refuse(self, command_id: str, message: str) -> list[Order]:
        """A command that cannot be understood has failed."""
        known = self._orders.get(command_id)
        return [known or self._put(Order(command_id=command_id, state=CommandState.FAILED, message=message))]

    def startable(self) -> list[Order]:
        """Move to running what may run now: loads and unloads one at a time for a service, the rest at once."""
        busy = {order.command.service_id for order in self._orders.values() if _holds(order) and order.command}
        started = []
        for order in list(self._orders.values()):
            if order.state is not CommandState.ACCEPTED or order.command is None:
                continue
            if order.command.kind in _QUEUED:
                if order.command.service_id in busy:
                    continue
                busy.add(order.command.service_id)
            started.append(self._move(order, CommandState.RUNNING, ""))
        return started

    def end(self, command_id: str, *, failed: bool, message: str) -> list[Order]:
        """A command that ran is over; nothing if it was not running."""
        order = self._orders.get(command_id)
        state = CommandState.FAILED if failed else CommandState.SUCCEEDED
        if order is None or state not in TRANSITIONS[order.state]:
            return []
        return [self._move(order, state, message)]

    def note_told(self, command_id: str) -> None:
        """The state of a command went out."""
        order = self._orders.get(command_id)
        if order is not None:
            self._orders[command_id] = replace(order, told=True)
        self._forget_surplus()

    @property
    def open(self) -> tuple[Order, ...]:
        """What has not ended, or whose end was never told."""
        return tuple(order for order in self._orders.values() if not (order.ended and order.told))

    def _move(self, order: Order, state: CommandState, message: str) -> Order:
        if state not in TRANSITIONS[order.state]:
            raise ValueError(f"command {order.command_id}: no way from {order.state} to {state}")
        return self._put(replace(order, state=state, message=message, told=False))

    def _put(self, order: Order) -> Order:
        self._orders[order.command_id] = order
        return order

    def _forget_surplus(self) -> None:
        ended = [key for key, order in self._orders.items() if order.ended and order.told]
        for key in ended[: max(0, len(ended) - ENDED_KEPT)]:
            del self._orders[key]


def _holds(order: Order) -> bool:
    running = order.state is CommandState.RUNNING and order.command is not None
    return running and order.command is not None and order.command.kind in _QUEUED


def _problem(command: Command, service_ids: Collection[str]) -> str:
    """Why a command cannot be done on this host; empty where it can be tried."""
    if command.kind is CommandKind.PROBE and not command.service_id:
        return ""
    if command.service_id not in service_ids:
        near = difflib.get_close_matches(command.service_id, sorted(service_ids), n=1)
        hint = f"did you mean {near[0]}?" if near else f"it has {', '.join(sorted(service_ids)) or 'none'}"
        return f"there is no service {command.service_id!r} on this host; {hint}"
    if command.kind in _QUEUED and not command.asset_id:
        return f"name the model that is to be put {'in' if command.kind is CommandKind.LOAD else 'out of'} memory"
    return ""
