"""Streams of agents and of Ollama's clients that are cut beneath their translation, and go on elsewhere."""

from __future__ import annotations

import json
import re

import httpx
import pytest

from tests.gateway.harness import gateway, role, service
from tests.gateway.misbehaving import (
    CLOSE,
    DONE,
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
from tests.gateway.translate.reading import events

SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}
HI = [{"role": "user", "content": "hi"}]
FUNCTION = {"name": "weather", "parameters": SCHEMA}
ASK = {
    "/v1/messages": {"model": "m", "max_tokens": 9, "messages": HI, "stream": True},
    "/v1/responses": {"model": "m", "input": "hi", "stream": True},
    "/api/chat": {"model": "m", "messages": HI},
    "/api/generate": {"model": "m", "prompt": "hi"},
}
TOOLS = {
    "/v1/messages": [{"name": "weather", "input_schema": SCHEMA}],
    "/v1/responses": [{"type": "function", **FUNCTION}],
    "/api/chat": [{"type": "function", "function": FUNCTION}],
}
NO_EVENTS = {"/api/chat", "/api/generate"}
every_dialect = pytest.mark.parametrize("path", ASK)
every_dialect_with_tools = pytest.mark.parametrize("path", TOOLS)
QUICK = {"first_byte_timeout_s": 0.5, "idle_timeout_s": 0.3, "connect_timeout_s": 1}

IDS = re.compile(r"(?:msg|resp|rs|fc|call|toolu)[_-][0-9a-z]+")
TIMES = {"created_at", "total_duration", "prompt_eval_duration", "eval_duration"}


def usage(asked, said):
    told = {"prompt_tokens": asked, "completion_tokens": said, "total_tokens": asked + said}
    return chunk(event({"id": "u", "choices": [], "usage": told}))


def call(arguments, *, name=None, call_id=None, index=0):
    made = {"index": index, "function": {"arguments": arguments, **({"name": name} if name else {})}}
    made |= {"id": call_id, "type": "function"} if call_id else {}
    return spoken({"tool_calls": [made]})


def spoken(said, finish=None):
    choice = {"index": 0, "delta": said, "finish_reason": finish}
    return chunk(event({"id": "c1", "created": 1, "model": "engine-name", "choices": [choice]}))


def finished(reason="stop", asked=7, said=3):
    return (chunk(delta(finish=reason)), usage(asked, said), chunk(DONE), LAST_CHUNK, KEEP)


ROLE = (STREAM_HEAD, chunk(delta("", role="assistant")))
BEGUN = (*ROLE, chunk(delta("one ")), chunk(delta("two ")))
WHOLE = (*BEGUN, chunk(delta("three")), *finished())
CALLED = (*ROLE, call("", name="weather", call_id="call-2"), call('{"city":'), call('"Rome"}'), *finished("tool_calls"))


async def ask(gw, path, **more):
    async with httpx.AsyncClient(timeout=10) as http:
        return await http.post(gw.url + path, json={**ASK[path], **more})


async def unbroken(path, script, **more):
    """What a client gets of one engine that is well."""
    async with upstream(script) as well, gateway(well.url) as gw:
        return (await ask(gw, path, **more)).content


def told(path, content):
    """The events of a stream, or its lines."""
    return list(map(json.loads, content.splitlines())) if path in NO_EVENTS else events(content)


def alike(path, content):
    """The events without what is another one each time: ids by their order, no times."""
    names = {}

    def known(found):
        return names.setdefault(found[0], f"id{len(names)}")

    def bare(value):
        if isinstance(value, dict):
            return {key: bare(each) for key, each in value.items() if key not in {*TIMES, "geniehive_resumed"}}
        return [bare(each) for each in value] if isinstance(value, list) else value

    return [bare(json.loads(IDS.sub(known, json.dumps(each)))) for each in told(path, content)]


def is_one_stream(path, content, whole):
    """Event by event the same as one that was never cut, with its numbers in order."""
    assert alike(path, content) == alike(path, whole)
    found = told(path, content)
    if path == "/v1/responses":
        assert [each["sequence_number"] for each in found] == list(range(len(found)))
    last = {"message_stop", "response.completed", "error"}
    ends = [each for each in found if each.get("done") or each.get("type") in last]
    assert ends == found[-1:]
    return True


def is_broken(path, content):
    """The error of the dialect, once, at the end, and nothing that looks like an end that is well."""
    found = told(path, content)
    ends = {"message_stop", "message_delta", "response.completed", "response.incomplete"}
    assert not [each for each in found if each.get("done") or each.get("type") in ends]
    assert len([each for each in found if each.get("type") == "error" or "error" in each]) == 1
    if path == "/v1/messages":
        assert found[-1]["error"]["message"]
    elif path == "/v1/responses":
        assert [each["type"] for each in found[-2:]] == ["response.failed", "error"]
        assert [each["sequence_number"] for each in found] == list(range(len(found)))
        assert len({each["response"]["id"] for each in found if "response" in each}) == 1
    else:
        assert isinstance(found[-1]["error"], str)
    return True


async def receipt(gw, found):
    async with httpx.AsyncClient() as http:
        return (await http.get(f"{gw.url}/v1/cluster/requests/{found.headers['x-request-id']}")).json()


@every_dialect
@pytest.mark.parametrize("end", [RESET, CLOSE])
async def test_a_stream_cut_in_its_text_goes_on_as_one(path, end):
    whole = await unbroken(path, WHOLE)
    async with upstream((*BEGUN, end)) as bad, upstream(WHOLE) as good, gateway(bad.url, good.url) as gw:
        found = await ask(gw, path)
        assert is_one_stream(path, found.content, whole)
        assert bad.seen[0].body == good.seen[0].body
        story = await receipt(gw, found)
        assert gw.in_flight.counts == {}
    assert [(each["outcome"], each["resumed"]) for each in story["attempts"]] == [("cut", None), ("ok", "repeat")]
    assert (story["outcome"], story["stream_cut"]) == ("ok", False)
    if path in NO_EVENTS:
        assert told(path, found.content)[-1]["geniehive_resumed"] == ["h2/s (repeat)"]
    else:
        assert found.content.count(b": geniehive resumed on h2/s (repeat)\n\n") == 1


@every_dialect
async def test_an_engine_that_can_goes_on_with_the_answer_as_it_is_and_usage_is_of_all_of_it(path):
    whole = await unbroken(path, (*BEGUN[:-1], chunk(delta("two")), chunk(delta(" three")), *finished()))
    rest = (*ROLE, chunk(delta(" three")), *finished(asked=9, said=1))
    first = (*BEGUN[:-1], chunk(delta("two")), RESET)
    async with (
        upstream(first) as bad,
        upstream(rest) as good,
        gateway(service(1, bad.url), service(2, good.url, protocol="llamacpp")) as gw,
    ):
        found = await ask(gw, path)
        assert is_one_stream(path, found.content, whole)
    assert good.seen[0].path == "/v1/chat/completions"
    assert good.seen[0].json["messages"] == [*HI, {"role": "assistant", "content": "one two"}]
    assert b"h2/s (prefill)" in found.content


@every_dialect
async def test_a_stream_that_is_cut_twice_goes_on_twice(path):
    whole = await unbroken(path, (*BEGUN, chunk(delta("three ")), chunk(delta("four")), *finished()))
    second, third = (*BEGUN, chunk(delta("three ")), CLOSE), (*BEGUN, chunk(delta("three ")), chunk(delta("four")))
    async with (
        upstream((*BEGUN, RESET)) as a,
        upstream(second) as b,
        upstream((*third, *finished())) as c,
        gateway(a.url, b.url, c.url) as gw,
    ):
        found = await ask(gw, path)
        assert is_one_stream(path, found.content, whole)
        story = await receipt(gw, found)
    assert [each["outcome"] for each in story["attempts"]] == ["cut", "cut", "ok"]


@every_dialect
async def test_a_stream_cut_before_its_first_content_is_asked_for_elsewhere_and_nobody_sees_it(path):
    whole = await unbroken(path, WHOLE)
    async with upstream((*ROLE, CLOSE)) as bad, upstream(WHOLE) as good, gateway(bad.url, good.url) as gw:
        found = await ask(gw, path)
    assert is_one_stream(path, found.content, whole)
    assert b"resumed" not in found.content
    assert found.headers["x-geniehive-attempts"] == "2"


@every_dialect
async def test_where_there_is_no_other_service_it_ends_in_the_error_of_its_dialect(path):
    async with upstream((*BEGUN, CLOSE)) as bad, gateway(bad.url) as gw:
        found = await ask(gw, path)
    assert is_broken(path, found.content)


WORSE = {
    "says something else": (*stream("something else"), KEEP),
    "says less": (*stream("one "), KEEP),
    "fails": (answer(500, {"error": {"message": "boom"}}), KEEP),
    "says what is no chat": (*BEGUN, chunk(b'data: {"choices":[{"index":"x"}]}\n\n'), CLOSE),
}


@every_dialect
@pytest.mark.parametrize("script", WORSE.values(), ids=WORSE)
async def test_where_the_other_service_cannot_go_on_it_ends_in_the_error_of_its_dialect(path, script):
    async with upstream((*BEGUN, CLOSE)) as bad, upstream(script) as worse, gateway(bad.url, worse.url) as gw:
        found = await ask(gw, path)
        assert gw.in_flight.counts == {}
        story = await receipt(gw, found)
    assert is_broken(path, found.content)
    assert (story["outcome"], story["stream_cut"]) == ("cut", True)


@every_dialect
async def test_a_role_can_say_no(path):
    async with (
        upstream((*BEGUN, CLOSE)) as bad,
        upstream(WHOLE) as good,
        gateway(bad.url, good.url, roles=(role("r", no_resume=True),)) as gw,
    ):
        assert is_broken(path, (await ask(gw, path, model="r")).content)
    assert good.seen == []


@every_dialect_with_tools
@pytest.mark.parametrize("at", [3, 4, 5], ids=["behind its name", "in its arguments", "behind its arguments"])
async def test_a_stream_cut_in_a_tool_call_goes_on_with_the_same_call(path, at):
    more = {"tools": TOOLS[path]}
    whole = await unbroken(path, CALLED, **more)
    first = (*ROLE, call("", name="weather", call_id="call-1"), call('{"city":'), call('"Rome"}'))
    async with (
        upstream((*first[:at], RESET)) as bad,
        upstream(CALLED) as good,
        gateway(service(1, bad.url), service(2, good.url, protocol="llamacpp")) as gw,
    ):
        found = await ask(gw, path, **more)
    assert is_one_stream(path, found.content, whole)
    assert b"call-1" in found.content
    assert b"call-2" not in found.content
    assert b"(repeat)" in found.content


@every_dialect_with_tools
async def test_a_tool_call_that_differs_is_never_put_together(path):
    other = (*ROLE, call("", name="weather", call_id="call-2"), call('{"town":"Rome"}'), *finished("tool_calls"))
    first = (*ROLE, call("", name="weather", call_id="call-1"), call('{"city":'), RESET)
    async with upstream(first) as bad, upstream(other) as good, gateway(bad.url, good.url) as gw:
        found = await ask(gw, path, tools=TOOLS[path])
    assert is_broken(path, found.content)
    assert b"town" not in found.content


@every_dialect_with_tools
async def test_text_and_then_two_calls_cut_in_the_second_go_on(path):
    def script(call_id):
        calls = [call("", name="weather", call_id=f"{call_id}{n}", index=n) for n in (0, 1)]
        rest = [call(f'{{"city":"{n}"}}', index=n) for n in (0, 1)]
        return (*BEGUN, calls[0], rest[0], calls[1], rest[1])

    whole = await unbroken(path, (*script("call-b"), *finished("tool_calls")), tools=TOOLS[path])
    async with (
        upstream((*script("call-a")[:-1], RESET)) as bad,
        upstream((*script("call-b"), *finished("tool_calls"))) as good,
        gateway(bad.url, good.url) as gw,
    ):
        found = await ask(gw, path, tools=TOOLS[path])
    assert is_one_stream(path, found.content, whole)


@pytest.mark.parametrize("thinking", [True, False], ids=["shown", "hidden"])
async def test_thoughts_must_agree_where_the_client_sees_them(thinking):
    path, more = "/v1/messages", {"thinking": {"type": "enabled", "budget_tokens": 1024}} if thinking else {}
    same, other = spoken({"reasoning_content": "well"}), spoken({"reasoning_content": "so"})
    first = (*ROLE, same, chunk(delta("one ")), CLOSE)
    again = (*ROLE, same if thinking else other, chunk(delta("one ")), chunk(delta("two")), *finished())
    whole = await unbroken(path, again, **more)
    async with upstream(first) as bad, upstream(again) as good, gateway(bad.url, good.url) as gw:
        assert is_one_stream(path, (await ask(gw, path, **more)).content, whole)
    differs = (*ROLE, other, chunk(delta("one ")), chunk(delta("two")), *finished())
    async with upstream(first) as bad, upstream(differs) as good, gateway(bad.url, good.url) as gw:
        found = await ask(gw, path, **more)
    assert is_broken(path, found.content) if thinking else is_one_stream(path, found.content, whole)


async def test_a_response_that_went_on_is_kept_whole_and_can_be_continued():
    async with upstream((*BEGUN, CLOSE), WHOLE) as bad, upstream(WHOLE) as good, gateway(bad.url, good.url) as gw:
        last = told("/v1/responses", (await ask(gw, "/v1/responses")).content)[-1]["response"]
        async with httpx.AsyncClient() as http:
            kept = (await http.get(f"{gw.url}/v1/responses/{last['id']}")).json()
    assert kept == last
    assert kept["output"][0]["content"][0]["text"] == "one two three"


async def test_an_agents_client_waits_with_comments_and_ollamas_with_nothing():
    slow = (*ROLE, chunk(delta("one ")), 0.4, chunk(delta("two ")), chunk(delta("three")), *finished())
    for path in ASK:
        whole = await unbroken(path, WHOLE)
        async with (
            upstream((*BEGUN, CLOSE)) as bad,
            upstream(slow) as good,
            gateway(bad.url, good.url, keepalive_comment_s=0.1) as gw,
        ):
            found = await ask(gw, path)
        assert is_one_stream(path, found.content, whole)
        assert (b": keepalive" in found.content) is (path not in NO_EVENTS)


async def test_ollamas_times_are_of_the_whole_answer_where_the_last_engine_tells_its_own():
    timings = {"prompt_n": 1, "prompt_ms": 1000000.0, "predicted_n": 1, "predicted_ms": 1000000.0}
    end = chunk(event({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}], "timings": timings}))
    good = (*BEGUN, chunk(delta("three")), end, chunk(DONE), LAST_CHUNK, KEEP)
    async with upstream((*BEGUN, CLOSE)) as a, upstream(good) as b, gateway(a.url, b.url) as gw:
        last = told("/api/chat", (await ask(gw, "/api/chat")).content)[-1]
    assert last["eval_duration"] <= last["total_duration"] < 60e9


async def test_a_plain_completion_of_ollamas_goes_on_behind_its_prompt():
    def text(piece, finish=None):
        return chunk(event({"id": "t", "choices": [{"index": 0, "text": piece, "finish_reason": finish}]}))

    second = (STREAM_HEAD, text("two"), text("", "stop"), chunk(DONE), LAST_CHUNK, KEEP)
    async with (
        upstream((STREAM_HEAD, text("one "), RESET)) as bad,
        upstream(second) as good,
        gateway(service(1, bad.url), service(2, good.url, protocol="vllm")) as gw,
    ):
        found = told("/api/generate", (await ask(gw, "/api/generate", raw=True)).content)
    assert good.seen[0].json["prompt"] == "hione "
    assert "".join(each["response"] for each in found) == "one two"
    assert found[-1]["done_reason"] == "stop"


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/responses"])
async def test_what_the_client_was_never_told_is_no_ground_to_go_on(path):
    """A chunk that cannot be translated may have had text: the client has not, so nobody is asked for the rest."""
    odd = chunk(event({"choices": [{"index": 0, "delta": {"content": "two "}, "finish_reason": {"no": "text"}}]}))
    async with (
        upstream((*ROLE, chunk(delta("one ")), 0.1, odd, CLOSE)) as bad,
        upstream(WHOLE) as good,
        gateway(bad.url, good.url) as gw,
    ):
        found = await ask(gw, path)
    assert is_broken(path, found.content)
    assert good.seen == []
