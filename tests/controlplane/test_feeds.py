from __future__ import annotations

from controlplane.events import PublishObserved
from controlplane.feeds import RoutingFeed
from geniehive.resources import Observed, Snapshot


def update(number: int) -> PublishObserved:
    return PublishObserved(1, 1, {"s": Observed(running=number)}, {})


async def take(feed: RoutingFeed) -> list[object]:
    feed.close()
    return [one async for one in feed]


async def test_the_whole_snapshot_comes_first_then_every_update_in_order() -> None:
    feed = RoutingFeed(lambda: Snapshot(epoch=1, revision=5))
    reader = aiter(feed)
    assert await anext(reader) == Snapshot(epoch=1, revision=5)
    feed.push(update(1))
    feed.push(update(2))
    assert [await anext(reader), await anext(reader)] == [update(1), update(2)]


async def test_updates_before_the_first_read_are_in_the_snapshot_already() -> None:
    feed = RoutingFeed(lambda: Snapshot(epoch=1, revision=6))
    feed.push(update(1))
    assert await take(feed) == [Snapshot(epoch=1, revision=6)]


async def test_a_slow_reader_gets_the_newest_snapshot_instead_of_the_queue() -> None:
    newest = [Snapshot(epoch=1, revision=1)]
    feed = RoutingFeed(lambda: newest[0], limit=3)
    reader = aiter(feed)
    await anext(reader)
    for number in range(10):
        feed.push(update(number))
    newest[0] = Snapshot(epoch=1, revision=2)
    assert await anext(reader) == newest[0]
    feed.push(update(11))
    assert await anext(reader) == update(11)
