"""The main job: OpenAI clients talk through the gateway to a real llama.cpp that a node agent announced."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
from collections.abc import Callable

import openai
import pytest

from tests.engine_fixture import LlamaServer
from tests.integration.cluster import Cluster, Json, chat_body
from tests.integration.daemons import clean_environ, geniehive

SERVICE = "alpha/chat/llama"


@pytest.fixture
def cluster(open_cluster: Cluster) -> Cluster:
    return open_cluster


@pytest.fixture
def model(llama_server: LlamaServer) -> str:
    return llama_server.model


def events_of(text: str) -> list[str]:
    """The data of each server-sent event."""
    return [block.removeprefix("data: ") for block in text.split("\n\n") if block.startswith("data: ")]


def test_openai_sdk_streams_a_chat(cluster: Cluster, model: str) -> None:
    with cluster.openai() as client:
        chunks = list(
            client.chat.completions.create(
                model=model, messages=[{"role": "user", "content": "Say hello."}], max_tokens=16, stream=True
            )
        )
    words = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert words
    assert len([chunk for chunk in chunks if chunk.choices and chunk.choices[0].delta.content]) > 1, "one lump"
    assert chunks[-1].choices[0].finish_reason == "length"


async def test_asynchronous_openai_sdk_streams_many_chats_at_once(cluster: Cluster, model: str) -> None:
    async with cluster.openai_async() as client:

        async def talk() -> str:
            stream = await client.chat.completions.create(
                model=model, messages=[{"role": "user", "content": "hi"}], max_tokens=8, stream=True
            )
            reasons = [chunk.choices[0].finish_reason async for chunk in stream if chunk.choices]
            return reasons[-1]

        assert await asyncio.gather(*(talk() for _ in range(8))) == ["length"] * 8


def test_curl_streams_a_chat_that_ends_with_done(
    cluster: Cluster, model: str, require_tool: Callable[[str], str]
) -> None:
    command = [
        require_tool("curl"), "-sSN", "-D", "-", f"{cluster.url}/v1/chat/completions",
        "-H", "Content-Type: application/json", "-d", json.dumps(chat_body(model, stream=True)),
    ]  # fmt: skip
    done = subprocess.run(command, env=clean_environ(), capture_output=True, text=True, timeout=30, check=True)
    head, _, body = done.stdout.partition("\n\n")
    headers = dict(line.lower().split(": ", 1) for line in head.splitlines() if ": " in line)
    assert head.startswith("HTTP/1.1 200")
    assert headers["content-type"].startswith("text/event-stream")
    assert headers["cache-control"] == "no-cache"
    events = events_of(body)
    assert events[-1] == "[DONE]"
    assert all(json.loads(event)["object"] == "chat.completion.chunk" for event in events[:-1])


def test_plain_chat_tells_who_answered(cluster: Cluster, model: str) -> None:
    answer = cluster.chat(model)
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert body["object"] == "chat.completion"
    assert body["choices"][0]["message"]["content"]
    assert body["usage"]["completion_tokens"] == 8
    headers = answer.headers
    assert headers["x-geniehive-service"] == SERVICE
    assert headers["x-geniehive-host"] == "alpha"
    assert headers["x-geniehive-model"] == model
    assert headers["x-geniehive-attempts"] == "1"
    assert float(headers["x-geniehive-queue-ms"]) >= 0
    assert float(headers["x-geniehive-overhead-ms"]) >= 0


def test_every_answer_has_a_request_id_of_its_own(cluster: Cluster, model: str) -> None:
    answers = [cluster.chat(model), cluster.chat(model), cluster.chat("no-such-model"), cluster.http.get("/nowhere")]
    ids = [answer.headers["x-request-id"] for answer in answers]
    assert len(set(ids)) == len(ids)


def test_completions_stream(cluster: Cluster, model: str) -> None:
    with cluster.openai() as client:
        chunks = list(client.completions.create(model=model, prompt="Once upon", max_tokens=8, stream=True))
    assert chunks[-1].choices[0].finish_reason == "length"
    assert "".join(chunk.choices[0].text for chunk in chunks)


def test_embeddings_of_two_texts(cluster: Cluster, model: str) -> None:
    with cluster.openai() as client:
        answer = client.embeddings.create(model=model, input=["one text", "another, longer text"])
    first, second = (item.embedding for item in answer.data)
    assert len(first) == len(second) > 8
    assert first != second


def test_usage_comes_in_one_more_chunk_where_it_is_asked_for(cluster: Cluster, model: str) -> None:
    with cluster.openai() as client:
        chunks = list(
            client.chat.completions.create(
                model=model, messages=[{"role": "user", "content": "hi"}], max_tokens=8, stream=True,
                stream_options={"include_usage": True},
            )
        )  # fmt: skip
    assert chunks[-1].choices == []
    assert chunks[-1].usage
    assert chunks[-1].usage.completion_tokens == 8
    assert all(chunk.usage is None for chunk in chunks[:-1])


def test_nobody_gets_a_usage_chunk_unasked(cluster: Cluster, model: str) -> None:
    answer = cluster.chat(model, stream=True)
    chunks = [json.loads(event) for event in events_of(answer.text)[:-1]]
    assert chunks
    assert all(chunk["choices"] for chunk in chunks)


def test_models_are_a_catalogue(cluster: Cluster, model: str) -> None:
    with cluster.openai() as client:
        assert [entry.id for entry in client.models.list()] == [model]
    (entry,) = cluster.http.get("/v1/models").json()["data"]
    assert entry["object"] == "model"
    assert entry["name"]
    assert entry["context_length"] == entry["max_model_len"] > 0
    assert "chat" in entry["capabilities"]
    assert "stream" in entry["supported_parameters"]
    assert entry["status"]["value"] == "loaded"
    own = entry["geniehive"]
    assert own["kind"] == "asset"
    assert own["hosts"] == own["loaded_on"] == ["alpha"]
    assert {"chat", "embeddings"} <= set(own["operations"])
    assert re.search("llama", own["engine"])


@pytest.mark.parametrize("name", ["MODEL", SERVICE])
def test_model_is_known_by_its_id_and_by_its_service(cluster: Cluster, model: str, name: str) -> None:
    wanted = model if name == "MODEL" else name
    with cluster.openai() as client:
        assert client.models.retrieve(wanted).id == wanted
        answer = client.chat.completions.create(
            model=wanted, messages=[{"role": "user", "content": "hi"}], max_tokens=4
        )
    assert answer.choices[0].finish_reason == "length"


def test_unknown_model_of_the_catalogue_is_a_404(cluster: Cluster) -> None:
    with cluster.openai() as client, pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("no-such-model")
    assert caught.value.code == "model_not_found"


def test_cluster_reads_show_host_service_and_route(cluster: Cluster, model: str) -> None:
    host = cluster.host("alpha")
    assert host["display_name"] == "Alpha"
    assert host["lease"] == "up"
    assert host["facts"]["cpu_count"] > 0
    assert host["facts"]["ram_total_bytes"] > 0
    (found,) = cluster.http.get("/v1/cluster/services").json()["data"]
    assert found["service_id"] == SERVICE
    assert found["health"]["status"] == "healthy"
    assert found["protocol"] == "llamacpp"
    route = cluster.http.get("/v1/cluster/routes/resolve", params={"model": model, "operation": "chat"}).json()
    assert [candidate["service_id"] for candidate in route["candidates"]] == [SERVICE]
    health = cluster.health()
    assert health["status"] == "ok"
    assert health["hosts"] == {"up": 1, "total": 1}
    assert health["stale"] is False


def test_engine_metrics_reach_the_gateway(cluster: Cluster, model: str) -> None:
    cluster.chat(model)

    def observed() -> Json:
        (found,) = cluster.http.get("/v1/cluster/services").json()["data"]
        return found["observed"]

    seen = cluster.wait_for(lambda: observed() if observed()["loaded_model_count"] else None)
    assert seen["running"] is not None
    assert seen["slots"]


def test_metrics_count_requests(cluster: Cluster, model: str) -> None:
    cluster.chat(model)
    text = cluster.http.get("/metrics").text
    assert re.search(r"^geniehive_gateway_requests_total\{[^}]*\} [1-9]", text, re.MULTILINE)
    assert "geniehive_gateway_ttft_seconds" in text
    assert re.search(r"^geniehive_node_up\{[^}]*alpha[^}]*\} 1", text, re.MULTILINE)


def test_tables_of_the_command_line_show_the_same(cluster: Cluster, model: str) -> None:
    for words, expected in (("nodes", "alpha"), ("services", SERVICE), ("models", model), ("ps", model)):
        done = geniehive(words, "--control", cluster.address, cwd=cluster.folder)
        assert done.returncode == 0, done.stderr
        assert expected in done.stdout
    done = geniehive("route", "resolve", model, "--control", cluster.address, "-o", "json", cwd=cluster.folder)
    assert SERVICE in done.stdout, done.stderr


def test_the_routes_of_agents_go_to_llama_cpps_own_since_the_node_agent_found_them(
    cluster: Cluster, model: str
) -> None:
    service = cluster.http.get(f"/v1/cluster/services/{SERVICE}").json()
    assert service["routes"] == ["/v1/responses", "/v1/messages", "/v1/messages/count_tokens"]
    turns = [{"role": "user", "content": "hi"}]
    message = cluster.http.post("/v1/messages", json={"model": model, "max_tokens": 4, "messages": turns})
    assert message.json()["content"][0]["text"]
    assert message.json()["id"].startswith("chatcmpl-"), "llama.cpp's own id, which translation would not have"
    count = cluster.http.post("/v1/messages/count_tokens", json={"model": model, "messages": turns})
    assert count.json()["input_tokens"] > 0
    assert "x-geniehive-estimated" not in count.headers
