"""Commands survive the wire, as records, as orders and as results."""

import pytest

from geniehive import command_codec
from geniehive.resources import Command, CommandKind, CommandState
from geniehive.v1 import node_service_pb2


@pytest.mark.parametrize("kind", CommandKind)
@pytest.mark.parametrize("state", CommandState)
def test_a_record_survives_the_wire(kind, state):
    command = Command(command_id="c", host_id="h", kind=kind, state=state, message="m", created_at_ms=1)
    assert command_codec.command_from_pb(command_codec.command_to_pb(command)) == command


@pytest.mark.parametrize(
    "command",
    [
        Command(command_id="c", host_id="h", kind=CommandKind.LOAD, service_id="s", asset_id="a", context_size=4096),
        Command(command_id="c", host_id="h", kind=CommandKind.LOAD, service_id="s", asset_id="a"),
        Command(command_id="c", host_id="h", kind=CommandKind.UNLOAD, service_id="s", asset_id="a"),
        Command(command_id="c", host_id="h", kind=CommandKind.PROBE, service_id="s"),
        Command(command_id="c", host_id="h", kind=CommandKind.DRAIN),
        Command(command_id="c", host_id="h", kind=CommandKind.RESUME),
    ],
    ids=lambda command: command.kind.value,
)
def test_an_order_survives_the_wire(command):
    assert command_codec.command_order_from_pb(command_codec.command_order_to_pb(command), "h") == command


def test_an_order_of_a_later_version_is_told_apart():
    assert command_codec.command_order_from_pb(node_service_pb2.Command(command_id="c"), "h") is None


def test_a_result_survives_the_wire():
    result = command_codec.command_result_to_pb("c", CommandState.FAILED, "no such model")
    assert command_codec.command_result_from_pb(result) == ("c", CommandState.FAILED, "no such model")


def test_a_result_without_state_is_refused():
    with pytest.raises(ValueError, match="not a result"):
        command_codec.command_result_from_pb(node_service_pb2.CommandResult(command_id="c"))
