"""Streams that an engine wrote in the dialect itself: cut behind each of their events, and gone on with as a chat."""

from __future__ import annotations

import json
import os
import signal

import anthropic
import httpx
import msgspec
import ollama
import openai
import pytest

from geniehive.resources import Asset
from nodeagent.embedded.options import EngineOptions
from tests.agents.scripted import ROUTES
from tests.engine_fixture import running_engine
from tests.gateway.harness import gateway, role, service
from tests.gateway.misbehaving import CLOSE, KEEP, RESET, STREAM_HEAD, chunk, delta, stream, upstream
from tests.gateway.test_resume_dialects import (
    ASK,
    BEGUN,
    CALLED,
    HI,
    ROLE,
    TOOLS,
    WHOLE,
    ask,
    call,
    finished,
    is_broken,
    is_one_stream,
    receipt,
    spoken,
    told,
    unbroken,
)
from tests.gateway.translate import reading

DIALECTS = ("/v1/messages", "/v1/responses")
THINKING = {"thinking": {"type": "enabled", "budget_tokens": 1024}}
THOUGHT = (*ROLE, spoken({"reasoning_content": "so "}), spoken({"reasoning_content": "so"}), *WHOLE[2:])
TWO = [call("", name="weather", call_id=f"call-{n}", index=n) for n in (0, 1)]
ARGUED = [call(f'{{"city":"{n}"}}', index=n) for n in (0, 1)]
CALLS = (*BEGUN, TWO[0], ARGUED[0], TWO[1], ARGUED[1], *finished("tool_calls"))
ANSWERS = {"text": WHOLE, "thoughts and text": THOUGHT, "a call": CALLED, "text and two calls": CALLS}


def native(number, url, **more):
    return msgspec.structs.replace(service(number, url, **more), routes=ROUTES)


def more_of(path, name):
    more = {"tools": TOOLS[path]} if "call" in name else {}
    return more | (THINKING if "thoughts" in name and path == "/v1/messages" else {})


def written(events, end=RESET):
    """An engine's own stream of these events."""
    blocks = (f"event: {each['type']}\ndata: {json.dumps(each)}\n\n".encode() for each in events)
    return (STREAM_HEAD, *map(chunk, blocks), end)


@pytest.mark.parametrize("name", ANSWERS)
@pytest.mark.parametrize("path", DIALECTS)
async def test_wherever_it_is_cut_it_goes_on_as_one_or_ends_in_an_error(path, name):
    script, more = ANSWERS[name], more_of(path, name)
    whole = await unbroken(path, script, **more)
    events = told(path, whole)
    went_on = 0
    for count in range(3, len(events)):
        async with (
            upstream(written(events[:count])) as bad,
            upstream(script) as good,
            gateway(native(1, bad.url), native(2, good.url)) as gw,
        ):
            found = await ask(gw, path, **more)
            assert gw.in_flight.counts == {}
        assert [each.path for each in bad.seen] == [path]
        if found.content.count(b": geniehive resumed on h2/s (repeat)"):
            went_on += 1
            assert good.seen[0].path == "/v1/chat/completions"
            assert is_one_stream(path, found.content, whole)
            assert told(path, found.content)[:count] == events[:count]
        elif events[count - 1]["type"] == "message_delta":  # it has told its end already
            assert told(path, found.content)[:count] == events[:count]
            assert told(path, found.content)[-1]["type"] == "error"
        else:
            assert is_broken(path, found.content)
            assert told(path, found.content)[:count] == events[:count]
    assert went_on > len(events) / 3


@pytest.mark.parametrize("path", DIALECTS)
async def test_an_engine_that_can_is_given_the_answer_so_far_and_the_client_goes_on_in_its_dialect(path):
    first = (*BEGUN[:-1], chunk(delta("two")), chunk(delta(" three")))
    whole = await unbroken(path, (*first, *finished()))
    events = told(path, whole)
    spoke = next(at for at, each in enumerate(events) if "three" in json.dumps(each))
    rest = (*ROLE, chunk(delta(" three")), *finished(asked=9, said=1))
    async with (
        upstream(written(events[:spoke])) as bad,
        upstream(rest) as good,
        gateway(native(1, bad.url), native(2, good.url, protocol="llamacpp")) as gw,
    ):
        found = await ask(gw, path)
        story = await receipt(gw, found)
    assert is_one_stream(path, found.content, whole)
    assert good.seen[0].json["messages"] == [*HI, {"role": "assistant", "content": "one two"}]
    assert [(each["outcome"], each["resumed"]) for each in story["attempts"]] == [("cut", None), ("ok", "prefill")]


@pytest.mark.parametrize("path", DIALECTS)
@pytest.mark.parametrize("native_first", [True, False])
async def test_of_engines_with_and_without_the_route_either_goes_on_with_the_other(path, native_first):
    whole = await unbroken(path, WHOLE)
    shown = told(path, whole)
    spoke = next(at for at, each in enumerate(shown) if "three" in json.dumps(each))
    own, plain = native(1 + (not native_first), "x"), service(1 + native_first, "x")
    first = written(shown[:spoke]) if native_first else (*BEGUN, RESET)
    async with upstream(first) as bad, upstream(WHOLE) as good:
        urls = (bad.url, good.url) if native_first else (good.url, bad.url)
        made = [msgspec.structs.replace(each, endpoint=url) for each, url in zip((own, plain), urls, strict=True)]
        async with gateway(*sorted(made, key=lambda each: each.service_id)) as gw:
            found = await ask(gw, path)
    assert is_one_stream(path, found.content, whole)
    assert bad.seen[0].path == (path if native_first else "/v1/chat/completions")
    assert good.seen[0].path == "/v1/chat/completions"


def odd_events(path, whole):
    """Streams with an event that translations do not know, by what it is."""
    events = told(path, whole)
    if path == "/v1/messages":
        odd = {"type": "content_block_start", "index": 0, "content_block": {"type": "redacted_thinking", "data": "x"}}
        return [[events[0], odd], [*events[:3], {"type": "something_new"}], [*events[:2], {**events[2], "index": [0]}]]
    item = {"type": "web_search_call", "id": "ws_1", "status": "in_progress"}
    odd = {"type": "response.output_item.added", "sequence_number": 2, "output_index": 0, "item": item}
    searched = {"type": "response.web_search_call.searching", "sequence_number": 3, "item_id": "ws_1"}
    return [[*events[:2], odd, searched], [*events[:5], {"type": "response.new", "sequence_number": 5}]]


@pytest.mark.parametrize("path", DIALECTS)
async def test_nobody_goes_on_behind_what_translations_do_not_know(path):
    for odd in odd_events(path, await unbroken(path, WHOLE)):
        script = (STREAM_HEAD, *map(chunk, blocks_of(odd)), CLOSE)
        async with (
            upstream(script) as bad,
            upstream(WHOLE) as good,
            gateway(native(1, bad.url), native(2, good.url)) as gw,
        ):
            found = await ask(gw, path)
        assert found.content.startswith(b"".join(blocks_of(odd)))
        assert b"\nevent: error\n" in found.content
        assert good.seen == []


def blocks_of(events):
    return [b"data: " + json.dumps(each).encode() + b"\n\n" for each in events]


UNTRANSLATED = {
    "/v1/messages": {"tools": [{"type": "web_search_20250305", "name": "web_search"}]},
    "/v1/responses": {"input": [{"type": "item_reference", "id": "msg_1"}]},
}


@pytest.mark.parametrize("path", DIALECTS)
async def test_a_request_that_no_chat_can_ask_ends_in_the_error_of_its_dialect(path):
    events = told(path, await unbroken(path, WHOLE))
    async with (
        upstream(written(events[:5])) as bad,
        upstream(WHOLE) as good,
        gateway(native(1, bad.url), native(2, good.url)) as gw,
    ):
        found = await ask(gw, path, **UNTRANSLATED[path])
    assert is_broken(path, found.content)
    assert b"broke its answer off" in found.content
    assert good.seen == []


@pytest.mark.parametrize("path", DIALECTS)
@pytest.mark.parametrize("alone", [True, False], ids=["alone", "the role says no"])
async def test_where_nobody_may_go_on_it_ends_in_the_error_of_its_dialect(path, alone):
    events = told(path, await unbroken(path, WHOLE))
    async with upstream(written(events[:5])) as bad, upstream(WHOLE) as good:
        services = (native(1, bad.url),) if alone else (native(1, bad.url), native(2, good.url))
        async with gateway(*services, roles=(role("r", no_resume=True),)) as gw:
            found = await ask(gw, path, model="r", **({"store": False} if path == "/v1/responses" else {}))
        assert good.seen == []
    assert is_broken(path, found.content)
    assert told(path, found.content)[:5] == events[:5]


@pytest.mark.parametrize("path", DIALECTS)
async def test_an_answer_that_differs_never_passes(path):
    events = told(path, await unbroken(path, WHOLE))
    async with (
        upstream(written(events[:5])) as bad,
        upstream((*stream("something else"), KEEP)) as good,
        gateway(native(1, bad.url), native(2, good.url)) as gw,
    ):
        found = await ask(gw, path)
    assert is_broken(path, found.content)
    assert b"something" not in found.content


@pytest.mark.parametrize("path", DIALECTS)
async def test_more_than_is_kept_is_not_gone_on_with(path):
    events = told(path, await unbroken(path, WHOLE))
    async with (
        upstream(written(events[:5])) as bad,
        upstream(WHOLE) as good,
        gateway(native(1, bad.url), native(2, good.url), max_resume_bytes=3) as gw,
    ):
        assert is_broken(path, (await ask(gw, path)).content)
    assert good.seen == []


async def test_a_long_stream_is_read_in_parts_and_goes_on():
    path, words = "/v1/messages", [chunk(delta(f"word {n} ")) for n in range(2000)]
    script = (*ROLE, *words, *finished())
    whole = await unbroken(path, script)
    events = told(path, whole)
    async with (
        upstream(written(events[:1900])) as bad,
        upstream(script) as good,
        gateway(native(1, bad.url), native(2, good.url)) as gw,
    ):
        assert is_one_stream(path, (await ask(gw, path)).content, whole)


async def test_a_long_response_passes_whole_whose_tools_only_its_engine_has():
    """More of it than is kept unread: reading it must not harm it."""
    path, script = "/v1/responses", (*ROLE, *(chunk(delta(f"word {n} ")) for n in range(2000)), *finished())
    whole = await unbroken(path, script)
    async with (
        upstream(written(told(path, whole), CLOSE)) as engine,
        upstream(WHOLE) as other,
        gateway(native(1, engine.url), native(2, other.url)) as gw,
    ):
        found = await ask(gw, path, tools=[{"type": "file_search", "vector_store_ids": ["v"]}])
    assert told(path, found.content) == told(path, whole)


LIMITS = {"/v1/messages": {"max_tokens": 900}, "/v1/responses": {"max_output_tokens": 900}}


def text_of(path, events):
    return "".join(
        each["delta"] if isinstance(each["delta"], str) else each["delta"].get("text", "")
        for each in events
        if each["type"] in {"content_block_delta", "response.output_text.delta"}
    )


@pytest.mark.parametrize("path", DIALECTS)
@pytest.mark.parametrize("protocol", ["llamacpp", "openai"])
async def test_a_real_engine_that_is_killed_in_the_middle_is_followed_by_another(
    path, protocol, llama_server, tmp_path
):
    body = {**ASK[path], "model": llama_server.model, "temperature": 0, **LIMITS[path]}
    with running_engine(EngineOptions(cache_dir=tmp_path)) as victim:
        services = [real(victim, 1, protocol), real(llama_server, 2, protocol)]
        async with gateway(*services) as gw, httpx.AsyncClient(timeout=30) as http:
            whole = (await http.post(llama_server.base_url + path, json=body)).content
            async with http.stream("POST", gw.url + path, json=body) as got:
                assert got.headers["x-geniehive-service"] == "h1/s"
                pieces, killed = [], False
                async for piece in got.aiter_bytes():
                    pieces.append(piece)
                    if not killed and b"".join(pieces).count(b"delta") > 40:
                        os.kill(victim.pid, signal.SIGKILL)
                        killed = True
            story = await receipt(gw, got)
    found = reading.events(b"".join(pieces))
    how = "prefill" if protocol == "llamacpp" else "repeat"
    assert [(each["outcome"], each["resumed"]) for each in story["attempts"]] == [("cut", None), ("ok", how)]
    assert found[-1]["type"] in {"message_stop", "response.incomplete"}
    assert len([each for each in found if each["type"] == found[0]["type"]]) == 1
    usage = found[-2]["usage"] if path == "/v1/messages" else found[-1]["response"]["usage"]
    assert usage["output_tokens"] == 900
    said, expected = text_of(path, found), text_of(path, reading.events(whole))
    if how == "repeat":
        assert said == expected
    else:
        assert len(said.split()) > 800
        assert said[:40] == expected[:40]


def real(server, number, protocol):
    made = native(number, server.base_url, protocol=protocol)
    return msgspec.structs.replace(made, assets=(Asset(asset_id=server.model, loaded=True),))


@pytest.mark.parametrize("own", [True, False], ids=["native", "translated"])
async def test_the_clients_own_libraries_read_a_stream_that_was_cut_as_one(own):
    for path in ASK:
        shown = told(path, await unbroken(path, WHOLE))
        by_itself = own and path in DIALECTS
        spoke = next((at for at, each in enumerate(shown) if "three" in json.dumps(each)), 0)
        script = written(shown[:spoke]) if by_itself else (*BEGUN, RESET)
        made = native if by_itself else service
        async with (
            upstream(script) as bad,
            upstream(WHOLE) as good,
            gateway(made(1, bad.url), made(2, good.url)) as gw,
        ):
            assert await READERS[path](gw.url) == ("one two three", 3)


async def read_messages(url):
    async with (
        anthropic.AsyncAnthropic(base_url=url, api_key="k", max_retries=0) as client,
        client.messages.stream(model="m", max_tokens=9, messages=HI) as got,
    ):
        final = await got.get_final_message()
    assert final.stop_reason == "end_turn"
    return final.content[0].text, final.usage.output_tokens


async def read_responses(url):
    async with (
        openai.AsyncOpenAI(base_url=url + "/v1", api_key="k", max_retries=0) as client,
        client.responses.stream(model="m", input="hi") as got,
    ):
        final = await got.get_final_response()
    assert final.status == "completed"
    return final.output_text, final.usage.output_tokens


def ollamas_own(url):
    unkept = httpx.Limits(max_keepalive_connections=0)  # nobody closes this client, so it keeps no connection open
    return ollama.AsyncClient(url, trust_env=False, limits=unkept)


async def read_chat(url):
    parts = [each async for each in await ollamas_own(url).chat("m", HI, stream=True)]
    return "".join(each.message.content for each in parts), parts[-1].eval_count


async def read_generate(url):
    parts = [each async for each in await ollamas_own(url).generate("m", "hi", stream=True)]
    return "".join(each.response for each in parts), parts[-1].eval_count


READERS = {
    "/v1/messages": read_messages,
    "/v1/responses": read_responses,
    "/api/chat": read_chat,
    "/api/generate": read_generate,
}
