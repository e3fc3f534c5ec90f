from __future__ import annotations

import itertools

import pytest

from controlplane.commands import ENDED_KEPT, TRANSITIONS, CommandBook, has_ended, moved
from controlplane.events import Instant
from geniehive.errors import Conflict
from geniehive.resources import Command, CommandKind, CommandState

NOW = Instant(5.0, 5_000)


def command(key: str = "c1", state: CommandState = CommandState.PENDING, **fields) -> Command:
    return Command(command_id=key, host_id="atlas", kind=CommandKind.LOAD, state=state, **fields)


@pytest.mark.parametrize(("before", "after"), list(itertools.product(CommandState, CommandState)))
def test_a_move_happens_only_if_the_table_has_it(before: CommandState, after: CommandState) -> None:
    found = moved(command(state=before), after, NOW, "words")
    if after in TRANSITIONS[before]:
        assert found is not None
        assert (found.state, found.message, found.updated_at_ms) == (after, "words", 5_000)
    else:
        assert found is None


def test_an_end_has_no_way_out_and_everything_else_has_one_to_every_end() -> None:
    ends = {state for state in CommandState if has_ended(command(state=state))}
    assert ends == {CommandState.SUCCEEDED, CommandState.FAILED, CommandState.UNKNOWN}
    for state, after in TRANSITIONS.items():
        assert (not after) if state in ends else ends <= after


def test_a_repeat_of_an_id_finds_the_first_order() -> None:
    book = CommandBook([command(state=CommandState.RUNNING, created_at_ms=1)])
    assert book.known(command(created_at_ms=99)) == book.find("c1")


def test_an_id_used_for_another_order_is_a_conflict() -> None:
    book = CommandBook([command()])
    with pytest.raises(Conflict, match="choose a new id"):
        book.known(command(asset_id="other"))


def test_a_node_that_returns_gets_what_it_does_not_list_and_nothing_that_has_ended() -> None:
    book = CommandBook(
        [
            command("a", CommandState.PENDING),
            command("b", CommandState.RUNNING),
            command("c", CommandState.RUNNING),
            command("d", CommandState.SUCCEEDED),
        ]
    )
    changed, resend = book.after_hello("atlas", ["c"], NOW)
    assert [one.command_id for one in resend] == ["a", "b"]
    assert {one.command_id: one.state for one in changed} == {"a": CommandState.SENDING, "b": CommandState.SENDING}


def test_commands_of_a_forgotten_host_end_unknown() -> None:
    book = CommandBook([command("a"), command("b", CommandState.FAILED)])
    assert [(one.command_id, one.state) for one in book.after_forgotten("atlas", NOW)] == [("a", CommandState.UNKNOWN)]


def test_only_so_many_ended_commands_are_kept_and_no_open_one_is_lost() -> None:
    ended = [command(f"e{n}", CommandState.FAILED, created_at_ms=n + 1) for n in range(ENDED_KEPT + 2)]
    book = CommandBook([*ended, command("open", created_at_ms=0)])
    assert [one.key for one in book.surplus()] == ["e0", "e1"]
