"""Requests wait for a free slot: who goes first, for how long, and what becomes of those that leave."""

from __future__ import annotations

import asyncio
import random
import time

import httpx
import msgspec
import pytest

from gateway.admission import priority_of
from gateway.auth import ANYBODY
from gateway.line import Priority
from geniehive.config import EjectionConfig, QueueConfig
from geniehive.resources import Observed
from geniehive.routing.candidate import Candidate
from tests.gateway.busy_engine import busy_engine
from tests.gateway.harness import gateway, role, service, until
from tests.gateway.misbehaving import DONE, KEEP, answer, completion, stream, upstream

CHAT = "/v1/chat/completions"


def slots(number, url, count=1, **fields):
    return msgspec.structs.replace(service(number, url), max_concurrency=count, **fields)


class Clients:
    """Requests that run, each with a name."""

    def __init__(self, gw, http=None):
        self.gw = gw
        self.http = http
        self.tasks = {}

    async def send(self, name, *, key=None, headers=None, model="m", **more):
        """Send one, and wait until it stands in line or at an engine."""
        before = self.gw.in_flight.total + self.waiting
        self.tasks[name] = asyncio.create_task(self._ask(name, key, headers or {}, model, more))
        await until(lambda: self.gw.in_flight.total + self.waiting > before or self.tasks[name].done())

    async def _ask(self, name, key, headers, model, more):
        body = {"model": model, "messages": [{"role": "user", "content": name}], **more}
        given = headers | ({"authorization": f"Bearer {key}"} if key else {})
        if self.http is not None:
            return await self.http.post(self.gw.url + CHAT, json=body, headers=given)
        async with httpx.AsyncClient(timeout=20) as http:
            return await http.post(self.gw.url + CHAT, json=body, headers=given)

    @property
    def waiting(self):
        return len(self.gw.line)

    async def leave(self, name):
        self.tasks[name].cancel()
        await asyncio.wait([self.tasks[name]])


async def receipt(gw, found):
    async with httpx.AsyncClient(timeout=10) as http:
        return (await http.get(f"{gw.url}/v1/cluster/requests/{found.headers['x-request-id']}")).json()


async def test_no_more_go_to_an_engine_than_it_has_slots_and_all_are_answered_in_turn():
    async with busy_engine() as engine, gateway(slots(1, engine.url, 2)) as gw:
        clients = Clients(gw)
        for name in "abcde":
            await clients.send(name)
        await until(lambda: engine.open == 2)
        assert clients.waiting == 3
        async with httpx.AsyncClient() as http:
            text = (await http.get(gw.url + "/metrics")).text
        assert 'geniehive_gateway_queue_depth{service="h1/s"} 3.0' in text
        for seen in range(2, 6):
            await until(lambda seen=seen: len(engine.up.seen) == seen)
            engine.release()
        engine.release()
        found = {name: await task for name, task in clients.tasks.items()}
        assert engine.most == 2
        assert engine.names == list("abcde")
        assert {each.status_code for each in found.values()} == {200}
        assert found["a"].headers["x-geniehive-queue-ms"] == "0"
        told = await receipt(gw, found["e"])
        assert told["timings"]["queue_position"] == 3
        assert told["timings"]["queue_ms"] > 0
        assert int(found["e"].headers["x-geniehive-queue-ms"]) > 0
        assert float(found["e"].headers["x-geniehive-overhead-ms"]) < told["timings"]["queue_ms"]
        async with httpx.AsyncClient() as http:
            text = (await http.get(gw.url + "/metrics")).text
        assert 'geniehive_gateway_queue_wait_seconds_count{priority="interactive"} 3.0' in text
        assert gw.in_flight.counts == {}


async def test_a_request_takes_the_first_place_that_is_free_at_any_of_its_candidates():
    async with busy_engine() as one, busy_engine() as two, gateway(slots(1, one.url), slots(2, two.url)) as gw:
        clients = Clients(gw)
        for name in "abc":
            await clients.send(name)
        await until(lambda: one.open == two.open == 1)
        two.release()
        await until(lambda: len(two.up.seen) == 2)
        assert two.names[-1] == "c"
        assert one.open == 1
        one.release()
        two.release()
        assert [(await task).status_code for task in clients.tasks.values()] == [200] * 3


async def test_interactive_goes_before_batch_and_keys_take_turns():
    keys = ("key-a", "key-b")
    low = {"X-GenieHive-Priority": "batch"}
    roles = (role("slowly", assets=["m"], priority="batch"),)
    async with busy_engine() as engine, gateway(slots(1, engine.url), keys=keys, roles=roles) as gw:
        clients = Clients(gw)
        await clients.send("first", key="key-a")
        await clients.send("a-low", key="key-a", headers=low)
        await clients.send("a-role", key="key-a", model="slowly")
        for name in ("a1", "a2", "a3"):
            await clients.send(name, key="key-a")
        await clients.send("b-role", key="key-b", model="slowly", headers={"X-GenieHive-Priority": "interactive"})
        await clients.send("b1", key="key-b")
        for seen in range(1, 9):
            await until(lambda seen=seen: len(engine.up.seen) == seen)
            engine.release()
        assert [(await task).status_code for task in clients.tasks.values()] == [200] * 8
        assert engine.names == ["first", "a1", "b-role", "a2", "b1", "a3", "a-low", "a-role"]


PRIORITIES = {
    # key, role, header: what it is
    ("", "", None): Priority.INTERACTIVE,
    ("", "", "batch"): Priority.BATCH,
    ("", "batch", None): Priority.BATCH,
    ("", "batch", "interactive"): Priority.INTERACTIVE,
    ("", "interactive", " Batch "): Priority.BATCH,
    ("batch", "", None): Priority.BATCH,
    ("batch", "", "interactive"): Priority.BATCH,
    ("batch", "interactive", "interactive"): Priority.BATCH,
    ("interactive", "", None): Priority.INTERACTIVE,
    ("", "", "urgent"): Priority.INTERACTIVE,
    ("", "batch", "urgent"): Priority.BATCH,
}


@pytest.mark.parametrize(("given", "expected"), PRIORITIES.items(), ids=map(str, PRIORITIES))
def test_a_request_may_be_lowered_by_anybody_and_raised_by_nobody_above_its_key(given, expected):
    key, by_role, header = given
    made = service(1, "http://x")
    candidate = Candidate(made, made.assets[0], None, (), role("r", priority=by_role) if by_role else None)
    exchange = type("Exchange", (), {})()
    exchange.principal = ANYBODY._replace(priority=key)
    exchange.request = type("Request", (), {"headers": {"x-geniehive-priority": header} if header else {}})()
    assert priority_of(exchange, candidate) is expected


async def test_beyond_the_line_and_beyond_the_time_the_answer_is_503_with_retry_after():
    limits = {"queue": QueueConfig(most=1, timeout_s=1)}
    async with busy_engine() as engine, gateway(slots(1, engine.url), **limits) as gw:
        clients = Clients(gw)
        for name in "abc":
            await clients.send(name)
        full = await clients.tasks["c"]
        assert full.status_code == 503
        assert full.json()["error"]["code"] == "overloaded"
        assert int(full.headers["retry-after"]) >= 1
        late = await clients.tasks["b"]
        assert late.status_code == 503
        assert int(late.headers["retry-after"]) >= 1
        assert int(late.headers["x-geniehive-queue-ms"]) >= 990
        assert (await receipt(gw, late))["timings"]["queue_position"] == 1
        engine.release()
        assert (await clients.tasks["a"]).status_code == 200
        assert engine.names == ["a"]
        assert clients.waiting == 0


async def test_a_client_that_leaves_the_line_or_the_engine_frees_its_place():
    async with busy_engine() as engine, gateway(slots(1, engine.url)) as gw:
        clients = Clients(gw)
        for name in "abcd":
            await clients.send(name)
        await clients.leave("b")
        await until(lambda: clients.waiting == 2)
        assert gw.front.open_requests == 3
        await clients.leave("a")
        await until(lambda: engine.gone == 1)
        await until(lambda: engine.names == ["a", "c"])
        engine.release()
        await until(lambda: len(engine.up.seen) == 3)
        engine.release()
        assert (await clients.tasks["d"]).status_code == 200
        assert engine.most == 1


async def test_comments_flow_to_a_stream_that_waits_in_line():
    ready = asyncio.Event()
    slow = (ready, completion("first"), KEEP)
    async with upstream(slow, (*stream("late"), KEEP)) as up, gateway(slots(1, up.url), keepalive_comment_s=0.1) as gw:
        clients = Clients(gw)
        await clients.send("a")
        await clients.send("b", stream=True)
        await asyncio.sleep(0.3)  # two comments are due by then
        ready.set()
        found = await clients.tasks["b"]
        assert found.content.startswith(b": keepalive\n\n")
        assert found.content.endswith(DONE)


async def test_a_stream_that_waited_too_long_ends_in_an_error_event():
    limits = {"queue": QueueConfig(timeout_s=0.3), "keepalive_comment_s": 0.1}
    async with busy_engine() as engine, gateway(slots(1, engine.url), **limits) as gw:
        clients = Clients(gw)
        await clients.send("a")
        await clients.send("b", stream=True)
        found = await clients.tasks["b"]
        assert found.status_code == 200
        assert b'data: {"error":' in found.content
        assert b"[DONE]" not in found.content
        engine.release()


@pytest.mark.parametrize(
    ("count", "limits"), [(None, {}), (1, {"queue": QueueConfig(at_slots=False)})], ids=["unknown", "off"]
)
async def test_without_a_limit_nobody_waits(count, limits):
    async with busy_engine() as engine, gateway(slots(1, engine.url, count), **limits) as gw:
        clients = Clients(gw)
        for name in "abc":
            await clients.send(name)
        await until(lambda: engine.open == 3)
        engine.release(3)
        assert [(await task).status_code for task in clients.tasks.values()] == [200] * 3


async def test_what_the_engine_tells_of_its_slots_counts_and_what_others_have_open_there():
    async with busy_engine() as engine, gateway(engine.url) as gw:
        gw.view.measure({"h1/s": Observed(slots=3, in_flight=2)}, {})
        clients = Clients(gw)
        for name in "ab":
            await clients.send(name)
        await until(lambda: engine.open == 1)
        assert clients.waiting == 1
        gw.view.measure({"h1/s": Observed(slots=3, in_flight=0)}, {})
        await until(lambda: engine.open == 2)
        gw.view.measure({"h1/s": Observed(slots=3, in_flight=9)}, {})
        await clients.send("c")
        assert clients.waiting == 1
        engine.release(2)
        await until(lambda: engine.open == 1)  # one place is always this worker's
        engine.release()
        assert [(await task).status_code for task in clients.tasks.values()] == [200] * 3


async def test_what_this_worker_just_reported_is_not_taken_for_somebody_elses():
    async with busy_engine() as engine, gateway(engine.url) as gw:
        gw.in_flight.guard("h1/s").close()
        busy = [gw.in_flight.guard("h1/s") for _ in range(3)]
        gw.in_flight.report(("h1/s",))
        for each in busy:
            each.close()
        gw.in_flight.report(("h1/s",))
        gw.view.measure({"h1/s": Observed(slots=3, in_flight=3)}, {})  # as of before the last report
        clients = Clients(gw)
        for name in "abc":
            await clients.send(name)
        await until(lambda: engine.open == 3)
        engine.release(3)
        assert [(await task).status_code for task in clients.tasks.values()] == [200] * 3


async def test_at_shutdown_those_in_line_are_told_so():
    async with busy_engine() as engine, gateway(slots(1, engine.url)) as gw:
        clients = Clients(gw)
        for name in "ab":
            await clients.send(name)
        await gw.front.drain(0.2)
        assert [(await task).status_code for task in clients.tasks.values()] == [503, 503]
        assert clients.waiting == 0
        assert engine.names == ["a"]


async def test_those_in_line_do_not_go_to_a_service_that_was_ejected_meanwhile():
    bad = (answer(502, {"error": "boom"}), KEEP)
    limits = {"ejection": EjectionConfig(failures=1, first_s=30, longest_s=60)}
    all_there = asyncio.Event()
    async with (
        upstream((all_there, *bad), bad) as one,
        busy_engine() as two,
        gateway(slots(1, one.url), slots(2, two.url), **limits) as gw,
    ):
        clients = Clients(gw)
        for name in "abcd":
            await clients.send(name)
        all_there.set()
        await until(lambda: gw.circuits.out(time.monotonic()))
        for seen in range(1, 5):
            await until(lambda seen=seen: len(two.up.seen) == seen)
            two.release()
        assert [(await task).status_code for task in clients.tasks.values()] == [200] * 4
        assert len(one.seen) == 1


async def test_those_in_line_for_services_that_are_all_ejected_try_the_least_bad():
    bad = (answer(502, {"error": "boom"}), KEEP)
    limits = {"ejection": EjectionConfig(failures=1, first_s=30, longest_s=60)}
    all_there = asyncio.Event()
    async with (
        upstream((all_there, *bad), bad, (completion("well"), KEEP)) as one,
        gateway(slots(1, one.url), **limits) as gw,
    ):
        clients = Clients(gw)
        for name in "ab":
            await clients.send(name)
        all_there.set()
        assert (await clients.tasks["a"]).status_code == 502
        assert (await clients.tasks["b"]).status_code == 200


async def test_no_place_is_lost_whatever_clients_do():
    dice = random.Random(7)
    async with (
        busy_engine() as one,
        busy_engine() as two,
        gateway(slots(1, one.url, 2), slots(2, two.url)) as gw,
        httpx.AsyncClient(timeout=20, limits=httpx.Limits(max_connections=None)) as http,
    ):
        clients, most = Clients(gw, http), {"h1/s": 0, "h2/s": 0}

        async def client(name):
            await asyncio.sleep(dice.random() * 0.3)
            clients.tasks[name] = asyncio.create_task(clients._ask(name, None, {}, "m", {}))
            await asyncio.sleep(dice.random() * 0.3)
            if dice.random() < 0.5:
                await clients.leave(name)

        async def work(engine):
            while True:
                await asyncio.sleep(dice.random() * 0.01)
                most.update({name: max(seen, gw.in_flight.counts.get(name, 0)) for name, seen in most.items()})
                if engine._held:
                    engine.release()

        workers = [asyncio.create_task(work(each)) for each in (one, two)]
        await asyncio.gather(*(client(str(each)) for each in range(80)))
        done = await asyncio.gather(*clients.tasks.values(), return_exceptions=True)
        for each in workers:
            each.cancel()
        assert {each.status_code for each in done if isinstance(each, httpx.Response)} == {200}
        await until(lambda: gw.in_flight.counts == {})
        assert clients.waiting == 0
        assert gw.in_flight.freed is None
        assert most == {"h1/s": 2, "h2/s": 1}
