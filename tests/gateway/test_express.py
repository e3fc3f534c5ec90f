"""Streams whose events pass in the lane, over real sockets: what must hold although nobody looks at them."""

from __future__ import annotations

import asyncio
import json

import httpx
import pytest

from gateway.express import around_text
from tests.gateway.harness import gateway, raw, until
from tests.gateway.lane_spy import lanes
from tests.gateway.misbehaving import (
    CLOSE,
    DONE,
    HANG,
    KEEP,
    LAST_CHUNK,
    RESET,
    STREAM_HEAD,
    chunk,
    completion,
    delta,
    event,
    stream,
    upstream,
)
from tests.tools import require_lane

CHAT = "/v1/chat/completions"
ASK = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "stream": True}
PAUSE_S = 0.002  # between events, so that each is a read of its own
MOST = 12  # of the events of a stream of twenty; a machine that is slow brings some together


@pytest.fixture(autouse=True)
def _built():
    require_lane()


def paced(chunks, pause=PAUSE_S):
    """Steps of a script: each chunk, and a pause behind it."""
    return [step for each in chunks for step in (each, pause)]


def alike(texts):
    """An event for each text that differs from the others in nothing else."""
    return [chunk(delta(text)) for text in texts]


TEXTS = [f" t{number}" for number in range(20)]
BEGUN = (STREAM_HEAD, chunk(delta("", role="assistant")), *paced(alike(TEXTS)))
END = (chunk(delta(finish="stop")), chunk(DONE), LAST_CHUNK, KEEP)


def request(version="1.1", **body):
    content = json.dumps({**ASK, **body}).encode()
    head = f"POST {CHAT} HTTP/{version}\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {len(content)}"
    return head.encode() + b"\r\n\r\n" + content


def texts_of(content):
    """The texts of a stream's events, in order."""
    events = [json.loads(each[6:]) for each in content.split(b"\n\n") if each.startswith(b'data: {"id"')]
    return [text for each in events if (text := each["choices"][0]["delta"].get("content"))]


async def ask(gw, **more):
    async with httpx.AsyncClient(timeout=20) as http:
        return await http.post(gw.url + CHAT, json={**ASK, **more})


async def test_a_usual_stream_passes_in_the_lane_byte_for_byte():
    async with upstream((*BEGUN, *END)) as up, gateway(up.url) as gw:
        with lanes() as spies:
            found = await ask(gw)
        wanted = [delta("", role="assistant"), *map(delta, TEXTS), delta(finish="stop"), DONE]
        assert found.content == b"".join(wanted)
        (spy,) = spies
        assert spy.events >= MOST
        assert spy.bytes >= MOST * len(delta(TEXTS[0]))


async def test_a_client_of_http_1_0_has_no_lane_since_it_takes_no_chunks():
    async with upstream((*BEGUN, *END)) as up, gateway(up.url) as gw:
        with lanes() as spies:
            _, _, body = (await raw(gw.port, request("1.0"))).partition(b"\r\n\r\n")
        assert texts_of(body) == TEXTS
        assert [spy.joins for spy in spies] == [0]


async def test_a_client_that_does_not_read_stops_the_engine_and_nothing_is_lost_or_reordered():
    texts = [f"{number} ".ljust(50_000, "x") for number in range(300)]
    async with upstream((STREAM_HEAD, *paced(alike(texts)), *END)) as up, gateway(up.url) as gw:
        with lanes() as spies:
            reader, writer = await asyncio.open_connection("127.0.0.1", gw.port, limit=4096)
            writer.write(request())
            await reader.readuntil(b"\r\n\r\n")
            await until(lambda: spies[0].pauses)
            relay = next(iter(gw.front._open))
            assert relay.request.connection.writing_paused
            assert not spies[0].connection._reading
            passed = spies[0].bytes
            await asyncio.sleep(0.1)  # whatever else would come then
            assert spies[0].bytes == passed
            assert relay.request.transport.get_write_buffer_size() < 4_000_000
            got = bytearray()
            async with asyncio.timeout(60):
                while not got.endswith(b"\r\n0\r\n\r\n"):
                    got += await reader.read(2**20)
            writer.close()
    assert texts_of(dechunked(bytes(got))) == texts


def dechunked(data):
    pieces, at = [], 0
    while True:
        line = data.index(b"\r\n", at)
        size = int(data[at:line], 16)
        if not size:
            return b"".join(pieces)
        pieces.append(data[line + 2 : line + 2 + size])
        at = line + 2 + size + 2


async def test_the_next_stream_of_a_connection_never_reaches_the_client_of_the_one_before():
    other = [text.replace("t", "u") for text in TEXTS]
    second = (STREAM_HEAD, *paced(alike(other)), *END)
    async with upstream((*BEGUN, *END), second, (completion("last"), KEEP)) as up, gateway(up.url) as gw:
        with lanes() as spies:
            reader, writer = await asyncio.open_connection("127.0.0.1", gw.port)
            writer.write(request())
            found = await reader.readuntil(b"\r\n0\r\n\r\n")
            assert texts_of(dechunked(found.partition(b"\r\n\r\n")[2])) == TEXTS
            (spy,) = spies
            await until(lambda: gw.front.open_requests == 0)
            assert not spy.ready  # a connection that waits leads nowhere, and holds no client
            before = spy.events
            assert texts_of((await ask(gw)).content) == other
            assert (up.connections, len(spies), spy.joins >= 2) == (1, 1, True)
            assert min(before, spy.events - before) >= MOST
            writer.write(request(stream=False))
            assert (await reader.readuntil(b"\r\n")).startswith(b"HTTP/1.1 200")
            writer.close()


@pytest.mark.parametrize("cut", [RESET, CLOSE, HANG], ids=lambda step: step.value)
async def test_a_stream_that_is_cut_behind_the_lane_ends_in_an_error_event(cut):
    async with upstream((*BEGUN, cut)) as up, gateway(up.url, idle_timeout_s=0.5) as gw:
        with lanes() as spies:
            found = await ask(gw)
        assert spies[0].events >= MOST
        assert texts_of(found.content) == TEXTS
        assert found.content.split(b"\n\n")[-2].startswith(b'data: {"error":{"message":')
        assert (b"sent nothing for 0.5 s" in found.content) is (cut is HANG)
        assert b"[DONE]" not in found.content


async def test_a_stream_that_is_cut_behind_the_lane_goes_on_elsewhere_with_all_of_its_text():
    whole = (*stream(*TEXTS, " and more"), KEEP)
    async with upstream((*BEGUN, RESET)) as bad, upstream(whole) as good, gateway(bad.url, good.url) as gw:
        with lanes() as spies:
            found = await ask(gw)
        assert spies[0].events >= MOST
        assert "".join(texts_of(found.content)) == "".join(TEXTS) + " and more"
        assert b": geniehive resumed on h2/s (repeat)\n\n" in found.content
        assert found.content.endswith(DONE)


async def test_events_in_the_lane_are_a_sign_of_life():
    texts = [f" t{number}" for number in range(40)]
    script = (STREAM_HEAD, *paced(alike(texts), 0.04), *END)
    async with upstream(script) as up, gateway(up.url, idle_timeout_s=1.0) as gw:
        with lanes() as spies:
            found = await ask(gw)
        assert texts_of(found.content) == texts
        assert found.content.endswith(DONE)
        assert spies[0].events >= 30


async def test_a_stream_without_end_comes_to_its_limit_in_the_lane():
    size, limit = len(delta("x" * 100)), 10_000
    script = (STREAM_HEAD, *paced(alike(["x" * 100] * 500)), HANG)
    async with upstream(script) as up, gateway(up.url, max_answer_bytes=limit) as gw:
        with lanes() as spies:
            found = await ask(gw)
        passed, _, last = found.content.removesuffix(b"\n\n").rpartition(b"\n\n")
        assert b"max_answer_bytes" in last
        assert spies[0].bytes > limit / 2
        assert limit - size < len(passed) + 2 <= limit


async def seen(**how):
    """What a receipt and the metrics tell of one stream; and how many of its events went by the lane."""
    usage = event({"id": "c1", "choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 20}})
    script = (*BEGUN, chunk(delta(finish="stop")), chunk(usage), chunk(DONE), LAST_CHUNK, KEEP)
    async with upstream(script) as up, gateway(up.url) as gw, httpx.AsyncClient() as http:
        with lanes(**how) as spies:
            found = await ask(gw, stream_options={"include_usage": True})
        await until(lambda: gw.front.open_requests == 0)
        told = (await http.get(f"{gw.url}/v1/cluster/requests/{found.headers['x-request-id']}")).json()
        lines = (await http.get(gw.url + "/metrics")).text.splitlines()
    names = ("answer_bytes", "prompt_tokens", "completion_tokens", "finish_reason", "outcome", "status")
    metrics = [line for line in lines if line.startswith("geniehive") and "_total{" in line]
    return {name: told[name] for name in names}, metrics, sum(spy.events for spy in spies)


async def test_receipts_and_metrics_tell_the_same_with_the_lane_and_without():
    receipt, metrics, taken = await seen()
    assert taken >= MOST
    assert (receipt["completion_tokens"], receipt["finish_reason"]) == (20, "stop")
    assert receipt["answer_bytes"] > sum(len(delta(text)) for text in TEXTS)
    assert metrics
    assert (receipt, metrics, 0) == await seen(used=False)


AROUND = {
    b'data: {"content":"a"}\n\n': (b'data: {"content":"', b'"}\n\n'),
    b'data: {"content": "a\\u00e9\\"b"}\n\n': (b'data: {"content": "', b'"}\n\n'),
    b'event: x\ndata: {"type":"x","text":"a b"}\n\n': (b'event: x\ndata: {"type":"x","text":"', b'"}\n\n'),
    b'data: {"content":"a"}\n\ndata: {"id":2,"content":"b"}\n\n': (b'data: {"id":2,"content":"', b'"}\n\n'),
    b'data: {"content":"","reasoning":"a"}\n\n': (b'data: {"content":"","reasoning":"', b'"}\n\n'),
    b'data: {"content":""}\n\n': None,
    b'data: {"content":null}\n\n': None,
    b'data: {"arguments":"\\"content\\":\\"a\\""}\n\n': None,
    b': "content":"a"\n\n': None,
    b'data: {"content":"a"}\r\n\r\ndata: {"content":"b"}\n\n': None,
}


@pytest.mark.parametrize(("piece", "around"), AROUND.items())
def test_the_text_of_the_last_event_is_found_with_what_is_around_it(piece, around):
    assert around_text(piece) == around
