"""The openai and anthropic SDKs against the gateway with a real llama.cpp behind it, on every route that it serves.

Responses and Messages go both ways: to llama.cpp's own routes, and in translation to its chat completions.
"""

from __future__ import annotations

from contextlib import asynccontextmanager

import anthropic
import msgspec
import openai
import pytest

from tests.agents.scripted import ROUTES
from tests.gateway.harness import gateway, service

KEY = "key-of-the-sdks"
USER = [{"role": "user", "content": "Say something."}]
BOTH = pytest.mark.parametrize("routes", [ROUTES, ()], ids=["native", "translated"])


@asynccontextmanager
async def clients(llama_server, routes=ROUTES):
    made = msgspec.structs.replace(service(1, llama_server.base_url, asset=llama_server.model), routes=routes)
    async with (
        gateway(made, keys=(KEY,)) as gw,
        openai.AsyncOpenAI(base_url=f"{gw.url}/v1", api_key=KEY, max_retries=0) as one,
        anthropic.AsyncAnthropic(base_url=gw.url, api_key=KEY, max_retries=0) as other,
    ):
        yield one, other, llama_server.model


@BOTH
async def test_responses_plain_and_streamed(llama_server, routes):
    async with clients(llama_server, routes) as (client, _, model):
        ask = {"model": model, "input": USER, "max_output_tokens": 6, "temperature": 0}
        whole = await client.responses.create(**ask)
        stream = [event async for event in await client.responses.create(**ask, stream=True)]
        follow = await client.responses.create(**(ask | {"input": "More."}), previous_response_id=whole.id)
    assert whole.output_text
    assert whole.usage.output_tokens == 6
    words = "".join(event.delta for event in stream if event.type == "response.output_text.delta")
    last = stream[-1]
    assert last.type in {"response.completed", "response.incomplete"}
    assert words == last.response.output_text == whole.output_text
    assert follow.usage.input_tokens > whole.usage.input_tokens + 6


async def test_the_openai_sdks_own_collector_of_streams_is_content(llama_server):
    # Over llama.cpp's own route it is not: it counts on `output_index`, which llama.cpp leaves out.
    async with (
        clients(llama_server, ()) as (client, _, model),
        client.responses.stream(model=model, input="Hi", extra_body={"stop": list("aeiou")}) as stream,
    ):
        kinds = [event.type async for event in stream]
        final = await stream.get_final_response()
    assert kinds[0] == "response.created"
    assert final.status == "completed"


@BOTH
async def test_messages_plain_and_streamed_and_counted(llama_server, routes):
    async with clients(llama_server, routes) as (_, client, model):
        ask = {"model": model, "messages": USER, "max_tokens": 6, "extra_body": {"temperature": 0}}
        whole = await client.messages.create(**ask)
        async with client.messages.stream(**ask) as stream:
            words = "".join([text async for text in stream.text_stream])
            final = await stream.get_final_message()
        counted = await client.messages.count_tokens(model=model, messages=USER, system="Be brief.")
    assert whole.content[0].text == words == final.content[0].text
    assert (whole.stop_reason, final.stop_reason) == ("max_tokens", "max_tokens")
    assert whole.usage.output_tokens == final.usage.output_tokens == 6
    assert counted.input_tokens > 0


async def test_models_errors_and_keys_as_the_anthropic_sdk_knows_them(llama_server):
    async with clients(llama_server) as (_, client, model):
        assert [each.id async for each in client.models.list()] == [model]
        assert (await client.models.retrieve(model)).display_name == model
        with pytest.raises(anthropic.NotFoundError) as missing:
            await client.messages.create(model="nobody", messages=USER, max_tokens=1)
        with pytest.raises(anthropic.AuthenticationError):
            await client.with_options(api_key="wrong").messages.create(model=model, messages=USER, max_tokens=1)
    assert missing.value.body["error"]["type"] == "not_found_error"
    tools = [{"type": "web_search_20250305", "name": "web_search"}]
    async with clients(llama_server, ()) as (_, client, model):
        with pytest.raises(anthropic.BadRequestError, match=r"tools\.0"):
            await client.messages.create(model=model, messages=USER, max_tokens=1, tools=tools)


async def test_chat_completions_and_embeddings(llama_server):
    async with clients(llama_server) as (client, _, model):
        chat = await client.chat.completions.create(
            model=model, messages=USER, max_tokens=4, n=2, logprobs=True, top_logprobs=2
        )
        stream = await client.chat.completions.create(model=model, messages=USER, max_tokens=4, stream=True)
        reasons = [chunk.choices[0].finish_reason async for chunk in stream if chunk.choices]
        text = await client.completions.create(model=model, prompt="Once", max_tokens=4)
        vectors = await client.embeddings.create(model=model, input=["one", "two"])
        listed = [each.id async for each in client.models.list()]
    assert len(chat.choices) == 2
    assert len(chat.choices[0].logprobs.content[0].top_logprobs) == 2
    assert reasons[-1] == "length"
    assert text.choices[0].text
    assert [len(each.embedding) for each in vectors.data] == [64, 64]
    assert listed == [model]
