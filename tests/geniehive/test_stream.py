"""The outbox is bounded, in order, and ends."""

import asyncio

import pytest

from geniehive.stream import Outbox, OutboxFull, full_jitter


async def test_items_arrive_in_order_and_the_reader_ends_when_closed():
    box = Outbox(4)
    for number in range(3):
        box.put_nowait(number)
    box.close()
    assert [item async for item in box] == [0, 1, 2]


async def test_a_reader_that_does_not_read_is_told_to_the_writer():
    box = Outbox(1)
    box.put_nowait("a")
    with pytest.raises(OutboxFull):
        box.put_nowait("b")


async def test_a_waiting_reader_wakes_for_an_item():
    box = Outbox(1)
    reader = asyncio.ensure_future(anext(aiter(box)))
    await asyncio.sleep(0)
    box.put_nowait("a")
    assert await asyncio.wait_for(reader, 20) == "a"


async def test_a_closed_box_takes_nothing_more():
    box = Outbox(1)
    box.close()
    box.put_nowait("a")
    assert len(box) == 0


@pytest.mark.parametrize(("attempt", "ceiling"), [(0, 0.5), (1, 1.0), (3, 4.0), (4, 5.0), (10_000, 5.0)])
def test_backoff_grows_to_its_cap_and_jitter_covers_all_of_it(attempt, ceiling):
    assert full_jitter(attempt, 0.5, 5.0, 1.0) == ceiling
    assert full_jitter(attempt, 0.5, 5.0, 0.0) == 0.0
