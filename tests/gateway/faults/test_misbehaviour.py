"""Each misbehaviour of the table, alone and beside a service that is well: the answer, and what is left behind."""

from __future__ import annotations

import asyncio
import json

import httpx
import psutil
import pytest

from gateway.sse import data_of, split_events
from tests.gateway.harness import gateway, until
from tests.gateway.misbehaving import DONE, KEEP, completion, stream, upstream
from tests.gateway.misbehaviour import ANSWERS, CUT, GOOD, STREAMS, WELL

CHAT = "/v1/chat/completions"
ASK = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
QUICK = {"first_byte_timeout_s": 0.25, "idle_timeout_s": 0.25}
SHAPE = {"message", "type", "param", "code"}
CASES = [
    *(pytest.param(case, False, id=f"plain, {name}") for name, case in ANSWERS.items()),
    *(pytest.param(case, True, id=f"stream, {name}") for name, case in STREAMS.items()),
]


def said(found, streamed):
    """The text of an answer that is whole."""
    if not streamed:
        answer = found.json()
        return answer["choices"][0]["message"]["content"] if "choices" in answer else GOOD
    content = found.content.replace(b"\r\n", b"\n")
    assert content.endswith(DONE)
    assert content.count(b"[DONE]") == 1
    datas = [data_of(each) for each in split_events(content)]
    events = [json.loads(data) for data in datas if data not in {None, b"[DONE]"}]
    assert not any("error" in each for each in events)
    return "".join(each["choices"][0]["delta"].get("content") or "" for each in events)


def open_files():
    return psutil.Process().num_fds()


async def ask(http, gw, streamed):
    return await http.post(gw.url + CHAT, json={**ASK, "stream": streamed})


async def goes_on(http, gw, streamed):
    """The next request is answered, and nothing of the first is left."""
    await until(lambda: gw.front.open_requests == 0)
    assert gw.in_flight.counts == {}
    found = await ask(http, gw, streamed)
    assert (found.status_code, said(found, streamed)) == (200, GOOD)
    await until(lambda: gw.front.open_requests == 0 and gw.in_flight.counts == {})


def well(streamed):
    return (*(stream("go", "od") if streamed else (completion(GOOD),)), KEEP)


@pytest.mark.parametrize(("case", "streamed"), CASES)
async def test_alone_it_is_an_error_that_says_so_and_the_next_request_succeeds(case, streamed):
    async with (
        upstream(case.script) as up,
        gateway(up.url, **(QUICK if case.waits else {})) as gw,
        httpx.AsyncClient(timeout=10) as http,
    ):
        found = await ask(http, gw, streamed)
        if case.alone == WELL:
            assert (found.status_code, said(found, streamed)) == (200, GOOD)
        elif case.alone == CUT:
            assert found.status_code == 200
            assert b"[DONE]" not in found.content
            *_, last, after = found.content.split(b"\n\n")
            assert after == b""
            assert json.loads(last.removeprefix(b"data: "))["error"].keys() == SHAPE
            assert found.content.count(b'data: {"error":') == 1
            assert len(up.seen) == 1
        else:
            assert found.status_code == case.alone
            assert found.json()["error"].keys() == SHAPE
        assert b"127.0.0.1" not in found.content
        up.scripts = [well(streamed)]
        if case.rests:
            found = await ask(http, gw, streamed)
            assert found.status_code == 503
            assert 1 <= float(found.headers["retry-after"]) <= 60
        else:
            await goes_on(http, gw, streamed)


@pytest.mark.parametrize(("case", "streamed"), CASES)
async def test_beside_a_service_that_is_well_the_client_gets_its_answer(case, streamed):
    async with (
        upstream(case.script) as bad,
        upstream(well(streamed)) as good,
        gateway(bad.url, good.url, **(QUICK if case.waits else {})) as gw,
        httpx.AsyncClient(timeout=10) as http,
    ):
        found = await ask(http, gw, streamed)
        assert len(bad.seen) == 1
        if case.passed:
            assert found.status_code == case.alone
            assert good.seen == []
        elif case.final:
            assert b"[DONE]" not in found.content
            assert good.seen == []
        else:
            assert (found.status_code, said(found, streamed)) == (200, GOOD)
            assert len(good.seen) == (case.alone != WELL)
        await until(lambda: gw.front.open_requests == 0 and gw.in_flight.counts == {})


async def test_after_all_of_it_no_task_socket_or_place_is_left():
    scripts = [case.script for case in (*ANSWERS.values(), *STREAMS.values())]
    half = len(ANSWERS)
    async with upstream((KEEP,)) as up, gateway(up.url, **QUICK) as gw, httpx.AsyncClient(timeout=10) as http:
        up.scripts = [well(False)]
        await ask(http, gw, False)
        tasks, files = len(asyncio.all_tasks()), open_files()
        for at, script in enumerate(scripts):
            up.scripts = [script]
            await ask(http, gw, at >= half)
        await until(lambda: gw.front.open_requests == 0 and gw.in_flight.counts == {})
        await until(lambda: len(asyncio.all_tasks()) <= tasks + 2)
        await until(lambda: open_files() <= files + 2)
