"""A real control plane, a real gateway and an engine made of canned answers, in this process."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import grpc.aio
import httpx
from aiohttp import web

import controlplane.app
import gateway.run
from geniehive.benchmarks.workloads import builtin
from geniehive.config import AuthConfig, Config, ControlConfig, ControlPlaneConfig, GatewayConfig, StorageConfig
from geniehive.dial import control_channel
from geniehive.resources import Asset, Health, HealthStatus, Host, Operation, Service
from tests.controlplane.edge import Node

CLIENT_KEY, NODE_KEY, ADMIN_KEY = "client-key", "node-key-of-the-tests", "admin-key-of-the-tests"
KEYS = AuthConfig(client_api_keys=(CLIENT_KEY,), node_api_keys=(NODE_KEY,), admin_api_keys=(ADMIN_KEY,))
DEADLINE_S = 30.0
RIGHT = dict(
    zip(
        [case.user for case in builtin()["chat.short_reasoning"].cases],
        ["9", "5", "5", "Clara", "391", "Saturday", "80", "42"],
        strict=True,
    )
)


@dataclass
class Engine:
    """Answers puzzles rightly. `failing` makes chat answer 500, `sick` its list of models; `seen` are the paths."""

    url: str = ""
    failing: bool = False
    sick: bool = False
    cut: bool = False
    seen: list[str] = field(default_factory=list)

    async def chat(self, request: web.Request) -> web.StreamResponse:
        self.seen.append(request.path)
        if self.failing:
            return web.json_response({"error": {"message": "out of luck"}}, status=500)
        body = await request.json()
        answer = RIGHT.get(body["messages"][-1]["content"], "nothing to say")
        if not body.get("stream"):
            choice = {"index": 0, "message": {"role": "assistant", "content": answer}, "finish_reason": "stop"}
            return web.json_response({"object": "chat.completion", "model": body["model"], "choices": [choice]})
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        pieces = [*answer, " ", "\n"]
        for piece in pieces:
            await self._send(response, {"choices": [{"index": 0, "delta": {"content": piece}}]})
            await asyncio.sleep(0.001)
        if not self.cut:
            await self._send(response, {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
            await self._send(response, {"choices": [], "usage": {"completion_tokens": len(pieces)}})
            await response.write(b"data: [DONE]\n\n")
        return response

    async def _send(self, response: web.StreamResponse, chunk: dict) -> None:
        await response.write(b"data: " + json.dumps({"object": "chat.completion.chunk", **chunk}).encode() + b"\n\n")

    async def embeddings(self, request: web.Request) -> web.Response:
        self.seen.append(request.path)
        texts = (await request.json())["input"]
        vectors = [[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]][: len(texts)]
        return web.json_response({"data": [{"index": n, "embedding": each} for n, each in enumerate(vectors)]})

    async def transcriptions(self, request: web.Request) -> web.Response:
        self.seen.append(request.path)
        await request.read()
        return web.json_response({"text": "hello world"})

    async def models(self, request: web.Request) -> web.Response:
        self.seen.append(request.path)
        return web.json_response({"data": []}, status=500 if self.sick else 200)


@asynccontextmanager
async def engine() -> AsyncIterator[Engine]:
    made = Engine()
    app = web.Application()
    app.router.add_post("/v1/chat/completions", made.chat)
    app.router.add_post("/v1/embeddings", made.embeddings)
    app.router.add_post("/v1/audio/transcriptions", made.transcriptions)
    app.router.add_get("/v1/models", made.models)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        made.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        yield made
    finally:
        await runner.cleanup()


def service(name: str, url: str, **fields) -> Service:
    given = {
        "operations": (Operation.CHAT, Operation.EMBEDDINGS, Operation.TRANSCRIPTION),
        "assets": (Asset(asset_id="m", loaded=True),),
        "health": Health(status=HealthStatus.HEALTHY),
        "host_id": "atlas",
    }
    return Service(service_id=f"atlas/{name}", endpoint=url, **(given | fields))


@dataclass
class Hive:
    url: str
    control: str
    channel: grpc.aio.Channel
    config: Config
    http: httpx.AsyncClient

    async def seen(self, service_id: str) -> dict:
        answer = await self.http.get(f"/v1/cluster/services/{service_id}")
        return answer.json() if answer.status_code == 200 else {}

    async def until_health(self, service_id: str, status: str) -> dict:
        return await until(lambda: self.seen(service_id), lambda found: found["health"]["status"] == status)


@asynccontextmanager
async def hive(folder, *services: Service, auth: AuthConfig = KEYS, key: str = ADMIN_KEY, **sections):
    """Control plane, gateway, and a node that announces the services and says no more."""
    stop = asyncio.Event()
    base = {"storage": StorageConfig(url=f"sqlite+aiosqlite:///{folder}/hive.sqlite3"), "auth": auth, **sections}
    async with asyncio.TaskGroup() as tasks:
        address, url = asyncio.get_running_loop().create_future(), asyncio.get_running_loop().create_future()
        control = Config(control=ControlConfig(listen="127.0.0.1:0"), **base)
        tasks.create_task(controlplane.app.run(control, stop=stop, ready=address.set_result))
        dialled = ControlPlaneConfig(address=await address, node_api_key=next(iter(auth.node_api_keys), ""))
        config = Config(gateway=GatewayConfig(port=0, drain_timeout_s=1), control_plane=dialled, **base)
        tasks.create_task(gateway.run.run(config, stop=stop, ready=url.set_result))
        headers = {"authorization": f"Bearer {key}"} if key else {}
        async with (
            control_channel([await address]) as channel,
            httpx.AsyncClient(base_url=await url, headers=headers, timeout=DEADLINE_S, trust_env=False) as http,
        ):
            made = Hive(await url, await address, channel, config, http)
            node = Node(channel, Host(host_id="atlas"), services)
            try:
                await node.hello()
                for one in services:
                    await until(lambda one=one: made.seen(one.service_id))
                yield made
            finally:
                node.close()
                stop.set()


async def until(ask, holds=bool, deadline_s: float = DEADLINE_S):
    """Waits until what `await ask()` gives is as it should be, and returns it."""
    async with asyncio.timeout(deadline_s):
        while not ((found := await ask()) and holds(found)):
            await asyncio.sleep(0.01)
        return found
