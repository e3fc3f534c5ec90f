"""OpenAI's answers in Ollama's words, against recordings of a real Ollama and a real llama.cpp."""

import json
from pathlib import Path

import pytest

from gateway.ollama import tell
from gateway.sse import SseScanner
from geniehive.errors import UpstreamUnavailable

FIXTURES = Path(__file__).parents[2] / "fixtures"
CLOCK = tell.Clock(iter([n / 8 for n in range(1, 999)]).__next__, lambda: "2026-11-23T05:00:00Z")


def clock(*seconds):
    left = list(seconds)
    return tell.Clock(lambda: left.pop(0) if len(left) > 1 else left[0], lambda: "2026-11-23T05:00:00Z")


def sse(*values, done=True):
    events = [b"data: " + json.dumps(value).encode() + b"\n\n" for value in values]
    return b"".join(events) + (b"data: [DONE]\n\n" if done else b"")


def piece(delta, finish=None, **more):
    return {"choices": [{"index": 0, "delta": delta, "finish_reason": finish}], **more}


def lines(raw, kind="chat", of=None):
    made = tell.Lines(kind, "nick", of or clock(0.1, 0.5))
    return [json.loads(line) for line in (made(raw) + made.end()).splitlines()]


def keys(file):
    return json.loads((FIXTURES / "ollama" / file).read_text()).keys()


def test_a_whole_chat_has_the_fields_of_ollamas_own():
    said = json.loads((FIXTURES / "llamacpp" / "chat.json").read_text())
    told = json.loads(tell.whole("chat", "tiny", json.dumps(said).encode(), clock(1.5)))
    assert told.keys() <= keys("api_chat.json")
    assert keys("api_chat.json") - told.keys() <= {"load_duration", "prompt_eval_cached_count"}
    assert told["message"] == {"role": "assistant", "content": said["choices"][0]["message"]["content"]}
    assert told["eval_count"] == said["usage"]["completion_tokens"]
    assert told["prompt_eval_count"] == said["usage"]["prompt_tokens"]
    assert told["eval_duration"] == int(said["timings"]["predicted_ms"] * 1e6)
    assert told["total_duration"] == 1_500_000_000


def test_a_whole_completion_is_a_response():
    body = json.dumps({"choices": [{"text": "hi", "finish_reason": "length"}]}).encode()
    told = json.loads(tell.whole("generate", "m", body, clock(1)))
    assert (told["response"], told["done"], told["done_reason"]) == ("hi", True, "length")
    assert "eval_count" not in told


def test_a_stream_becomes_lines_that_end_with_counts_and_times():
    usage = {"usage": {"prompt_tokens": 9, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 5}}}
    words = piece({"role": "assistant", "content": ""}), piece({"content": "hé"}), piece({"content": "llo"})
    raw = sse(*words, piece({}, "stop"), {"choices": [], **usage})
    first, second, last = lines(raw, of=clock(0.25, 1.25))
    assert first == {
        "model": "nick",
        "created_at": "2026-11-23T05:00:00Z",
        "message": {"role": "assistant", "content": "hé"},
        "done": False,
    }
    assert second["message"]["content"] == "llo"
    assert last["message"] == {"role": "assistant", "content": ""}
    assert {key: last[key] for key in last if key not in {"model", "created_at", "message"}} == {
        "done": True,
        "done_reason": "stop",
        "total_duration": 1_250_000_000,
        "prompt_eval_count": 9,
        "prompt_eval_cached_count": 5,
        "prompt_eval_duration": 250_000_000,
        "eval_count": 2,
        "eval_duration": 1_000_000_000,
    }


def test_a_recorded_stream_of_llama_cpp_says_the_same_words():
    raw = (FIXTURES / "llamacpp" / "chat_stream.txt").read_bytes()
    words = ""
    for event in raw.split(b"\n\n"):
        if event.startswith(b"data: {"):
            for choice in json.loads(event[6:])["choices"]:
                words += choice["delta"].get("content") or ""
    made = lines(raw)
    assert "".join(line["message"]["content"] for line in made) == words
    assert [line["done"] for line in made] == [False] * (len(made) - 1) + [True]


@pytest.mark.parametrize("size", [1, 7, 4096])
def test_lines_are_the_same_however_the_stream_is_cut(size):
    raw = sse(piece({"content": "é👋"}), piece({"reasoning_content": "ä"}), piece({}, "stop"))
    made = tell.Lines("chat", "nick", clock(1))
    scanner = SseScanner(rewrite=made)
    out = b"".join(scanner.feed(raw[at : at + size]) for at in range(0, len(raw), size))
    assert [json.loads(line) for line in out.splitlines()] == lines(raw, of=clock(1))
    assert out.count(b'"done":true') == 1


def test_parallel_tool_calls_are_told_whole_before_the_end():
    deltas = [
        {"tool_calls": [{"index": 0, "id": "a", "function": {"name": "f", "arguments": ""}}]},
        {"tool_calls": [{"index": 1, "id": "b", "function": {"name": "g", "arguments": '{"x"'}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": '{"q":"ä"}'}}]},
        {"tool_calls": [{"index": 1, "function": {"arguments": ":1}"}}]},
    ]
    calls, last = lines(sse(*map(piece, deltas), piece({}, "tool_calls")))
    assert calls["message"]["tool_calls"] == [
        {"id": "a", "function": {"index": 0, "name": "f", "arguments": {"q": "ä"}}},
        {"id": "b", "function": {"index": 1, "name": "g", "arguments": {"x": 1}}},
    ]
    assert (calls["done"], last["done"], last["done_reason"]) == (False, True, "stop")


@pytest.mark.parametrize(("written", "told"), [("", {}), ("{", {"arguments": "{"}), ("[1]", {"arguments": [1]})])
def test_arguments_that_are_no_object_are_told_as_they_are(written, told):
    message = {"content": None, "tool_calls": [{"id": "a", "function": {"name": "f", "arguments": written}}]}
    body = json.dumps({"choices": [{"message": message, "finish_reason": "tool_calls"}]}).encode()
    found = json.loads(tell.whole("chat", "m", body, CLOCK))
    assert found["message"]["tool_calls"][0]["function"]["arguments"] == told
    assert found["message"]["content"] == ""


def test_thoughts_and_probabilities_have_their_own_fields():
    odds = [{"token": "a", "logprob": -0.1, "top_logprobs": []}]
    choice = {"index": 0, "delta": {"content": "a"}, "logprobs": {"content": odds}, "finish_reason": None}
    thought, word, _ = lines(sse(piece({"reasoning": "hm"}), {"choices": [choice]}, piece({}, "stop")))
    assert thought["message"] == {"role": "assistant", "content": "", "thinking": "hm"}
    assert word["logprobs"] == odds
    assert lines(sse(piece({"reasoning_content": "hm"})), "generate")[0]["thinking"] == "hm"


def test_embeddings_come_in_the_order_of_their_texts():
    data = [{"index": 1, "embedding": [2.0]}, {"index": 0, "embedding": [1.0]}]
    body = json.dumps({"data": data, "usage": {"prompt_tokens": 4}}).encode()
    told = json.loads(tell.embeddings("m", body, clock(1), one=False))
    assert (told["embeddings"], told["prompt_eval_count"]) == ([[1.0], [2.0]], 4)
    assert json.loads(tell.embeddings("m", body, clock(1), one=True)) == {"embedding": [1.0]}


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"choices": []}', b'{"choices": 7}', b'{"choices": [7]}'])
def test_what_is_no_answer_is_the_engines_failure(body):
    with pytest.raises(UpstreamUnavailable):
        tell.whole("chat", "m", body, clock(1))


def test_odd_events_of_a_stream_are_passed_over():
    raw = sse(
        [],
        7,
        {},
        {"choices": None},
        {"choices": [None]},
        piece(None),
        piece({"tool_calls": [None]}),
        piece({"content": 7}),
    )
    assert [line["done"] for line in lines(raw)] == [True]
