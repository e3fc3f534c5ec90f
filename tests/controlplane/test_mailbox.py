from __future__ import annotations

import asyncio

import pytest

from controlplane import events as ev
from controlplane.mailbox import Letter, Mailbox
from geniehive.errors import NotReady, Overloaded


def test_a_full_box_refuses_and_takes_the_end_of_a_stream_nevertheless() -> None:
    box = Mailbox(1)
    box.put(Letter(ev.Tick()))
    with pytest.raises(Overloaded):
        box.put(Letter(ev.Tick()))
    box.put(Letter(ev.SessionClosed(session_id="s")))
    box.put(Letter(ev.GatewayGone(stream_id="s")))
    assert len(box) == 3


async def test_who_waits_for_room_goes_on_as_soon_as_there_is_some() -> None:
    box = Mailbox(1)
    box.put(Letter(ev.Tick()))
    waiting = asyncio.ensure_future(box.room())
    await asyncio.sleep(0)
    assert not waiting.done()
    box.take()
    async with asyncio.timeout(20):
        await waiting


async def test_a_closed_box_drops_what_happens_and_refuses_who_asks() -> None:
    box = Mailbox(1)
    box.close()
    box.put(Letter(ev.Tick()))
    assert box.take() is None
    with pytest.raises(NotReady):
        box.put(Letter(ev.Tick(), asyncio.get_running_loop().create_future()))
