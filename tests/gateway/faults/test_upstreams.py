"""What engines do wrong, beyond the table: docs/faults.md says which number is proven where."""

from __future__ import annotations

import asyncio
import json

import httpx
import pytest

from tests.gateway.harness import gateway
from tests.gateway.misbehaving import (
    CLOSE,
    DONE,
    KEEP,
    LAST_CHUNK,
    RESET,
    STREAM_HEAD,
    answer,
    chunk,
    completion,
    delta,
    event,
    stream,
    upstream,
)

CHAT = "/v1/chat/completions"
ASK = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
NOBODY = "http://engine.invalid"


async def ask(gw, **more):
    async with httpx.AsyncClient(timeout=10) as http:
        return await http.post(gw.url + CHAT, json={**ASK, **more})


async def receipt(gw, found):
    async with httpx.AsyncClient() as http:
        return (await http.get(f"{gw.url}/v1/cluster/requests/{found.headers['x-request-id']}")).json()


async def test_a_name_that_nobody_knows_is_502_alone_and_the_next_service_answers_beside_it():
    async with gateway(NOBODY) as gw:
        found = await ask(gw)
        assert found.status_code == 502
        assert "invalid" not in found.text
    async with upstream((completion("good"), KEEP)) as good, gateway(NOBODY, good.url) as gw:
        assert (await ask(gw)).json()["choices"][0]["message"]["content"] == "good"


def choice(index, text=None, finish=None):
    piece = {} if text is None else {"content": text}
    return chunk(event({"id": "c", "choices": [{"index": index, "delta": piece, "finish_reason": finish}]}))


@pytest.mark.parametrize("end", [RESET, CLOSE, LAST_CHUNK])
async def test_one_of_two_answers_that_is_cut_is_never_a_clean_end(end):
    script = (STREAM_HEAD, choice(0, "a"), choice(1, "b"), choice(0, finish="stop"), end, KEEP)
    async with upstream(script) as bad, gateway(bad.url) as gw:
        found = await ask(gw, stream=True, n=2)
        assert found.content.split(b"\n\n")[-2].startswith(b'data: {"error":')
        assert b"[DONE]" not in found.content


async def test_two_answers_that_both_finished_are_whole():
    script = (STREAM_HEAD, choice(0, "a"), choice(1, "b"), choice(1, finish="stop"), choice(0, finish="stop"), CLOSE)
    async with upstream(script) as up, gateway(up.url) as gw:
        found = await ask(gw, stream=True, n=2)
        assert found.content.endswith(DONE)
        assert b"error" not in found.content


async def test_who_answered_is_told_and_usage_is_of_that_attempt():
    async with (
        upstream((answer(500, {"error": "boom"}), KEEP)) as bad,
        upstream((completion("good", model="the-good-one"), KEEP)) as good,
        gateway(bad.url, good.url) as gw,
    ):
        found = await ask(gw)
        assert found.headers["x-geniehive-service"] == "h2/s"
        assert found.json()["model"] == "the-good-one"
        told = await receipt(gw, found)
        assert (told["service_id"], told["prompt_tokens"], told["completion_tokens"]) == ("h2/s", 3, 2)


async def test_characters_that_are_cut_between_two_pieces_arrive_whole():
    wanted = delta("日本語 🧞 é") + delta(finish="stop") + DONE
    pieces = [chunk(wanted[at : at + 1]) for at in range(len(wanted))]
    raw = json.dumps("日本語 🧞 é", ensure_ascii=False).encode()
    plain = wanted.replace(json.dumps("日本語 🧞 é").encode(), raw)
    halves = [chunk(plain[at : at + 1]) for at in range(len(plain))]
    assert plain != wanted
    for script, expected in ((pieces, wanted), (halves, plain)):
        async with upstream((STREAM_HEAD, *script, LAST_CHUNK, KEEP)) as up, gateway(up.url) as gw:
            assert (await ask(gw, stream=True)).content == expected


async def test_an_engine_that_comes_back_is_asked_again():
    async with upstream(*[(RESET,)] * 4, (*stream("go", "od"), KEEP)) as up, gateway(up.url) as gw:
        assert (await ask(gw, stream=True)).status_code == 502
        async with asyncio.timeout(20):
            while (await ask(gw, stream=True)).status_code != 200:
                await asyncio.sleep(0.02)
