"""What several write in one round goes out behind all of them, in order; who is alone does not wait."""

from __future__ import annotations

import asyncio

import pytest

from geniehive.relay.failures import Unanswered
from geniehive.relay.outbox import Outbox
from tests.geniehive.relay.wire import Line, Patient, whole

ASKED = b"GET / HTTP/1.1\r\n\r\n"


class Round:
    """Tasks that a read woke, each of which writes its name; `log` is what happened, in order."""

    def __init__(self):
        self.loop = asyncio.get_running_loop()
        self.outbox = Outbox(self.loop)
        self.log = []

    def wake(self, *names):
        for name in names:
            self.outbox.wakes()
            self.loop.call_soon(self._run, name)

    def _run(self, name):
        self.log.append(f"run {name}")
        if self.outbox.takes():
            self.outbox.hold(Write(self.log, name))
        else:
            self.log.append(f"write {name}")

    async def over(self):
        for _ in range(5):
            await asyncio.sleep(0)
        return self.log


class Write:
    def __init__(self, log, name):
        self.log, self.name = log, name

    def flush(self):
        self.log.append(f"write {self.name}")


async def test_who_is_alone_in_a_round_writes_at_once():
    one = Round()
    for name in "abc":
        one.wake(name)
        await asyncio.sleep(0)
        assert one.log[-2:] == [f"run {name}", f"write {name}"]


async def test_what_several_write_goes_out_behind_all_of_them_in_their_order():
    one = Round()
    one.wake(*"abcd")
    assert await one.over() == [
        *("run a", "write a", "run b", "run c", "run d"),  # the first of them does not know of the others
        *("write b", "write c", "write d"),
    ]


async def test_a_round_does_not_wait_for_the_next():
    one = Round()
    one.wake(*"abc")
    await asyncio.sleep(0)  # they have run
    one.wake(*"def")
    log = await one.over()
    assert log.index("write b") < log.index("write c") < log.index("run d") < log.index("run f") < log.index("write e")
    assert sorted(log) == sorted(f"{what} {name}" for what in ("run", "write") for name in "abcdef")


async def test_who_comes_alone_behind_a_round_writes_at_once():
    one = Round()
    one.wake(*"abc")
    await one.over()
    one.wake("d")
    await asyncio.sleep(0)
    assert one.log[-2:] == ["run d", "write d"]


async def test_one_that_was_woken_and_wrote_nothing_holds_nobody_for_long():
    one = Round()
    one.outbox.wakes()
    await one.over()
    one.wake("a")
    assert await one.over() == ["run a", "write a"]


async def test_the_first_of_very_many_do_not_wait_for_all():
    one = Round()
    names = [f"{number:03}" for number in range(200)]
    one.wake(*names)
    log = await one.over()
    assert log.index("write 001") < log.index("run 150")
    assert [each for each in log if each.startswith("write")] == [f"write {name}" for name in names]


async def test_answers_that_come_together_are_a_round():
    outbox = Outbox(asyncio.get_running_loop())
    lines = Line(lambda _loop: outbox), Line(lambda _loop: outbox)
    for line in lines:
        line.ask()
    for line in lines:
        line.feed(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi")
    await asyncio.sleep(0)
    assert outbox.takes()


async def test_a_request_is_sent_when_the_round_is_over():
    line = Line(Patient)
    response = line.connection.send(ASKED, b"body")
    assert line.transport.sent == []
    await asyncio.sleep(0)
    assert line.transport.sent == [ASKED + b"body"]
    line.feed(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi")
    assert await whole(response) == (200, b"hi")


async def test_a_long_request_does_not_wait_and_is_not_copied():
    line, body = Line(Patient), bytes(100_000)
    line.connection.send(ASKED, body)
    assert line.transport.sent == [ASKED, body]


async def test_a_request_that_nobody_wants_any_more_is_never_sent():
    line = Line(Patient)
    line.connection.send(ASKED, b"").close()
    await asyncio.sleep(0)
    assert line.transport.sent == []
    assert line.transport.aborted


@pytest.mark.parametrize("exc", [None, ConnectionResetError()])
async def test_a_request_whose_connection_goes_before_it_was_sent_is_unanswered(exc):
    line = Line(Patient)
    response = line.connection.send(ASKED, b"")
    line.drop(exc)
    await asyncio.sleep(0)
    assert line.transport.sent == []
    with pytest.raises(Unanswered):
        await response.begun()


async def test_what_comes_before_a_request_was_sent_is_not_its_answer():
    line = Line(Patient)
    response = line.connection.send(ASKED, b"")
    line.feed(b"HTTP/1.1 408 Request Timeout\r\ncontent-length: 0\r\n\r\n")
    await asyncio.sleep(0)
    assert line.transport.sent == []
    assert line.transport.aborted
    assert line.freed == 0
    with pytest.raises(Unanswered):
        await response.begun()
