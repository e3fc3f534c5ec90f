"""Commands at their node: once each, one at a time for a service."""

from geniehive.resources import Command, CommandKind, CommandState
from nodeagent.orders import ENDED_KEPT, OrderBook

SERVICES = {"atlas/chat", "atlas/whisper"}


def command(command_id, kind=CommandKind.LOAD, service_id="atlas/chat", asset_id="m"):
    return Command(command_id=command_id, host_id="atlas", kind=kind, service_id=service_id, asset_id=asset_id)


def states(orders):
    return [(order.command_id, order.state) for order in orders]


def test_a_repeat_gets_the_last_result_and_is_not_started_again():
    book = OrderBook()
    book.receive(command("c"), SERVICES)
    assert len(book.startable()) == 1
    assert states(book.receive(command("c"), SERVICES)) == [("c", CommandState.RUNNING)]
    assert book.startable() == []


def test_loads_of_one_service_wait_for_each_other_and_others_do_not():
    book = OrderBook()
    for one in (command("a"), command("b", CommandKind.UNLOAD), command("w", service_id="atlas/whisper")):
        book.receive(one, SERVICES)
    assert [order.command_id for order in book.startable()] == ["a", "w"]
    book.end("a", failed=False, message="")
    assert [order.command_id for order in book.startable()] == ["b"]


def test_a_probe_does_not_wait_for_a_load():
    book = OrderBook()
    book.receive(command("a"), SERVICES)
    book.receive(command("p", CommandKind.PROBE, asset_id=""), SERVICES)
    assert [order.command_id for order in book.startable()] == ["a", "p"]


def test_drain_and_resume_are_done_when_acknowledged():
    book = OrderBook()
    for kind in (CommandKind.DRAIN, CommandKind.RESUME):
        told = book.receive(command(kind.value, kind, service_id="", asset_id=""), SERVICES)
        assert [order.state for order in told] == [CommandState.ACCEPTED, CommandState.SUCCEEDED]
    assert book.startable() == []


def test_an_unknown_service_fails_with_the_nearest_one():
    (_, failed) = OrderBook().receive(command("c", service_id="atlas/chta"), SERVICES)
    assert failed.state is CommandState.FAILED
    assert "did you mean atlas/chat?" in failed.message


def test_a_load_without_a_model_fails():
    (_, failed) = OrderBook().receive(command("c", asset_id=""), SERVICES)
    assert failed.state is CommandState.FAILED


def test_an_order_that_cannot_be_understood_fails_and_stays_failed():
    book = OrderBook()
    assert states(book.refuse("x", "update")) == [("x", CommandState.FAILED)]
    assert book.end("x", failed=False, message="") == []


def test_only_so_many_ends_are_remembered_and_never_an_open_one_is_forgotten():
    book = OrderBook()
    book.receive(command("open"), SERVICES)
    for number in range(ENDED_KEPT + 10):
        for order in book.receive(command(f"d{number}", CommandKind.DRAIN, "", ""), SERVICES):
            book.note_told(order.command_id)
    assert [order.command_id for order in book.open] == ["open"]
    assert len(book._orders) == ENDED_KEPT + 1
    assert states(book.receive(command("d0", CommandKind.DRAIN, "", ""), SERVICES))[0] == ("d0", CommandState.ACCEPTED)


def test_an_end_that_was_not_told_is_open():
    book = OrderBook()
    book.receive(command("c"), SERVICES)
    book.startable()
    book.end("c", failed=False, message="done")
    assert states(book.open) == [("c", CommandState.SUCCEEDED)]
    book.note_told("c")
    assert book.open == ()
