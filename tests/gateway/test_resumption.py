"""Streams that are cut and go on at another service: over real sockets, and with a real llama.cpp."""

from __future__ import annotations

import asyncio
import json

import httpx
import msgspec
import openai
import pytest

from gateway.sse import data_of, split_events
from geniehive.resources import Asset, Operation
from tests.gateway.harness import gateway, role, service, until
from tests.gateway.misbehaving import (
    CLOSE,
    DONE,
    HANG,
    KEEP,
    LAST_CHUNK,
    RESET,
    STREAM_HEAD,
    answer,
    chunk,
    delta,
    event,
    stream,
    upstream,
)

CHAT = "/v1/chat/completions"
ASK = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "stream": True}
BOOM = {"error": {"message": "boom", "type": "server_error", "code": 500}}
FILTERED = {"error": {"message": "no", "type": "content_filter", "code": 400}}
QUICK = {"first_byte_timeout_s": 0.5, "idle_timeout_s": 0.3, "connect_timeout_s": 1}
BEGUN = (STREAM_HEAD, chunk(delta("", role="assistant")), chunk(delta("one ")), chunk(delta("two ")))
WHOLE = (*stream("one ", "two ", "three"), KEEP)
CUT = {
    "reset": (*BEGUN, RESET),
    "reset inside an event": (*BEGUN, chunk(b'data: {"cho'), RESET),
    "closed": (*BEGUN, CLOSE),
    "hang": (*BEGUN, HANG),
    "a clean end without a finish": (*BEGUN, LAST_CHUNK, KEEP),
    "an error event": (*BEGUN, chunk(event(BOOM)), chunk(DONE), LAST_CHUNK, KEEP),
    "an event of 11 MB": (*BEGUN, chunk(b"data: " + b"x" * (11 * 2**20)), HANG),
}
CUT_OFF = CUT["closed"]


async def ask(gw, path=CHAT, **more):
    async with httpx.AsyncClient(timeout=10) as http:
        return await http.post(gw.url + path, json={**ASK, **more})


def content(found):
    return "".join(each["choices"][0]["delta"].get("content") or "" for each in events(found) if each.get("choices"))


def events(found):
    return [
        json.loads(data) for each in split_events(found.content) if (data := data_of(each)) not in {None, b"[DONE]"}
    ]


def is_whole(found, text="one two three"):
    assert content(found) == text
    assert found.content.count(DONE) == 1
    assert found.content.endswith(DONE)
    assert found.content.count(b'"finish_reason":"stop"') == 1
    assert found.content.count(b'"role"') == 1
    assert len({(each["id"], each["created"], each["model"]) for each in events(found)}) == 1
    assert b"error" not in found.content
    return True


def is_broken(found, text="one two "):
    assert content(found) == text
    assert found.content.split(b"\n\n")[-2].startswith(b'data: {"error":{"message":')
    assert b"[DONE]" not in found.content
    return True


async def receipt(gw, found):
    async with httpx.AsyncClient() as http:
        return (await http.get(f"{gw.url}/v1/cluster/requests/{found.headers['x-request-id']}")).json()


@pytest.mark.parametrize("script", CUT.values(), ids=CUT)
async def test_a_cut_stream_goes_on_at_another_service_that_says_the_same(script):
    async with upstream(script) as bad, upstream(WHOLE) as good, gateway(bad.url, good.url, **QUICK) as gw:
        found = await ask(gw)
        assert is_whole(found)
        assert b"\n\n: geniehive resumed on h2/s (repeat)\n\ndata: " in found.content
        assert good.seen[0].json == bad.seen[0].json
        assert gw.in_flight.counts == {}


@pytest.mark.parametrize("protocol", ["llamacpp", "vllm"])
async def test_an_engine_that_can_goes_on_with_the_answer_as_it_is(protocol):
    rest = (STREAM_HEAD, chunk(delta("", role="assistant")), chunk(delta(" three")), *stream(" four")[2:], KEEP)
    async with upstream(CUT_OFF) as bad, upstream(rest) as good:
        services = (service(1, bad.url), service(2, good.url, protocol=protocol))
        async with gateway(*services) as gw:
            found = await ask(gw, max_tokens=9, temperature=1.5)
    assert is_whole(found, "one two three four")
    assert b": geniehive resumed on h2/s (prefill)\n\n" in found.content
    asked = good.seen[0].json
    assert asked["messages"] == [*ASK["messages"], {"role": "assistant", "content": "one two"}]
    assert asked["max_tokens"] == 7


async def test_an_engine_that_refuses_to_go_on_is_asked_for_all_of_it():
    refusal = answer(400, {"error": {"message": "Assistant response prefill is incompatible with enable_thinking."}})
    async with (
        upstream(CUT_OFF) as bad,
        upstream((refusal, KEEP), WHOLE) as good,
        gateway(service(1, bad.url), service(2, good.url, protocol="llamacpp")) as gw,
    ):
        found = await ask(gw)
        assert is_whole(found)
        told = await receipt(gw, found)
    assert [each["resumed"] for each in told["attempts"]] == [None, "prefill", "repeat"]
    assert good.seen[1].json["messages"] == ASK["messages"]


async def test_a_plain_completion_goes_on_behind_its_prompt():
    def text(piece, finish=None):
        choice = {"index": 0, "text": piece, "finish_reason": finish}
        return chunk(event({"id": "t", "created": 1, "model": "e", "choices": [choice]}))

    first = (STREAM_HEAD, text("one "), RESET)
    second = (STREAM_HEAD, text("two"), text("", "stop"), chunk(DONE), LAST_CHUNK, KEEP)
    async with (
        upstream(first) as bad,
        upstream(second) as good,
        gateway(service(1, bad.url), service(2, good.url, protocol="vllm")) as gw,
    ):
        found = await ask(gw, "/v1/completions", prompt="Count: ", messages=None)
    assert good.seen[0].json["prompt"] == "Count: one "
    assert [each["choices"][0]["text"] for each in events(found)] == ["one ", "two", ""]
    assert found.content.endswith(DONE)


async def test_an_answer_that_differs_is_left_alone_and_the_next_service_is_asked():
    other = (*stream("one ", "TWO ", "three"), KEEP)
    async with (
        upstream(CUT_OFF) as bad,
        upstream(other) as differs,
        upstream(WHOLE) as good,
        gateway(bad.url, differs.url, good.url) as gw,
    ):
        found = await ask(gw)
        assert is_whole(found)
        assert b"resumed on h3/s" in found.content
        told = await receipt(gw, found)
    assert [each["outcome"] for each in told["attempts"]] == ["cut", "failed", "ok"]
    assert "differs" in told["attempts"][1]["error"]
    assert told["outcome"] == "ok"
    assert told["stream_cut"] is False


NOBODY = {
    "everybody differs": (*stream("something else"), KEEP),
    "everybody is shorter": (*stream("one "), KEEP),
    "everybody is shorter, as is seen late": (STREAM_HEAD, chunk(delta("one ")), 0.1, *stream()[2:], KEEP),
    "everybody fails": (answer(500, BOOM), KEEP),
    "everybody refuses": (answer(400, BOOM), KEEP),
    "nobody streams": (answer(200, {"choices": []}), KEEP),
    "everybody is silent": (HANG,),
}


@pytest.mark.parametrize("script", NOBODY.values(), ids=NOBODY)
async def test_where_nobody_goes_on_the_stream_ends_in_the_error_of_its_cut(script):
    async with upstream(CUT_OFF) as bad, upstream(script) as worse, gateway(bad.url, worse.url, **QUICK) as gw:
        found = await ask(gw)
        assert is_broken(found)
        assert b"broke its answer off" in found.content
        assert gw.in_flight.counts == {}
        told = await receipt(gw, found)
        assert (told["outcome"], told["stream_cut"], told["attempts"][0]["outcome"]) == ("cut", True, "cut")
        assert "broke its answer off" in told["error"]


async def test_a_stream_that_is_cut_twice_goes_on_twice():
    again = (*stream("one ", "two ", "three ", finish=None, done=False, end=None), RESET)
    last = (*stream("one ", "two ", "three ", "four"), KEEP)
    async with (
        upstream(CUT_OFF) as one,
        upstream(again) as two,
        upstream(last) as three,
        gateway(one.url, two.url, three.url) as gw,
    ):
        found = await ask(gw)
        assert is_whole(found, "one two three four")
        assert found.content.count(b": geniehive resumed on") == 2
        told = await receipt(gw, found)
    assert [each["outcome"] for each in told["attempts"]] == ["cut", "cut", "ok"]


async def test_at_most_so_many_attempts_go_on_with_one_stream():
    other = (*stream("no"), KEEP)
    async with (
        upstream(CUT_OFF) as bad,
        upstream(other) as a,
        upstream(other) as b,
        upstream(WHOLE) as good,
        gateway(bad.url, a.url, b.url, good.url, max_resumptions=2) as gw,
    ):
        assert is_broken(await ask(gw))
        assert good.seen == []


OFF = {
    "by the role": (True, {}),
    "by its bytes": (False, {"max_resume_bytes": 0}),
    "by its number": (False, {"max_resumptions": 0}),
}


@pytest.mark.parametrize(("no_resume", "limits"), OFF.values(), ids=OFF)
async def test_it_can_be_switched_off(no_resume, limits):
    async with (
        upstream(CUT_OFF) as bad,
        upstream(WHOLE) as good,
        gateway(bad.url, good.url, roles=(role("r", no_resume=no_resume),), **limits) as gw,
    ):
        assert is_broken(await ask(gw, model="r"))
        assert good.seen == []


async def test_more_text_than_is_kept_is_not_gone_on_with():
    async with upstream(CUT_OFF) as bad, upstream(WHOLE) as good, gateway(bad.url, good.url, max_resume_bytes=7) as gw:
        assert is_broken(await ask(gw))
        assert good.seen == []


async def test_another_model_never_goes_on():
    async with upstream(CUT_OFF) as bad, upstream(WHOLE) as good:
        other = msgspec.structs.replace(service(2, good.url), assets=(Asset(asset_id="other", loaded=True),))
        async with gateway(service(1, bad.url), other, roles=(role("r", assets=("m", "other")),)) as gw:
            assert is_broken(await ask(gw, model="r"))
        assert good.seen == []


async def test_of_several_services_only_one_of_the_same_model_goes_on():
    async with upstream(CUT_OFF) as bad, upstream(WHOLE) as other, upstream(WHOLE) as good:
        another = msgspec.structs.replace(service(2, other.url), assets=(Asset(asset_id="other", loaded=True),))
        services = (service(1, bad.url), another, service(3, good.url))
        async with gateway(*services, roles=(role("r"),)) as gw:
            assert is_whole(await ask(gw, model="r"))
        assert len(bad.seen) == len(good.seen) == 1
        assert other.seen == []


async def test_an_answer_beyond_all_bounds_is_not_asked_for_again():
    endless = (*BEGUN, 0.1, *[chunk(delta("x" * 100))] * 50, HANG)
    async with (
        upstream(endless) as bad,
        upstream(WHOLE) as good,
        gateway(bad.url, good.url, max_answer_bytes=4000) as gw,
    ):
        found = await ask(gw)
        assert found.content.split(b"\n\n")[-2].startswith(b'data: {"error":')
        assert b"max_answer_bytes" in found.content
        assert good.seen == []


async def test_a_last_event_without_its_empty_line_must_agree_as_well():
    other = (STREAM_HEAD, chunk(delta("one ")), chunk(delta("TWO").rstrip()), 0.1, LAST_CHUNK, KEEP)
    async with upstream(CUT_OFF) as bad, upstream(other) as differs, gateway(bad.url, differs.url) as gw:
        assert is_broken(await ask(gw))
        assert gw.in_flight.counts == {}


async def test_the_time_to_the_first_byte_stays_that_of_the_first_engine():
    slow = (0.4, *stream("one ", "two ", "three"), KEEP)
    async with upstream(CUT_OFF) as bad, upstream(slow) as good, gateway(bad.url, good.url) as gw:
        told = await receipt(gw, await ask(gw))
    assert told["timings"]["first_byte_ms"] < 400 < told["timings"]["total_ms"]


async def test_an_error_that_is_the_requests_own_is_not_tried_elsewhere():
    script = (*BEGUN, chunk(event(FILTERED)), LAST_CHUNK, KEEP)
    async with upstream(script) as bad, upstream(WHOLE) as good, gateway(bad.url, good.url) as gw:
        found = await ask(gw)
        assert is_broken(found)
        assert b'"no"' in found.content
        assert good.seen == []


async def test_usage_is_of_the_whole_answer():
    def usage(asked, said):
        told = {"prompt_tokens": asked, "completion_tokens": said, "total_tokens": asked + said}
        return chunk(event({"id": "u", "choices": [], "usage": told}))

    rest = (STREAM_HEAD, chunk(delta(" three")), chunk(delta(finish="stop")), usage(12, 1), chunk(DONE), LAST_CHUNK)
    async with (
        upstream(CUT_OFF) as bad,
        upstream((*rest, KEEP)) as good,
        gateway(service(1, bad.url), service(2, good.url, protocol="vllm")) as gw,
    ):
        found = await ask(gw, stream_options={"include_usage": True})
    assert is_whole(found)
    assert events(found)[-1]["usage"] == {"prompt_tokens": 10, "completion_tokens": 3, "total_tokens": 13}


async def test_a_client_waits_with_comments_until_the_new_engine_has_caught_up():
    slow = (STREAM_HEAD, chunk(delta("one ")), 0.4, chunk(delta("two ")), *stream("three")[2:], KEEP)
    async with (
        upstream(CUT_OFF) as bad,
        upstream(slow) as good,
        gateway(bad.url, good.url, keepalive_comment_s=0.1) as gw,
    ):
        found = await ask(gw)
    assert is_whole(found)
    assert found.content.index(b": keepalive\n\n") < found.content.index(b": geniehive resumed")


async def test_the_openai_sdk_reads_a_stream_that_was_cut_as_one():
    async with (
        upstream(CUT_OFF) as bad,
        upstream(WHOLE) as good,
        gateway(bad.url, good.url) as gw,
        openai.AsyncOpenAI(base_url=gw.url + "/v1", api_key="k", max_retries=0) as ai,
    ):
        chunks = [each async for each in await ai.chat.completions.create(**ASK)]
    assert "".join(each.choices[0].delta.content or "" for each in chunks) == "one two three"
    assert chunks[-1].choices[0].finish_reason == "stop"


async def test_a_tool_call_that_comes_again_goes_on():
    def call(number, arguments, **first):
        function = {"arguments": arguments, **({"name": "weather"} if first else {})}
        made = {"index": 0, "function": function, **first}
        choice = {"index": 0, "delta": {"tool_calls": [made]}, "finish_reason": None}
        return chunk(event({"id": f"c{number}", "created": 1, "model": "e", "choices": [choice]}))

    end = (chunk(delta(finish="tool_calls")), chunk(DONE), LAST_CHUNK, KEEP)
    first = (STREAM_HEAD, call(1, "", id="call-1", type="function"), call(1, '{"city":'), RESET)
    second = (STREAM_HEAD, call(2, "", id="call-2", type="function"), call(2, '{"city":"Rome"}'), *end)
    async with upstream(first) as bad, upstream(second) as good, gateway(bad.url, good.url) as gw:
        found = await ask(gw, tools=[{"type": "function", "function": {"name": "weather"}}])
    calls = [each["choices"][0]["delta"].get("tool_calls", [{}])[0] for each in events(found)]
    assert "".join(each.get("function", {}).get("arguments", "") for each in calls) == '{"city":"Rome"}'
    assert [each["id"] for each in calls if "id" in each] == ["call-1"]
    assert found.content.endswith(DONE)


async def test_it_is_counted_and_on_record():
    async with upstream(CUT_OFF) as bad, upstream(WHOLE) as good, gateway(bad.url, good.url) as gw:
        found = await ask(gw)
        told = await receipt(gw, found)
        async with httpx.AsyncClient() as http:
            metrics = (await http.get(gw.url + "/metrics")).text
    assert 'geniehive_gateway_resumptions_total{how="repeat",outcome="ok"} 1.0' in metrics
    assert 'geniehive_gateway_attempts_total{outcome="cut",service="h1/s"} 1.0' in metrics
    assert [(each["outcome"], each["resumed"]) for each in told["attempts"]] == [("cut", None), ("ok", "repeat")]
    assert "broke its answer off" in told["attempts"][0]["error"]
    assert (told["outcome"], told["service_id"], told["error"]) == ("ok", "h2/s", None)


async def test_a_client_that_leaves_meanwhile_frees_the_engine_that_goes_on():
    silent = (STREAM_HEAD, chunk(delta("one ")), HANG)
    async with upstream(CUT_OFF) as bad, upstream(silent) as good, gateway(bad.url, good.url) as gw:
        leaving = asyncio.ensure_future(ask(gw))
        await good.arrived.wait()
        leaving.cancel()
        async with asyncio.timeout(20):
            await good.gone.wait()
        await until(lambda: gw.in_flight.counts == {} and gw.front.open_requests == 0)


async def test_a_gateway_that_shuts_down_does_not_go_on():
    async with upstream((*BEGUN, HANG)) as bad, upstream(WHOLE) as good, gateway(bad.url, good.url) as gw:
        running = asyncio.ensure_future(ask(gw))
        await bad.arrived.wait()
        await gw.front.drain(0.2)
        assert is_broken(await running)
        assert good.seen == []


def engine(llama_server, number, url=None, protocol="llamacpp"):
    made = service(
        number, url or llama_server.base_url, protocol=protocol, operations=(Operation.CHAT, Operation.COMPLETION)
    )
    return msgspec.structs.replace(made, assets=(Asset(asset_id=llama_server.model, aliases=("m",), loaded=True),))


async def begun_by(llama_server, events_of_it):
    """The real engine's own beginning of an answer, for an upstream that breaks off behind it."""
    async with httpx.AsyncClient(timeout=60) as http:
        body = {**ASK, "model": llama_server.model, "max_tokens": 20, "temperature": 0}
        found = await http.post(llama_server.base_url + CHAT, json=body)
    return content(found), (STREAM_HEAD, *(chunk(each) for each in split_events(found.content)[:events_of_it]), RESET)


async def test_a_real_engine_says_the_rest_again_token_for_token(llama_server):
    whole, script = await begun_by(llama_server, 8)
    async with upstream(script) as bad:
        services = engine(llama_server, 1, bad.url), engine(llama_server, 2, protocol="openai")
        async with gateway(*services) as gw:
            found = await ask(gw, max_tokens=20, temperature=0)
    assert b"(repeat)" in found.content
    assert content(found) == whole
    assert found.content.endswith(DONE)


async def test_a_real_engine_goes_on_from_the_beginning_that_it_is_given(llama_server):
    whole, script = await begun_by(llama_server, 8)
    async with upstream(script) as bad, gateway(engine(llama_server, 1, bad.url), engine(llama_server, 2)) as gw:
        found = await ask(gw, max_tokens=20, temperature=0, stream_options={"include_usage": True})
    begun = "".join(
        each["choices"][0]["delta"].get("content") or ""
        for each in map(json.loads, (data_of(each.split(b"\r\n", 1)[1][:-2]) for each in script[1:-1]))
    )
    assert b"(prefill)" in found.content
    assert content(found).startswith(begun)
    assert len(content(found)) > len(begun)
    assert events(found)[-1]["usage"]["completion_tokens"] == 20
    assert found.content.endswith(DONE)
    assert whole.startswith(begun)


def request_of(*, last):
    """A request for a stream as bytes; after the last its connection is closed."""
    body, kept = json.dumps(ASK).encode(), b"close" if last else b"keep-alive"
    head = b"POST %b HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\nconnection: %b\r\n"
    return head % (CHAT.encode(), kept) + b"content-length: %d\r\n\r\n%b" % (len(body), body)


REFUSED_LATER = {
    "before it has caught up": (STREAM_HEAD, chunk(delta("one ")), chunk(event(FILTERED)), LAST_CHUNK, KEEP),
    "when it has gone on": (
        *stream("one ", "two ", "x", finish=None, done=False, end=None),
        chunk(event(FILTERED)),
        KEEP,
    ),
}


@pytest.mark.parametrize("script", REFUSED_LATER.values(), ids=REFUSED_LATER)
async def test_a_stream_that_another_engine_ends_with_the_requests_own_error_ends_once(script):
    async with (
        upstream(CUT_OFF) as bad,
        upstream(script) as refuses,
        upstream(WHOLE) as good,
        gateway(bad.url, refuses.url, good.url) as gw,
    ):
        reader, writer = await asyncio.open_connection("127.0.0.1", gw.port)
        writer.write(request_of(last=False))
        async with asyncio.timeout(20):
            first = await reader.readuntil(b"\r\n0\r\n\r\n")
        await until(lambda: gw.front.open_requests == 0)
        writer.write(request_of(last=True))
        async with asyncio.timeout(20):
            second = await reader.read()
        writer.close()
    assert first.count(b'"no"') == 1
    assert b"[DONE]" not in first
    assert second.startswith(b"HTTP/1.1 200 ")
