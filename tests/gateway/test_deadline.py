"""Deadlines that share one timer: they end what they were set for, and nothing else."""

from __future__ import annotations

import asyncio
import time

import pytest

from gateway.deadline import Alarm, Deadline


class Timers:
    """A loop that only counts: what was armed, and what was taken back."""

    def __init__(self):
        self.armed = []

    def call_later(self, delay, call):
        handle = Handle(delay, call)
        self.armed.append(handle)
        return handle


class Handle:
    def __init__(self, delay, call):
        self.delay = delay
        self.call = call
        self.cancelled = False

    def cancel(self):
        self.cancelled = True


async def test_a_scope_that_takes_too_long_ends_with_timeout():
    alarm = Alarm(asyncio.get_running_loop())
    with pytest.raises(TimeoutError), Deadline(alarm, time.monotonic() + 0.02) as deadline:
        await asyncio.sleep(20)
    assert deadline.expired()
    assert asyncio.current_task().cancelling() == 0


async def test_progress_moves_the_end():
    alarm = Alarm(asyncio.get_running_loop())
    with Deadline(alarm, time.monotonic() + 0.02) as deadline:
        deadline.reschedule(time.monotonic() + 60)
        await asyncio.sleep(0.1)
    assert not deadline.expired()


async def test_an_end_that_is_moved_nearer_is_kept():
    alarm = Alarm(asyncio.get_running_loop())

    async def work():
        with Deadline(alarm, time.monotonic() + 60) as deadline:
            deadline.reschedule(time.monotonic() + 0.02)
            await asyncio.sleep(20)

    with pytest.raises(TimeoutError):
        await work()


async def test_somebody_elses_cancel_is_not_taken_for_a_timeout():
    alarm = Alarm(asyncio.get_running_loop())

    async def work():
        with Deadline(alarm, time.monotonic() + 60):
            await asyncio.sleep(5)

    task = asyncio.ensure_future(work())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_scope_that_is_over_is_not_ended_later():
    alarm = Alarm(asyncio.get_running_loop())
    with Deadline(alarm, time.monotonic() + 0.03):
        pass
    await asyncio.sleep(0.1)
    assert asyncio.current_task().cancelling() == 0


def test_one_timer_serves_many_deadlines():
    timers = Timers()
    alarm = Alarm(timers)
    for _ in range(100):
        alarm.set(time.monotonic() + 300, lambda: None)
        alarm.clear()
    assert len(timers.armed) == 1
    alarm.set(time.monotonic() + 1, lambda: None)
    assert [each.cancelled for each in timers.armed] == [True, False]


def test_an_alarm_that_rings_early_is_armed_anew_and_calls_once():
    timers, called = Timers(), []
    alarm = Alarm(timers)
    alarm.set(time.monotonic(), lambda: called.append(1))
    alarm.set(time.monotonic() + 50, lambda: called.append(2))
    timers.armed[-1].call()
    assert called == []
    assert 49 < timers.armed[-1].delay <= 50
    alarm.set(time.monotonic(), lambda: called.append(3))
    timers.armed[-1].call()
    assert called == [3]
