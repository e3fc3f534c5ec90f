"""Commands on the wire: the record that operators see, the order that a node gets, its result."""

from __future__ import annotations

from typing import Final

from geniehive.resources import Command, CommandKind, CommandState
from geniehive.v1 import cluster_service_pb2 as cluster
from geniehive.v1 import node_service_pb2 as node

_RESULTS: Final = {
    CommandState.ACCEPTED: node.COMMAND_RESULT_STATE_ACCEPTED,
    CommandState.RUNNING: node.COMMAND_RESULT_STATE_RUNNING,
    CommandState.SUCCEEDED: node.COMMAND_RESULT_STATE_SUCCEEDED,
    CommandState.FAILED: node.COMMAND_RESULT_STATE_FAILED,
}
_RESULT_STATES: Final = {number: state for state, number in _RESULTS.items()}


def command_to_pb(command: Command) -> cluster.CommandRecord:
    """The record as operators see it."""
    return cluster.CommandRecord(
        command_id=command.command_id,
        host_id=command.host_id,
        kind=command.kind.value,
        service_id=command.service_id,
        asset_id=command.asset_id,
        state=f"COMMAND_STATE_{command.state.name}",
        message=command.message,
        created_at_ms=command.created_at_ms,
        updated_at_ms=command.updated_at_ms,
    )


def command_from_pb(message: cluster.CommandRecord) -> Command:
    """The record; ValueError if its kind is unknown here."""
    name = cluster.CommandState.Name(message.state).removeprefix("COMMAND_STATE_")
    return Command(
        command_id=message.command_id,
        host_id=message.host_id,
        kind=CommandKind(message.kind),
        service_id=message.service_id,
        asset_id=message.asset_id,
        state=CommandState.__members__.get(name, CommandState.UNKNOWN),
        message=message.message,
        created_at_ms=message.created_at_ms,
        updated_at_ms=message.updated_at_ms,
    )


def command_order_to_pb(command: Command) -> node.Command:
    """The order as its node gets it."""
    order = node.Command(command_id=command.command_id)
    match command.kind:
        case CommandKind.LOAD:
            order.load.service_id, order.load.asset_id = command.service_id, command.asset_id
            if command.context_size is not None:
                order.load.context_size = command.context_size
        case CommandKind.UNLOAD:
            order.unload.service_id, order.unload.asset_id = command.service_id, command.asset_id
        case CommandKind.PROBE:
            order.probe.service_id = command.service_id
        case CommandKind.DRAIN | CommandKind.RESUME:
            order.drain.draining = command.kind is CommandKind.DRAIN
    return order


def command_order_from_pb(order: node.Command, host_id: str) -> Command | None:
    """The order; None if what it asks for is unknown to this version."""
    command = Command(command_id=order.command_id, host_id=host_id, kind=CommandKind.PROBE)
    match order.WhichOneof("action"):
        case "load":
            kind, action = CommandKind.LOAD, order.load
            size = action.context_size if action.HasField("context_size") else None
            return _replace(command, kind, action.service_id, action.asset_id, size)
        case "unload":
            return _replace(command, CommandKind.UNLOAD, order.unload.service_id, order.unload.asset_id)
        case "probe":
            return _replace(command, CommandKind.PROBE, order.probe.service_id)
        case "drain":
            return _replace(command, CommandKind.DRAIN if order.drain.draining else CommandKind.RESUME)
    return None


def _replace(
    command: Command, kind: CommandKind, service_id: str = "", asset_id: str = "", context_size: int | None = None
) -> Command:
    return Command(
        command_id=command.command_id,
        host_id=command.host_id,
        kind=kind,
        service_id=service_id,
        asset_id=asset_id,
        context_size=context_size,
    )


def command_result_to_pb(command_id: str, state: CommandState, message: str = "") -> node.CommandResult:
    """How a command goes, from its node; `state` is accepted, running, succeeded or failed."""
    return node.CommandResult(command_id=command_id, state=_RESULTS[state], message=message)


def command_result_from_pb(result: node.CommandResult) -> tuple[str, CommandState, str]:
    """Command id, state and words; ValueError if the state is unspecified or unknown here."""
    state = _RESULT_STATES.get(result.state)
    if state is None:
        raise ValueError(f"command {result.command_id!r}: state {result.state} is not a result")
    return result.command_id, state, result.message
