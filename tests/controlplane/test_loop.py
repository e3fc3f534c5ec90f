from __future__ import annotations

import asyncio
import time

import pytest

from controlplane import events as ev
from controlplane import loop as loop_module
from controlplane.leases import LeaseTerms
from geniehive.clock import ManualClock
from geniehive.errors import Conflict, NotReady, StoreError
from geniehive.resources import (
    Command,
    CommandKind,
    CommandState,
    Health,
    HealthStatus,
    Host,
    HostObserved,
    LeaseState,
    Observed,
    Service,
    ServiceState,
    Snapshot,
)
from tests.controlplane.plane import Link, MemoryStore, running_loop, until

HEALTHY = Health(status=HealthStatus.HEALTHY)


def hello(session_id: str = "s1", host_id: str = "atlas", epoch: int = 1) -> ev.HelloReceived:
    service = Service(service_id=f"{host_id}/chat", host_id=host_id)
    return ev.HelloReceived(session_id=session_id, host=Host(host_id=host_id, boot_epoch=epoch), services=(service,))


def heartbeat(session_id: str = "s1", host_id: str = "atlas", running: int = 0, sequence: int = 1) -> ev.Event:
    return ev.HeartbeatReceived(
        session_id=session_id,
        host_id=host_id,
        boot_epoch=1,
        sequence=sequence,
        host=HostObserved(),
        services=(ServiceState(service_id=f"{host_id}/chat", health=HEALTHY, observed=Observed(running=running)),),
    )


def order(command_id: str = "c1", host_id: str = "atlas") -> ev.CommandRequested:
    return ev.CommandRequested(command=Command(command_id=command_id, host_id=host_id, kind=CommandKind.PROBE))


async def welcomed(loop, session_id: str = "s1", host_id: str = "atlas") -> Link:
    link = Link()
    loop.attach(session_id, link)
    loop.post(hello(session_id, host_id))
    await until(lambda: link.sent)
    return link


async def test_an_order_is_stored_before_its_node_gets_it() -> None:
    store = MemoryStore()
    async with running_loop(store) as loop:
        link = await welcomed(loop)
        store.open.clear()
        asked = asyncio.ensure_future(loop.ask(order()))
        store.begun.clear()
        await store.begun.wait()
        loop.post(heartbeat())  # something to see that the loop has gone on
        await until(lambda: loop.snapshot is not None)
        assert not asked.done()
        assert [type(one) for one in link.sent] == [ev.Welcome]
        store.open.set()
        answer = await asked
        assert isinstance(answer, Command)
        assert answer.state is CommandState.SENDING
        assert any(isinstance(one, ev.Order) for one in link.sent)
        assert store.kept[ev.Kind.COMMAND, "c1"].state is CommandState.PENDING


async def test_heartbeats_of_others_do_not_wait_for_a_slow_store() -> None:
    store = MemoryStore()
    async with running_loop(store) as loop:
        atlas, borea = await welcomed(loop), await welcomed(loop, "s2", "borea")
        store.open.clear()
        asked = asyncio.ensure_future(loop.ask(order()))
        loop.post(heartbeat("s2", "borea"))
        await until(lambda: ev.Ack(1) in borea.sent)
        assert loop.snapshot.services["borea/chat"].health == HEALTHY
        loop.post(heartbeat())
        await until(lambda: ev.Ack(1) in atlas.sent)
        assert not asked.done()
        store.open.set()
        await asked


async def test_nothing_of_a_session_overtakes_its_own_write_and_the_lease_is_renewed_meanwhile() -> None:
    store, clock = MemoryStore(), ManualClock()
    async with running_loop(store, clock=clock) as loop:
        link = await welcomed(loop)
        store.open.clear()
        more = (Service(service_id="atlas/chat", host_id="atlas", endpoint="http://new"),)
        loop.post(ev.InventoryReceived(session_id="s1", host_id="atlas", boot_epoch=1, services=more))
        clock.advance(14)
        loop.post(heartbeat())
        await until(lambda: loop.host_view("atlas").heartbeat_age_seconds == 0)
        clock.advance(10)
        await asyncio.sleep(0)
        assert ev.Ack(1) not in link.sent
        assert loop.snapshot.hosts["atlas"].lease is LeaseState.UP
        store.open.set()
        await until(lambda: ev.Ack(1) in link.sent)
        service = loop.snapshot.services["atlas/chat"]
        assert (service.endpoint, service.health) == ("http://new", HEALTHY)


async def test_a_store_that_refuses_fails_the_order_and_not_the_heartbeats() -> None:
    store = MemoryStore()
    async with running_loop(store) as loop:
        link = await welcomed(loop)
        store.broken = True
        with pytest.raises(StoreError, match="full"):
            await loop.ask(order())
        assert loop.commands == ()
        loop.post(heartbeat(sequence=7))
        await until(lambda: ev.Ack(7) in link.sent)
        store.broken = False
        await loop.ask(order())


async def test_what_a_node_told_while_the_store_refused_is_stored_when_it_works_again() -> None:
    store, clock = MemoryStore(), ManualClock()
    store.broken = True
    async with running_loop(store, clock=clock) as loop:
        with loop.events() as news:
            await welcomed(loop)
            assert "store.failed" in [one.kind async for one in closed(news)]
        assert "atlas" in loop.snapshot.hosts
        assert store.kept == {}
        store.broken = False
        clock.advance(loop_module.RETRY_S + 1)
        await until(lambda: (ev.Kind.HOST, "atlas") in store.kept)


async def test_a_store_that_never_answers_counts_as_failed(monkeypatch) -> None:
    monkeypatch.setattr(loop_module, "WRITE_TIMEOUT_S", 0.05)
    store = MemoryStore()
    async with running_loop(store) as loop:
        await welcomed(loop)
        store.open.clear()
        with pytest.raises(StoreError, match="no answer"):
            await loop.ask(order())


async def test_a_change_of_shape_waits_for_no_tick() -> None:
    clock = ManualClock()  # stands still: neither a Tick nor ObservedDue can come
    async with running_loop(clock=clock) as loop:
        await welcomed(loop)
        with loop.subscribe() as feed:
            updates = aiter(feed)
            assert isinstance(await anext(updates), Snapshot)
            loop.post(heartbeat())
            async with asyncio.timeout(20):
                update = await anext(updates)
        assert isinstance(update, ev.Publish)
        assert update.delta.services[0].health == HEALTHY


async def test_measurements_are_batched_and_only_what_moved_is_sent() -> None:
    clock = ManualClock()
    async with running_loop(clock=clock) as loop:
        await welcomed(loop)
        await welcomed(loop, "s2", "borea")
        for session, host in (("s1", "atlas"), ("s2", "borea")):
            loop.post(heartbeat(session, host))
        await until(lambda: loop.snapshot.services["borea/chat"].health == HEALTHY)
        clock.advance(1)
        with loop.subscribe() as feed:
            updates = aiter(feed)
            await anext(updates)
            for running in (1, 2, 3):
                loop.post(heartbeat(running=running))
            await loop.ask(ev.RolesLoaded(roles=()))  # behind the heartbeats
            clock.advance(loop_module.OBSERVED_S)
            async with asyncio.timeout(20):
                update = await anext(updates)
        assert isinstance(update, ev.PublishObserved)
        assert {key: one.running for key, one in update.services.items()} == {"atlas/chat": 3}


async def test_silence_makes_a_host_stale_and_a_jump_of_the_wall_clock_does_not() -> None:
    clock = ManualClock()
    async with running_loop(clock=clock) as loop:
        await welcomed(loop)
        clock.jump(3600)
        clock.advance(14)
        await loop.ask(ev.RolesLoaded(roles=()))
        assert loop.snapshot.hosts["atlas"].lease is LeaseState.UP
        clock.advance(1)
        await until(lambda: loop.snapshot.hosts["atlas"].lease is LeaseState.STALE)


async def test_a_process_that_stood_still_longer_than_a_lease_blames_nobody(monkeypatch) -> None:
    monkeypatch.setattr(loop_module, "PAUSE_S", 0.1)
    async with running_loop(terms=LeaseTerms(ttl_s=0.5, grace_s=60)) as loop:
        with loop.events() as news:
            await welcomed(loop)
            time.sleep(0.8)  # as a SIGSTOP does: nothing of this process runs
            async for event in news:
                if event.kind.startswith(("leases.", "host.stale")):
                    assert event.kind == "leases.credited"
                    break
            assert loop.snapshot.hosts["atlas"].lease is LeaseState.UP


async def test_a_restart_keeps_hosts_services_and_orders_and_empties_no_route() -> None:
    store, clock = MemoryStore(), ManualClock()
    async with running_loop(store, clock=clock) as loop:
        await welcomed(loop)
        await loop.ask(order())
    async with running_loop(store, clock=clock, epoch=2) as loop:
        assert loop.snapshot.epoch == 2
        assert loop.snapshot.hosts["atlas"].lease is LeaseState.UP
        assert "atlas/chat" in loop.snapshot.services
        writes = len(store.writes)
        link = await welcomed(loop)
        await until(lambda: any(isinstance(one, ev.Order) and one.command.command_id == "c1" for one in link.sent))
        assert len(store.writes) == writes


async def test_an_error_of_the_core_reaches_who_asked() -> None:
    async with running_loop() as loop:
        await welcomed(loop)
        with pytest.raises(Conflict, match="is up"):
            await loop.ask(ev.ForgetRequested(host_id="atlas"))


async def test_closing_tells_nodes_to_come_back_and_leaves_nobody_waiting() -> None:
    store = MemoryStore()
    async with running_loop(store) as loop:
        link = await welcomed(loop)
        with loop.subscribe() as feed, loop.events() as news:
            store.open.clear()
            stored = asyncio.ensure_future(loop.ask(order("c1")))
            waiting = asyncio.ensure_future(loop.ask(order("c2")))
            store.begun.clear()
            await store.begun.wait()
            loop.close()
            store.open.set()
            assert isinstance(await stored, Command)
            with pytest.raises(NotReady):
                await waiting
            assert [type(one) async for one in feed] == [Snapshot]
            assert {one.kind async for one in news} <= {"command.pending", "command.sending"}
        assert isinstance(link.sent[-1], ev.Reject | ev.Order)
        assert any(isinstance(one, ev.Reject) and one.reason == "not_serving" for one in link.sent)
        assert link.ended
    with pytest.raises(NotReady):
        await loop.ask(order())


async def test_a_watcher_that_does_not_read_is_dropped_and_holds_nobody_up(monkeypatch) -> None:
    monkeypatch.setattr(loop_module, "WATCHER_LIMIT", 1)
    async with running_loop() as loop:
        with loop.events() as news:
            await welcomed(loop)
            await until(lambda: news.closed)


async def test_a_stream_without_heartbeats_is_closed() -> None:
    clock = ManualClock()
    async with running_loop(clock=clock, terms=LeaseTerms(ttl_s=1, grace_s=1)) as loop:
        link = await welcomed(loop)
        clock.advance(3)
        await until(lambda: link.ended)


async def closed(news):
    news.close()
    async for one in news:
        yield one
