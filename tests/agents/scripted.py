"""An engine whose words are known: it calls the client's shell once, and says what it did.

It speaks chat completions, and where it is told to, Responses and Messages too. What it was asked stays in `asked`.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from aiohttp import web

SAID = "I wrote forty-two into answer.txt."
THOUGHT = "The shell can do that."
COMMAND = "echo forty-two > answer.txt"
_SHELLS = {"Bash": {"command": COMMAND, "description": "Write the answer"}, "exec_command": {"cmd": COMMAND}}
ROUTES = ("/v1/responses", "/v1/messages", "/v1/messages/count_tokens")


@dataclass
class Scripted:
    """`asked` has the path and the body of each request, `headers` its headers."""

    url: str = ""
    asked: list[tuple[str, dict]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)

    async def chat(self, request: web.Request) -> web.StreamResponse:
        body = await self._body(request)
        shell = _shell(tool["function"]["name"] for tool in body.get("tools", []))
        begun = any(message["role"] == "tool" for message in body["messages"])
        if shell is None or begun:
            deltas = [{"role": "assistant", "content": None}, *({"content": word} for word in _words())]
            finish = "stop"
        else:
            call = {"index": 0, "id": "call_1", "type": "function"}
            text = json.dumps(_SHELLS[shell])
            first = {**call, "function": {"name": shell, "arguments": text[:9]}}
            second = {"index": 0, "function": {"arguments": text[9:]}}
            deltas = [{"role": "assistant", "content": None}, {"reasoning_content": THOUGHT}]
            deltas += [{"tool_calls": [first]}, {"tool_calls": [second]}]
            finish = "tool_calls"
        choices = [*({"index": 0, "delta": delta, "finish_reason": None} for delta in deltas)]
        choices.append({"index": 0, "delta": {}, "finish_reason": finish})
        usage = {"prompt_tokens": 100, "completion_tokens": 9, "prompt_tokens_details": {"cached_tokens": 90}}
        events = [{"choices": [choice]} for choice in choices] + [{"choices": [], "usage": usage}]
        head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": body["model"]}
        return await _stream(request, [json.dumps({**head, **event}) for event in events] + ["[DONE]"])

    async def messages(self, request: web.Request) -> web.StreamResponse:
        body = await self._body(request)
        shell = _shell(tool["name"] for tool in body.get("tools", []))
        begun = any(
            block.get("type") == "tool_result"
            for message in body["messages"]
            if isinstance(message["content"], list)
            for block in message["content"]
        )
        blocks: list[tuple[dict, list[dict]]] = []
        if shell is None or begun:
            deltas = [{"type": "text_delta", "text": word} for word in _words()]
            blocks.append(({"type": "text", "text": ""}, deltas))
        else:
            delta = {"type": "input_json_delta", "partial_json": json.dumps(_SHELLS[shell])}
            blocks.append(({"type": "tool_use", "id": "toolu_1", "name": shell, "input": {}}, [delta]))
        reason = "end_turn" if shell is None or begun else "tool_use"
        return await _stream(request, _typed(message_events(body["model"], blocks, reason)), named=True)

    async def responses(self, request: web.Request) -> web.StreamResponse:
        body = await self._body(request)
        shell = _shell(tool.get("name", "") for tool in body.get("tools", []))
        begun = isinstance(body["input"], list) and any(
            item.get("type") == "function_call_output" for item in body["input"]
        )
        if shell is None or begun:
            content = [{"type": "output_text", "text": SAID, "annotations": []}]
            item = {"type": "message", "id": "msg_1", "role": "assistant", "status": "completed", "content": content}
        else:
            item = {"type": "function_call", "id": "fc_1", "call_id": "call_1", "name": shell, "status": "completed"}
            item["arguments"] = json.dumps(_SHELLS[shell])
        return await _stream(request, _typed(response_events(item)), named=True)

    async def count(self, request: web.Request) -> web.Response:
        await self._body(request)
        return web.json_response({"input_tokens": 4711})

    async def _body(self, request: web.Request) -> dict:
        body = await request.json()
        self.asked.append((request.path, body))
        self.headers.append({name.lower(): value for name, value in request.headers.items()})
        return body


def message_events(model: str, blocks: list[tuple[dict, list[dict]]], reason: str) -> list[dict]:
    usage = {"input_tokens": 100, "output_tokens": 0}
    message = {"id": "msg_1", "type": "message", "role": "assistant", "content": [], "model": model}
    events = [{"type": "message_start", "message": {**message, "stop_reason": None, "usage": usage}}]
    for index, (block, deltas) in enumerate(blocks):
        events.append({"type": "content_block_start", "index": index, "content_block": block})
        events += [{"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas]
        events.append({"type": "content_block_stop", "index": index})
    delta = {"stop_reason": reason, "stop_sequence": None}
    return [*events, {"type": "message_delta", "delta": delta, "usage": {"output_tokens": 9}}, {"type": "message_stop"}]


def response_events(item: dict) -> list[dict]:
    response = {"id": "resp_1", "object": "response", "status": "in_progress", "output": []}
    usage = {"input_tokens": 100, "output_tokens": 9, "total_tokens": 109}
    usage |= {"input_tokens_details": {"cached_tokens": 90}, "output_tokens_details": {"reasoning_tokens": 0}}
    done = {**response, "status": "completed", "output": [item], "usage": usage}
    return [
        {"type": "response.created", "response": response},
        {"type": "response.output_item.added", "output_index": 0, "item": item},
        {"type": "response.output_item.done", "output_index": 0, "item": item},
        {"type": "response.completed", "response": done},
    ]


def _shell(names) -> str | None:
    return next((name for name in names if name in _SHELLS), None)


def _words() -> list[str]:
    return [f"{word} " for word in SAID.split()[:-1]] + SAID.split()[-1:]


def _typed(events: list[dict]) -> list[str]:
    return [json.dumps(event) for event in events]


async def _stream(request: web.Request, events: list[str], *, named: bool = False) -> web.StreamResponse:
    response = web.StreamResponse(headers={"content-type": "text/event-stream"})
    await response.prepare(request)
    for event in events:
        name = f"event: {json.loads(event)['type']}\n" if named else ""
        await response.write(f"{name}data: {event}\n\n".encode())
    return response


@asynccontextmanager
async def scripted_engine(*, native: bool) -> AsyncIterator[Scripted]:
    made = Scripted()
    app = web.Application(client_max_size=2**24)
    app.router.add_post("/v1/chat/completions", made.chat)
    if native:
        app.router.add_post("/v1/messages", made.messages)
        app.router.add_post("/v1/messages/count_tokens", made.count)
        app.router.add_post("/v1/responses", made.responses)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        made.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        yield made
    finally:
        await runner.cleanup()
