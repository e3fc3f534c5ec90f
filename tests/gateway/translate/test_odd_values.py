"""Whatever stands where a text should: requests are refused in words, answers of engines never break the gateway."""

from __future__ import annotations

import copy

import msgspec
import pytest

from gateway.ollama import ask, tell
from gateway.resume_ask import ways
from gateway.resume_sent import Transcript
from gateway.translate import messages_request, responses_request
from gateway.translate.tools import Toolbox
from geniehive.errors import GenieHiveError
from geniehive.resources import Operation

ODD = (None, True, 0, -1, 1.5, 2**63, "", "x", [], {}, [[]], [None], [{}], {"type": []}, {"type": {}})
MESSAGE = {
    "model": "m",
    "system": [{"type": "text", "text": "s"}],
    "messages": [
        {"role": "user", "content": [{"type": "text", "text": "a"}]},
        {"role": "assistant", "content": [{"type": "tool_use", "id": "i", "name": "n", "input": {}}]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "i", "content": "r"}]},
    ],
    "tools": [{"type": "custom", "name": "n", "input_schema": {}}],
    "tool_choice": {"type": "auto"},
    "thinking": {"type": "enabled"},
    "output_config": {"effort": "low", "format": {"type": "json_schema", "schema": {}}},
    "stop_sequences": ["a"],
}
RESPONSE = {
    "model": "m",
    "instructions": "i",
    "input": [
        {"type": "message", "role": "developer", "content": [{"type": "input_text", "text": "a"}]},
        {"type": "reasoning", "summary": [{"type": "summary_text", "text": "q"}]},
        {"type": "function_call", "call_id": "c", "name": "n", "arguments": "{}", "namespace": "ns"},
        {"type": "function_call_output", "call_id": "c", "output": [{"type": "input_text", "text": "o"}]},
    ],
    "tools": [{"type": "function", "name": "n", "parameters": {}}, {"type": "web_search"}],
    "tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "n"}]},
    "reasoning": {"effort": "high"},
    "text": {"format": {"type": "json_schema", "name": "n", "schema": {}}},
}
OLLAMA = {
    "model": "m",
    "messages": [{"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "n", "arguments": {}}}]}],
    "options": {"num_predict": 3},
    "format": "json",
    "think": "high",
    "keep_alive": 0,
}
ANSWER = {
    "choices": [
        {
            "finish_reason": "stop",
            "message": {"content": "c", "tool_calls": [{"id": "i", "function": {"name": "n", "arguments": "{}"}}]},
        }
    ],
    "usage": {"prompt_tokens": 1, "prompt_tokens_details": {"cached_tokens": 1}},
    "timings": {"prompt_ms": 1},
}
CHUNK = {
    "choices": [
        {
            "index": 0,
            "delta": {"tool_calls": [{"index": 0, "type": "function", "function": {"name": "n", "arguments": "{}"}}]},
            "finish_reason": "stop",
            "logprobs": {"content": []},
        }
    ],
    "usage": {"completion_tokens": 1},
}
VECTORS = {"data": [{"index": 1, "embedding": [1.0]}, {"index": 0, "embedding": [2.0]}], "usage": {"prompt_tokens": 1}}
AGAIN = {"model": "m", "prompt": "p", "echo": False, "logprobs": None, "n": 1, "stop": ["x"], "max_tokens": 9}
CLOCK = tell.Clock(lambda: 1.0, lambda: "now")


def variants(value):
    """The value with each of its parts replaced by each odd one."""
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in parts:
        for odd in (*ODD, *variants(part)):
            made = copy.copy(value)
            made[key] = odd
            yield made


def to_chat_of_a_response(body):
    responses_request.check(body)
    responses_request.to_chat(body, Toolbox(body.get("tools")))


REQUESTS = {
    "messages": (messages_request.to_chat, MESSAGE),
    "thoughts": (messages_request.thinks, MESSAGE),
    "responses": (to_chat_of_a_response, RESPONSE),
    "ollama chat": (ask.chat, OLLAMA),
    "ollama generate": (ask.generate, {**OLLAMA, "prompt": "p", "images": ["i"], "raw": False, "suffix": ""}),
    "ollama embed": (ask.embed, {**OLLAMA, "input": ["a"]}),
    "ollama's answer": (lambda body: tell.whole("chat", "m", msgspec.json.encode(body), CLOCK), ANSWER),
    "ollama's vectors": (lambda body: tell.embeddings("m", msgspec.json.encode(body), CLOCK, one=False), VECTORS),
    "ollama's stream": (lambda body: lines(b"data: " + msgspec.json.encode(body) + b"\n\n"), CHUNK),
    "what is kept of a stream": (lambda body: kept(b"data: " + msgspec.json.encode(body) + b"\n\n"), CHUNK),
    "going on": (lambda body: go_on(msgspec.json.encode(body)), AGAIN),
}


def lines(block):
    made = tell.Lines("chat", "m", CLOCK)
    return made(block) + made.end()


def kept(block):
    transcript = Transcript(1024, hides=False)
    transcript.keep(block)
    return transcript.sent()


def go_on(body):
    sent = kept(b'data: {"choices":[{"index":0,"text":"a"}]}\n\n')
    return ways(Operation.COMPLETION, "vllm", body, sent), ways(Operation.CHAT, "vllm", body, sent)


@pytest.mark.parametrize(("work", "body"), REQUESTS.values(), ids=REQUESTS)
def test_odd_values_are_refused_or_taken_and_nothing_breaks(work, body):
    work(body)
    for variant in variants(body):
        try:
            work(variant)
        except GenieHiveError:
            continue
