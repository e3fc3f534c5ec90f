"""The runner against answers that no gateway gives: it believes nothing that it has not seen."""

from __future__ import annotations

import json

import httpx
import pytest

from geniehive.benchmarks.runner import Plan, Runner, post_report
from geniehive.benchmarks.workloads import builtin
from geniehive.errors import InvalidRequest, UpstreamUnavailable
from geniehive.resources import Operation

BUILTIN = builtin()
DONE = "data: [DONE]\n\n"


def event(**chunk):
    return f"data: {json.dumps(chunk)}\n\n"


def delta(**delta):
    return event(choices=[{"index": 0, "delta": delta}])


async def answered(name, text, status=200):
    """What one request of a workload comes to, if everything is answered with `text`."""

    def answer(_request):
        return httpx.Response(status, text=text, headers={"x-geniehive-service": "s", "x-geniehive-model": "m"})

    async with httpx.AsyncClient(transport=httpx.MockTransport(answer), base_url="http://gateway") as client:
        result = await Runner(client, "m").run(BUILTIN[name], Plan(requests=1, warmup=0), lambda _: None)
    return result.outcomes[0]


@pytest.mark.parametrize(
    ("text", "error"),
    [
        (delta(content="1"), "the stream was cut: it ended without finish_reason"),
        ("", "the stream was cut"),
        (delta(content="1") + event(error={"message": "gone"}) + DONE, "the stream broke: gone"),
        ("data: nonsense\n\n" + DONE, "the answer is not JSON"),
        ("data: []\n\n" + DONE, "the answer is not a JSON object"),
    ],
)
async def test_a_stream_that_does_not_end_well_is_a_failure(text, error):
    outcome = await answered("chat.streaming", text)
    assert error in outcome.error
    assert outcome.answered.service_id == "s"
    assert (outcome.ttft_seconds, outcome.quality) == (None, None)


async def test_tokens_are_those_of_usage_else_the_pieces_with_text():
    pieces = delta(role="assistant") + delta(reasoning_content="hm") + delta(content="1 2") + delta(content=" 3")
    end = event(choices=[{"index": 0, "delta": {}, "finish_reason": "stop"}])
    counted = await answered("chat.streaming", pieces + end + DONE)
    told = await answered("chat.streaming", pieces + end + event(choices=[], usage={"completion_tokens": 9}) + DONE)
    assert (counted.tokens, told.tokens, told.error) == (3, 9, "")
    assert told.quality == pytest.approx(3 / 60)


async def test_an_answer_without_text_has_no_time_to_its_first_token():
    outcome = await answered("chat.streaming", DONE)
    assert (outcome.error, outcome.ttft_seconds, outcome.tpot_seconds, outcome.quality) == ("", None, None, 0)


@pytest.mark.parametrize(
    "body", ["{}", '{"data": [{"embedding": [1]}]}', '{"data": 3}', '{"data": [{"embedding": "x"}]}']
)
async def test_embeddings_without_vectors_are_a_failure(body):
    assert "vectors" in (await answered("embeddings.similarity", body)).error


async def test_a_transcript_without_text_is_a_failure():
    assert (await answered("transcription.short_clip", "{}")).error == "the answer has no text"


async def test_a_status_is_told_with_its_words():
    outcome = await answered("embeddings.similarity", '{"error": {"message": "too busy"}}', status=503)
    assert outcome.error == "status 503: too busy"
    assert (await answered("chat.streaming", "<html>", status=502)).error == "status 502"


async def test_what_is_no_gateway_is_said_to_be_none():
    async with httpx.AsyncClient(
        transport=httpx.MockTransport(lambda _: httpx.Response(200, text="<html>")), base_url="http://web"
    ) as client:
        with pytest.raises(UpstreamUnavailable, match="is no GenieHive gateway"):
            await Runner(client, "m").look([Operation.CHAT])
        with pytest.raises(UpstreamUnavailable, match="is no GenieHive gateway"):
            await post_report(client, b"{}")
    async with httpx.AsyncClient(
        transport=httpx.MockTransport(lambda _: httpx.Response(400, json={"error": {"message": "no"}})),
        base_url="http://gateway",
    ) as client:
        with pytest.raises(InvalidRequest, match="no"):
            await post_report(client, b"{}")
