"""A cut stream whose one other service is busy: it stands in line, ahead of those that have nothing yet."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager

import httpx
import msgspec
import pytest

from geniehive.config import QueueConfig
from tests.gateway.harness import gateway, service, until
from tests.gateway.misbehaving import CLOSE, DONE, KEEP, STREAM_HEAD, chunk, delta, stream, upstream

HI = [{"role": "user", "content": "hi"}]
CUT_OFF = (STREAM_HEAD, chunk(delta("", role="assistant")), chunk(delta("one ")), CLOSE)
WHOLE = (*stream("one ", "two"), KEEP)


def one_slot(number, url):
    return msgspec.structs.replace(service(number, url), max_concurrency=1)


class Busy:
    """An engine that streams an answer to each request, once there is leave for it."""

    def __init__(self, up):
        self.up = up
        self._leave = asyncio.Semaphore(0)
        self._play, up.play = up.play, self._wait

    async def _wait(self, script, reader, writer):
        await self._leave.acquire()
        return await self._play(script, reader, writer)

    def answer(self):
        self._leave.release()

    @property
    def names(self):
        return [each.json["messages"][0]["content"] for each in self.up.seen]


@asynccontextmanager
async def with_a_busy_one(**limits):
    """A gateway with an engine that cuts its streams and one that is busy with `first`."""
    async with (
        upstream(CUT_OFF) as bad,
        upstream(WHOLE) as up,
        gateway(service(1, bad.url), one_slot(2, up.url), **limits) as gw,
        httpx.AsyncClient(base_url=gw.url, timeout=10) as http,
        asyncio.TaskGroup() as tasks,
    ):
        busy = Busy(up)

        def ask(name, model="h2/s"):
            body = {"model": model, "messages": [{"role": "user", "content": name}], "stream": True}
            return tasks.create_task(http.post("/v1/chat/completions", json=body))

        first = ask("first")
        await until(lambda: len(up.seen) == 1)
        try:
            yield gw, busy, ask
        finally:
            for _ in range(10):
                busy.answer()
            await first


async def cut(gw, ask, name="cut"):
    """A stream that is cut, and stands in line; whom it is asked of first is the gateway's turn."""
    before = len(gw.line)
    made = ask(name, "m")
    await until(lambda: len(gw.line) == before + 1)
    return made


async def test_it_waits_for_a_place_ahead_of_requests_that_have_nothing_yet_while_comments_flow():
    async with with_a_busy_one(keepalive_comment_s=0.05) as (gw, busy, ask):
        new = [ask("new 1"), ask("new 2")]
        await until(lambda: len(gw.line) == 2)
        going = await cut(gw, ask)
        later = ask("new 3")
        await until(lambda: len(gw.line) == 4)
        await asyncio.sleep(0.15)  # for comments
        busy.answer()
        await until(lambda: len(busy.names) == 2)
        assert busy.names[1] == "cut"
        busy.answer()
        found = await going
        for _ in range(3):
            busy.answer()
        await asyncio.gather(*new, later)
        assert busy.names[2:] == ["new 1", "new 2", "new 3"]
        assert found.content.endswith(DONE)
        assert found.content.count(b'"content":"one "') == found.content.count(b'"content":"two"') == 1
        assert found.content.index(b": keepalive\n\n") < found.content.index(b": geniehive resumed on h2/s")
        await until(lambda: not gw.in_flight.counts)


@pytest.mark.parametrize("most", [1, 0])
async def test_a_full_line_takes_it_all_the_same_unless_nobody_may_wait(most):
    async with with_a_busy_one(queue=QueueConfig(most=most)) as (gw, busy, ask):
        if most:
            new = ask("new")
            await until(lambda: len(gw.line) == 1)
            going = await cut(gw, ask)
            for _ in range(3):
                busy.answer()
            assert (await going).content.endswith(DONE)
            assert (await new).content.endswith(DONE)
        else:
            found = await ask("cut", "m")
            assert b'data: {"error":' in found.content
            assert b"[DONE]" not in found.content


async def test_whoever_waits_too_long_ends_in_the_error_of_its_cut_and_leaves_the_line():
    async with with_a_busy_one(queue=QueueConfig(timeout_s=0.2)) as (gw, busy, ask):
        found = await (await cut(gw, ask))
        assert b"broke its answer off" in found.content
        assert b"[DONE]" not in found.content
        assert len(gw.line) == 0
        assert busy.names == ["first"]


async def test_a_client_that_leaves_meanwhile_leaves_the_line():
    async with with_a_busy_one() as (gw, busy, ask):
        going = await cut(gw, ask)
        going.cancel()
        await until(lambda: len(gw.line) == 0)
        assert busy.names == ["first"]
        await until(lambda: list(gw.in_flight.counts) == ["h2/s"])
