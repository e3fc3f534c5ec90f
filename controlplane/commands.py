"""Orders to nodes: a table of legal moves, and the book of all commands.

    PENDING ──sent──▶ SENDING ──▶ ACCEPTED ──▶ RUNNING ──▶ SUCCEEDED | FAILED
       ▲────session lost───┘                                    (host forgotten: UNKNOWN)

A command is stored when it is ordered and when it has ended; what lies between follows from the
node's next Hello, so it lives in memory. After a reconnect every unfinished command that the node
does not list as open is sent again: the node does it once, by its id, or repeats its last result.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from msgspec.structs import replace

from controlplane.events import Delete, Instant, Kind
from geniehive.errors import Conflict
from geniehive.resources import Command, CommandState

# How many ended commands are kept for operators to look at.
ENDED_KEPT = 1000

_ENDS = frozenset({CommandState.SUCCEEDED, CommandState.FAILED, CommandState.UNKNOWN})
_WORKING = frozenset({CommandState.ACCEPTED, CommandState.RUNNING})

# Every legal move; an end has none. SENDING again from a working state is a resend after a reconnect.
TRANSITIONS: Mapping[CommandState, frozenset[CommandState]] = {
    CommandState.PENDING: frozenset({CommandState.SENDING}) | _WORKING | _ENDS,
    CommandState.SENDING: frozenset({CommandState.PENDING}) | _WORKING | _ENDS,
    CommandState.ACCEPTED: frozenset({CommandState.SENDING, CommandState.RUNNING}) | _ENDS,
    CommandState.RUNNING: frozenset({CommandState.SENDING}) | _ENDS,
    CommandState.SUCCEEDED: frozenset(),
    CommandState.FAILED: frozenset(),
    CommandState.UNKNOWN: frozenset(),
}


def has_ended(command: Command) -> bool:
    """Whether nothing more will happen to it."""
    return command.state in _ENDS


def moved(command: Command, state: CommandState, now: Instant, message: str = "") -> Command | None:
    """The command after a move; None if the move is not legal, or is a repeat."""
    if state not in TRANSITIONS[command.state]:
        return None
    return replace(command, state=state, message=message or command.message, updated_at_ms=now.unix_ms)


class CommandBook:
    """All commands, by id, in the order of their creation."""

    def __init__(self, commands: Iterable[Command] = ()) -> None:
        self._commands = {one.command_id: one for one in sorted(commands, key=_age)}

    @property
    def all(self) -> tuple[Command, ...]:
        """Every command, oldest first."""
        return tuple(self._commands.values())

    def find(self, command_id: str) -> Command | None:
        """One command."""
        return self._commands.get(command_id)

    def put(self, command: Command) -> None:
        """Add a command, or replace it by its next state."""
        self._commands[command.command_id] = command

    def drop(self, command_id: str) -> None:
        """Remove a command."""
        self._commands.pop(command_id, None)

    def known(self, wanted: Command) -> Command | None:
        """The command that already has this id; raises Conflict if it orders something else."""
        have = self._commands.get(wanted.command_id)
        if have is not None and _order(have) != _order(wanted):
            raise Conflict(
                f"command id {wanted.command_id!r} was used for another order: choose a new id", param="command_id"
            )
        return have

    def unfinished(self, host_id: str) -> tuple[Command, ...]:
        """What a host still has to do, oldest first."""
        return tuple(one for one in self._commands.values() if one.host_id == host_id and not has_ended(one))

    def surplus(self) -> tuple[Delete, ...]:
        """The oldest ended commands beyond what is kept."""
        ended = [one.command_id for one in self._commands.values() if has_ended(one)]
        return tuple(Delete(Kind.COMMAND, key) for key in ended[: max(0, len(ended) - ENDED_KEPT)])

    def after_hello(self, host_id: str, open_ids: Iterable[str], now: Instant) -> tuple[list[Command], list[Command]]:
        """What changed as a node came back, and which of it must be sent (again)."""
        known, changed, resend = frozenset(open_ids), [], []
        for command in self.unfinished(host_id):
            if command.command_id not in known:
                after = moved(command, CommandState.SENDING, now) or command
                resend.append(after)
            else:
                after = moved(command, CommandState.ACCEPTED, now) or command
            if after is not command:
                changed.append(after)
        return changed, resend

    def after_loss(self, host_id: str, now: Instant) -> list[Command]:
        """What changed as a node's stream ended: what it may not have read waits again."""
        unfinished = self.unfinished(host_id)
        return [after for one in unfinished if (after := moved(one, CommandState.PENDING, now)) is not None]

    def after_forgotten(self, host_id: str, now: Instant) -> list[Command]:
        """What changed as a host was forgotten: no end will be reported."""
        message = "the host was forgotten before it reported an end"
        unfinished = self.unfinished(host_id)
        return [after for one in unfinished if (after := moved(one, CommandState.UNKNOWN, now, message)) is not None]


def _age(command: Command) -> tuple[int, str]:
    return command.created_at_ms, command.command_id


def _order(command: Command) -> tuple[object, ...]:
    return command.host_id, command.kind, command.service_id, command.asset_id, command.context_size
