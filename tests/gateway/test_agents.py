"""The routes of agents through the gateway: native and translated, broken streams, errors in each dialect's words."""

from __future__ import annotations

import json
from hashlib import sha256

import httpx
import msgspec
import pytest

from geniehive.resources import AccessKey, Asset, Operation, PromptPolicy, RequestPolicy, Role, RoutingPolicy
from tests.agents.scripted import ROUTES, SAID, message_events, response_events, scripted_engine
from tests.gateway.harness import gateway, role, service
from tests.gateway.misbehaving import (
    CLOSE,
    HANG,
    KEEP,
    LAST_CHUNK,
    STREAM_HEAD,
    answer,
    chunk,
    completion,
    stream,
    upstream,
)
from tests.gateway.translate.reading import events

MESSAGES, RESPONSES, COUNT = "/v1/messages", "/v1/responses", "/v1/messages/count_tokens"
ANTHROPIC = {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]}
OPENAI = {"model": "m", "input": "hi"}
BODY = {MESSAGES: ANTHROPIC, RESPONSES: OPENAI}
QUICK = {"first_byte_timeout_s": 0.3, "idle_timeout_s": 0.3, "connect_timeout_s": 1}
NATIVE = {
    MESSAGES: message_events("m", [({"type": "text", "text": ""}, [{"type": "text_delta", "text": "hi"}])], "end_turn"),
    RESPONSES: response_events({"type": "message", "id": "i", "role": "assistant", "content": []}),
}


def native(url, number=1, **more):
    return msgspec.structs.replace(service(number, url), routes=ROUTES, **more)


def typed(event):
    return chunk(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode())


async def post(gw, path, body, **headers):
    async with httpx.AsyncClient(timeout=10) as http:
        return await http.post(gw.url + path, json=body, headers=headers)


async def test_an_engine_with_the_route_gets_the_request_byte_for_byte_but_for_the_models_name():
    raw = (
        b'{ "model" : "nick", "max_tokens":9,"messages":[{"role":"user","content":"h\\u00e4"}],"unknown":null,"x":[] }'
    )
    async with (
        upstream((answer(200, {"type": "message", "content": []}), KEEP)) as engine,
        gateway(native(engine.url)) as gw,
        httpx.AsyncClient() as http,
    ):
        await http.post(
            gw.url + MESSAGES + "?beta=true",
            content=raw,
            headers={"content-type": "application/json", "anthropic-beta": "a,b", "x-api-key": "mine"},
        )
    (seen,) = engine.seen
    assert seen.path == MESSAGES
    assert seen.body == raw.replace(b'"nick"', b'"m"')
    assert (seen.headers["anthropic-beta"], seen.headers["anthropic-version"]) == ("a,b", "2023-06-01")
    assert "x-api-key" not in seen.headers


@pytest.mark.parametrize("path", [MESSAGES, RESPONSES])
async def test_a_native_stream_passes_byte_for_byte_and_tells_receipts_what_it_cost(path):
    blocks = b"".join(f"event: {e['type']}\ndata: {json.dumps(e)}\n\n".encode() for e in NATIVE[path])
    async with scripted_engine(native=True) as engine, gateway(native(engine.url)) as gw:
        got = await post(gw, path, {**BODY[path], "stream": True})
        receipt = (await post_get(gw, f"/v1/cluster/requests/{got.headers['x-request-id']}")).json()
    assert got.headers["content-type"] == "text/event-stream"
    assert [each["type"] for each in events(got.content)][-1] == events(blocks)[-1]["type"]
    assert SAID in "".join(each.get("delta", {}).get("text", "") for each in events(got.content)) or path == RESPONSES
    assert (receipt["outcome"], receipt["completion_tokens"], receipt["prompt_tokens"]) == ("ok", 9, 100)
    assert receipt["operation"] == "chat"


async def post_get(gw, path, **headers):
    async with httpx.AsyncClient(timeout=10) as http:
        return await http.get(gw.url + path, headers=headers)


@pytest.mark.parametrize("path", [MESSAGES, RESPONSES])
@pytest.mark.parametrize("streamed", [True, False])
async def test_an_engine_with_chat_completions_alone_answers_in_translation(path, streamed):
    script = (*stream("Hello", " you"), KEEP) if streamed else (completion("Hello you"), KEEP)
    async with upstream(script) as engine, gateway(engine.url) as gw:
        got = await post(gw, path, {**BODY[path], "stream": streamed})
    assert got.status_code == 200
    assert engine.seen[0].path == "/v1/chat/completions"
    assert engine.seen[0].json["messages"] == [{"role": "user", "content": "hi"}]
    if streamed:
        assert "[DONE]" not in got.text
        assert events(got.content)[-1]["type"] in {"message_stop", "response.completed"}
    else:
        assert "Hello you" in got.text


@pytest.mark.parametrize("path", [MESSAGES, RESPONSES])
@pytest.mark.parametrize("own", [True, False], ids=["native", "translated"])
@pytest.mark.parametrize("break_", [CLOSE, HANG], ids=["closed", "silent"])
async def test_a_stream_that_breaks_ends_in_the_dialects_error_and_never_cleanly(path, own, break_):
    script = (STREAM_HEAD, *map(typed, NATIVE[path][:3]), break_) if own else (*stream("Hello")[:3], break_)
    async with upstream(script) as engine, gateway(native(engine.url) if own else engine.url, **QUICK) as gw:
        got = await post(gw, path, {**BODY[path], "stream": True})
    assert got.status_code == 200
    found = events(got.content)
    assert not {"message_stop", "response.completed", "response.incomplete"} & {each["type"] for each in found}
    assert found[-1]["type"] == "error"
    if path == MESSAGES:
        assert found[-1]["error"]["type"] in {"api_error", "timeout_error"}
        assert found[-1]["error"]["message"]
    else:
        assert found[-2]["type"] == "response.failed"
        assert found[-2]["response"]["error"]["code"] in {"upstream_unavailable", "upstream_timeout"}


@pytest.mark.parametrize("path", [MESSAGES, RESPONSES])
async def test_a_stream_that_only_opened_is_asked_for_elsewhere(path):
    opened = (STREAM_HEAD, typed(NATIVE[path][0]), CLOSE)
    async with (
        upstream(opened) as bad,
        scripted_engine(native=True) as good,
        gateway(native(bad.url), native(good.url, 2)) as gw,
    ):
        got = await post(gw, path, {**BODY[path], "stream": True})
    assert got.headers["x-geniehive-attempts"] == "2"
    assert events(got.content)[-1]["type"] in {"message_stop", "response.completed"}


@pytest.mark.parametrize("path", [MESSAGES, RESPONSES])
async def test_a_second_engine_may_take_over_in_the_other_way(path):
    async with (
        upstream((answer(500), KEEP)) as bad,
        scripted_engine(native=False) as good,
        gateway(native(bad.url), service(2, good.url)) as gw,
    ):
        got = await post(gw, path, {**BODY[path], "stream": True})
    assert bad.seen[0].path == path
    assert good.asked[0][0] == "/v1/chat/completions"
    assert events(got.content)[-1]["type"] in {"message_stop", "response.completed"}


SERVER_TOOL = {"tools": [{"type": "web_search_20250305", "name": "web_search"}]}


async def test_an_anthropic_server_tool_is_refused_by_name_where_no_engine_has_the_route():
    async with upstream((completion("x"), KEEP)) as engine, gateway(engine.url) as gw:
        got = await post(gw, MESSAGES, {**ANTHROPIC, **SERVER_TOOL})
    assert got.status_code == 400
    assert got.json()["error"]["type"] == "invalid_request_error"
    assert "tools.0" in got.json()["error"]["message"]
    assert "web_search_20250305" in got.json()["error"]["message"]
    assert engine.seen == []


async def test_what_cannot_be_translated_goes_to_engines_with_the_route_alone():
    async with (
        upstream((completion("x"), KEEP)) as chat_only,
        scripted_engine(native=True) as own,
        gateway(service(1, chat_only.url), native(own.url, 2)) as gw,
    ):
        for _ in range(3):
            got = await post(gw, MESSAGES, {**ANTHROPIC, **SERVER_TOOL, "stream": True})
            assert got.status_code == 200
    assert chat_only.seen == []


@pytest.mark.parametrize(("path", "more"), [(MESSAGES, SERVER_TOOL), (COUNT, {})])
async def test_where_the_engines_with_the_route_fail_those_without_are_not_asked(path, more):
    fallback = role("f", assets=("chat-only",))
    roles = (role("r", assets=("m",), fallback_roles=("f",)), fallback)
    async with upstream((answer(502, {}), KEEP)) as own, upstream((completion("x"), KEEP)) as chat_only:
        services = native(own.url), service(2, chat_only.url, asset="chat-only")
        async with gateway(*services, roles=roles) as gw:
            got = await post(gw, path, {**ANTHROPIC, **more, "model": "r"})
    assert got.status_code == 502
    assert chat_only.seen == []


async def test_engines_with_the_route_are_found_behind_many_without():
    async with upstream((completion("x"), KEEP)) as chat_only, scripted_engine(native=True) as own:
        many = [service(number, chat_only.url) for number in range(1, 12)]
        async with gateway(*many, native(own.url, 99)) as gw:
            for _ in range(12):
                got = await post(gw, MESSAGES, {**ANTHROPIC, **SERVER_TOOL, "stream": True})
                assert got.status_code == 200
    assert chat_only.seen == []


async def test_count_tokens_asks_an_engine_that_counts_or_says_that_it_estimates():
    async with (
        scripted_engine(native=True) as engine,
        gateway(service(1, engine.url), native(engine.url, 2)) as gw,
    ):
        got = await post(gw, COUNT, ANTHROPIC)
        assert got.json() == {"input_tokens": 4711}
        assert "x-geniehive-estimated" not in got.headers
        async with gateway(engine.url) as other:
            short = await post(other, COUNT, ANTHROPIC)
            long = await post(other, COUNT, {**ANTHROPIC, "system": "word " * 400})
    assert short.headers["x-geniehive-estimated"] == "true"
    assert short.json()["input_tokens"] > 0
    assert long.json()["input_tokens"] - short.json()["input_tokens"] == pytest.approx(500, rel=0.1)


async def test_a_response_goes_on_from_another_and_can_be_looked_up_and_forgotten():
    async with upstream((completion("first"), KEEP), (completion("second"), KEEP)) as engine, gateway(engine.url) as gw:
        first = (await post(gw, RESPONSES, OPENAI)).json()
        ask = {**OPENAI, "input": "go on", "previous_response_id": first["id"]}
        second = (await post(gw, RESPONSES, ask)).json()
        assert (await post_get(gw, f"{RESPONSES}/{first['id']}")).json() == first
        async with httpx.AsyncClient() as http:
            assert (await http.delete(f"{gw.url}{RESPONSES}/{first['id']}")).json()["deleted"] is True
        assert (await post_get(gw, f"{RESPONSES}/{first['id']}")).status_code == 404
        gone = await post(gw, RESPONSES, ask)
    assert engine.seen[1].json["messages"] == [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "first"},
        {"role": "user", "content": "go on"},
    ]
    assert second["previous_response_id"] == first["id"]
    assert gone.status_code == 400
    assert gone.json()["error"]["code"] == "previous_response_not_found"
    assert gone.json()["error"]["param"] == "previous_response_id"


async def test_a_native_stream_is_kept_as_well_and_the_engine_gets_the_whole_conversation():
    async with scripted_engine(native=True) as engine, gateway(native(engine.url)) as gw:
        await post(gw, RESPONSES, {**OPENAI, "stream": True})
        await post(gw, RESPONSES, {**OPENAI, "stream": True, "previous_response_id": "resp_1"})
    (_, _), (_, body) = engine.asked
    assert "previous_response_id" not in body
    assert [item["type"] for item in body["input"]] == ["message", "message", "message"]
    assert body["input"][1]["content"][0]["text"] == SAID


async def test_what_is_not_to_be_stored_is_not_and_other_keys_do_not_see_what_is():
    async with upstream((completion("x"), KEEP)) as engine, gateway(engine.url, keys=("one", "two")) as gw:
        kept = (await post(gw, RESPONSES, OPENAI, authorization="Bearer one")).json()
        forgot = (await post(gw, RESPONSES, {**OPENAI, "store": False}, authorization="Bearer one")).json()
        for name, key, status in ((kept, "one", 200), (kept, "two", 404), (forgot, "one", 404)):
            got = await post_get(gw, f"{RESPONSES}/{name['id']}", authorization=f"Bearer {key}")
            assert got.status_code == status
        ask = {**OPENAI, "previous_response_id": kept["id"]}
        assert (await post(gw, RESPONSES, ask, authorization="Bearer two")).status_code == 400
        assert (await post(gw, RESPONSES, ask, authorization="Bearer one")).status_code == 200


async def test_a_new_token_of_an_old_name_does_not_see_what_the_old_one_kept():
    def token(secret):
        return AccessKey(name="ana", secret_sha256=sha256(secret.encode()).digest(), scopes=("inference",))

    async with upstream((completion("x"), KEEP)) as engine, gateway(engine.url) as gw:
        shape = gw.view.table.shape
        gw.view.replace(msgspec.structs.replace(shape, access_keys={"ana": token("old")}))
        kept = (await post(gw, RESPONSES, OPENAI, authorization="Bearer old")).json()["id"]
        gw.view.replace(msgspec.structs.replace(shape, revision=2, access_keys={"ana": token("old")}))
        assert (await post_get(gw, f"{RESPONSES}/{kept}", authorization="Bearer old")).status_code == 200
        gw.view.replace(msgspec.structs.replace(shape, revision=3, access_keys={"ana": token("new")}))
        assert (await post_get(gw, f"{RESPONSES}/{kept}", authorization="Bearer new")).status_code == 404


ROLE = Role(
    role_id="r",
    operation=Operation.CHAT,
    prompt_policy=PromptPolicy(
        system_prompt="Policy.",
        user_template="Q: {input}",
        request_policy=RequestPolicy(body_overrides={"max_completion_tokens": 3, "temperature": 0}),
    ),
    routing_policy=RoutingPolicy(steady_prefix=True),
)


@pytest.mark.parametrize("path", [MESSAGES, RESPONSES])
async def test_a_roles_policy_applies_in_the_dialects_own_words(path):
    head, turns, limit = {
        MESSAGES: ("system", "messages", "max_tokens"),
        RESPONSES: ("instructions", "input", "max_output_tokens"),
    }[path]
    async with scripted_engine(native=True) as engine, gateway(native(engine.url), roles=[ROLE]) as gw:
        await post(gw, path, {**BODY[path], "model": "r", "stream": True, head: "Client."})
    body = engine.asked[0][1]
    assert body["model"] == "m"
    assert (body[head], body[limit], body["temperature"]) == ("Policy.\n\nClient.", 3, 0)
    assert body[turns] in ("Q: hi", [{"role": "user", "content": "Q: hi"}])


@pytest.mark.parametrize("own", [True, False], ids=["native", "translated"])
async def test_a_role_keeps_claude_codes_prompt_steady_and_the_receipt_tells_what_that_saved(own):
    def ask(mark):
        billing = {"type": "text", "text": f"x-anthropic-billing-header: cc_version=2.1; cch={mark};"}
        system = [billing, {"type": "text", "text": "You are an agent. " * 50}]
        tools = [{"name": name, "input_schema": {"type": "object"}} for name in mark[:2]]
        return {**ANTHROPIC, "model": "r", "stream": True, "system": system, "tools": tools}

    role = msgspec.structs.replace(ROLE, prompt_policy=PromptPolicy())
    async with (
        scripted_engine(native=own) as engine,
        gateway(native(engine.url) if own else engine.url, roles=[role]) as gw,
    ):
        await post(gw, MESSAGES, ask("abc"))
        got = await post(gw, MESSAGES, ask("bax"))
        receipt = (await post_get(gw, f"/v1/cluster/requests/{got.headers['x-request-id']}")).json()
    assert engine.asked[0] == engine.asked[1]
    assert "billing" not in json.dumps(engine.asked[0])
    assert receipt["steadied"] == ["order of tools", "billing line"]
    assert receipt["kept_prefix_bytes"] > 900


CLAUDE = {"anthropic-version": "2023-06-01"}
ANTHROPICS = {
    "no key": (401, "authentication_error", {}),
    "unknown model": (404, "not_found_error", {"model": "nobody"}),
    "too large": (413, "request_too_large", {"messages": [{"role": "user", "content": "x" * 9000}]}),
    "not JSON": (400, "invalid_request_error", None),
}


@pytest.mark.parametrize("case", ANTHROPICS)
@pytest.mark.parametrize("path", [MESSAGES, COUNT])
async def test_errors_on_anthropics_routes_have_its_shape(case, path):
    status, kind, more = ANTHROPICS[case]
    headers = {"content-type": "application/json", **({} if case == "no key" else {"x-api-key": "k"})}
    content = b"{" if more is None else json.dumps({**ANTHROPIC, **more}).encode()
    async with (
        upstream((completion("x"), KEEP)) as engine,
        gateway(engine.url, keys=("k",), max_body_bytes=8000) as gw,
        httpx.AsyncClient() as http,
    ):
        got = await http.post(gw.url + path, content=content, headers=headers)
    assert got.status_code == status
    assert got.json()["type"] == "error"
    assert got.json()["error"]["type"] == kind
    assert got.json()["error"].keys() == {"type", "message"}
    assert got.json()["request_id"] == got.headers["x-request-id"]


async def test_an_engines_own_refusal_comes_in_the_clients_shape():
    refusal = answer(400, {"error": {"message": "context too long", "type": "exceed_context_size_error", "code": 400}})
    async with upstream((refusal, KEEP)) as engine, gateway(native(engine.url)) as gw:
        one = await post(gw, MESSAGES, ANTHROPIC)
        two = await post(gw, RESPONSES, OPENAI)
    assert one.json()["error"] == {"type": "invalid_request_error", "message": "context too long"}
    assert two.json()["error"]["message"] == "context too long"
    assert one.headers["x-should-retry"] == "false"


async def test_clients_of_anthropic_get_errors_and_models_in_its_shape_on_every_route():
    async with upstream((completion("x"), KEEP)) as engine, gateway(engine.url, roles=[ROLE]) as gw:
        missing = await post_get(gw, "/v1/nowhere", **CLAUDE)
        all_ = (await post_get(gw, "/v1/models?limit=1", **CLAUDE)).json()
        rest = (await post_get(gw, "/v1/models?after_id=m", **CLAUDE)).json()
        one = (await post_get(gw, "/v1/models/m", **CLAUDE)).json()
        openais = (await post_get(gw, "/v1/models")).json()
        wrong = await post_get(gw, "/v1/models?limit=0", **CLAUDE)
    assert missing.json()["error"]["type"] == "not_found_error"
    assert [model["id"] for model in all_["data"]] == ["m"]
    assert (all_["has_more"], all_["first_id"], all_["last_id"]) == (True, "m", "m")
    assert [model["id"] for model in rest["data"]] == ["r"]
    assert rest["has_more"] is False
    assert one == {"type": "model", "id": "m", "display_name": "m", "created_at": "1970-01-01T00:00:00Z"}
    assert openais["object"] == "list"
    assert wrong.status_code == 400


async def test_head_of_the_root_answers():
    async with gateway() as gw, httpx.AsyncClient() as http:
        got = await http.head(gw.url + "/")
    assert (got.status_code, got.content) == (200, b"")


async def test_a_translated_stream_starts_with_the_engines_first_words_and_not_later():
    async with (
        upstream((*stream("first")[:3], HANG)) as engine,
        gateway(engine.url) as gw,
        httpx.AsyncClient(timeout=5) as http,
        http.stream("POST", gw.url + MESSAGES, json={**ANTHROPIC, "stream": True}) as got,
    ):
        text = ""
        async for piece in got.aiter_text():
            text += piece
            if "first" in text:
                break
    assert "content_block_delta" in text


async def test_a_role_keeps_the_prompts_of_chat_completions_steady_too():
    role = msgspec.structs.replace(ROLE, prompt_policy=PromptPolicy())
    async with upstream((completion("x"), KEEP)) as engine, gateway(engine.url, roles=[role]) as gw:
        for clock in ("08:12:44", "08:13:02"):
            system = {"role": "system", "content": f"Current time: 2026-11-23 {clock}\nBe brief."}
            got = await post(gw, "/v1/chat/completions", {"model": "r", "messages": [system, *ANTHROPIC["messages"]]})
        receipt = (await post_get(gw, f"/v1/cluster/requests/{got.headers['x-request-id']}")).json()
    assert engine.seen[0].body == engine.seen[1].body
    assert engine.seen[0].json["messages"][0]["content"] == "Current time: 2026-11-23\nBe brief."
    assert receipt["steadied"] == ["time of day"]


async def test_a_response_that_the_engine_calls_failed_ends_as_failed_with_the_engines_words():
    error = {"code": "server_error", "message": "out of memory"}
    failed = {"type": "response.failed", "response": {"id": "resp_1", "status": "failed", "error": error}}
    script = (STREAM_HEAD, *map(typed, [*NATIVE[RESPONSES][:2], failed]), CLOSE)
    async with upstream(script) as engine, gateway(native(engine.url)) as gw:
        got = await post(gw, RESPONSES, {**OPENAI, "stream": True})
    *_, one, two = events(got.content)
    assert one["response"]["error"] == error
    assert (two["type"], two["message"]) == ("error", "out of memory")


async def test_the_word_for_not_thinking_is_the_dialects_own():
    asset = Asset(asset_id="qwen3-8b", loaded=True)
    async with scripted_engine(native=True) as engine:
        made = native(engine.url, protocol="ollama", assets=(asset,))
        async with gateway(made) as gw:
            await post(gw, MESSAGES, {**ANTHROPIC, "model": "qwen3-8b", "stream": True})
            await post(gw, RESPONSES, {**OPENAI, "model": "qwen3-8b", "stream": True})
            await post(
                gw, MESSAGES, {**ANTHROPIC, "model": "qwen3-8b", "stream": True, "thinking": {"type": "adaptive"}}
            )
    one, two, three = (body for _, body in engine.asked)
    assert one["thinking"] == {"type": "disabled"}
    assert two["reasoning"] == {"effort": "none"}
    assert three["thinking"] == {"type": "adaptive"}
    assert "chat_template_kwargs" not in three


@pytest.mark.parametrize("path", [MESSAGES, RESPONSES])
async def test_nonsense_at_the_very_end_of_a_translated_stream_is_an_error_at_once(path):
    script = (*stream("Hello")[:3], chunk(b"data: [1]"), LAST_CHUNK, KEEP)
    async with upstream(script) as engine, gateway(engine.url) as gw:
        got = await post(gw, path, {**BODY[path], "stream": True})
    assert events(got.content)[-1]["type"] == "error"


@pytest.mark.parametrize("path", [MESSAGES, RESPONSES])
async def test_an_engine_that_forgets_done_still_ends_the_translated_stream(path):
    script = (*stream("Hello", done=False), KEEP)
    async with upstream(script) as engine, gateway(engine.url) as gw:
        got = await post(gw, path, {**BODY[path], "stream": True})
    assert events(got.content)[-1]["type"] in {"message_stop", "response.completed"}
