"""The loop that owns the agent."""

import asyncio

import pytest

from geniehive.clock import SystemClock
from geniehive.errors import Fenced
from geniehive.resources import Command, CommandKind, Host, Service
from nodeagent import events as ev
from nodeagent.agent import Agent, SessionState
from nodeagent.events import RejectReason
from nodeagent.loop import NodeLoop
from tests.nodeagent.peers import eventually

WELCOME = ev.Welcomed(session_id="s", lease_ttl_s=15, heartbeat_interval_s=0.05)


class Link:
    def __init__(self):
        self.sent, self.reconnects = [], []

    def send(self, message):
        self.sent.append(message)

    def reconnect(self, reason):
        self.reconnects.append(reason)


@pytest.fixture
async def running():
    loop, link, started = NodeLoop(Agent(Host(host_id="atlas")), SystemClock()), Link(), []
    task = asyncio.create_task(loop.run(link, started.append))
    yield loop, link, started, task
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_effects_are_done_in_their_order_and_heartbeats_go_out_by_themselves(running):
    loop, link, _, _ = running
    for event in (ev.Connected(), WELCOME):
        loop.post(event)
    await eventually(lambda: len(link.sent) >= 4)
    assert [type(one) for one in link.sent[:4]] == [ev.SendHello, ev.SendHeartbeat, ev.SendHeartbeat, ev.SendHeartbeat]


async def test_a_command_is_started_and_its_end_is_told(running):
    loop, link, started, _ = running
    for event in (ev.Looked(Service(service_id="atlas/x", host_id="atlas")), ev.Connected(), WELCOME):
        loop.post(event)
    await loop.offer(ev.CommandReceived(Command(command_id="c", host_id="atlas", kind=CommandKind.PROBE)))
    await eventually(lambda: started)
    loop.post(ev.CommandEnded("c", message="done"))
    await eventually(lambda: any(isinstance(one, ev.SendResult) and one.message == "done" for one in link.sent))


async def test_reconnect_goes_to_the_session(running):
    loop, link, _, _ = running
    for event in (ev.Connected(), WELCOME, ev.Rejected(RejectReason.NOT_SERVING, "standby")):
        loop.post(event)
    assert "standby" in (await eventually(lambda: link.reconnects))[0]


async def test_a_fenced_agent_ends_with_words_that_name_the_fix(running):
    loop, _, _, task = running
    for event in (ev.Connected(), WELCOME, ev.Rejected(RejectReason.FENCED, "give it another node.host_id")):
        loop.post(event)
    with pytest.raises(Fenced, match=r"another agent speaks for host 'atlas'.*node\.host_id"):
        await task


async def test_waiting_for_a_view_wakes_up_when_it_comes(running):
    loop, _, _, _ = running
    waiting = asyncio.create_task(loop.wait_for(lambda view: view.state is SessionState.GREETING))
    loop.post(ev.Connected())
    assert (await asyncio.wait_for(waiting, 20)).state is SessionState.GREETING
