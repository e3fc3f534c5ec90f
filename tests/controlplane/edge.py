"""A whole control plane on a free port, and a node agent reduced to its stream, for the tests of the edges."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import grpc.aio

from controlplane import app
from geniehive import codec
from geniehive.config import AuthConfig, Config, ControlConfig, StorageConfig
from geniehive.dial import control_channel, metadata
from geniehive.resources import Asset, Health, HealthStatus, Host, HostFacts, Operation, Service
from geniehive.v1 import cluster_service_pb2_grpc, node_service_pb2, node_service_pb2_grpc

NODE_KEY = "node-key-of-the-tests"
ADMIN_KEY = "admin-key-of-the-tests"
DEADLINE_S = 30.0

ATLAS = Host(host_id="atlas", labels={"room": "attic"}, facts=HostFacts(cpu_count=8))
CHAT = Service(
    service_id="atlas/chat",
    host_id="atlas",
    operations=(Operation.CHAT,),
    endpoint="http://127.0.0.1:1",
    assets=(Asset(asset_id="qwen3-8b", aliases=("qwen",), family="qwen3", loaded=True),),
    health=Health(status=HealthStatus.HEALTHY),
)


def config_for(folder, *, keys: bool = False, **sections) -> Config:
    auth = AuthConfig(node_api_keys=(NODE_KEY,), admin_api_keys=(ADMIN_KEY,)) if keys else AuthConfig()
    given = {
        "control": ControlConfig(listen="127.0.0.1:0"),
        "storage": StorageConfig(url=f"sqlite+aiosqlite:///{folder}/hive.sqlite3"),
        "auth": auth,
    }
    return Config(**(given | sections))


@dataclass
class Running:
    address: str
    task: asyncio.Task[None]
    stop: asyncio.Event
    channel: grpc.aio.Channel

    @property
    def cluster(self):
        return cluster_service_pb2_grpc.ClusterServiceStub(self.channel)


@asynccontextmanager
async def running(config: Config) -> AsyncIterator[Running]:
    """A control plane in this process; stopped at the end, and what it raised is raised."""
    stop, address = asyncio.Event(), asyncio.get_running_loop().create_future()
    task = asyncio.create_task(app.run(config, stop=stop, ready=address.set_result))
    await asyncio.wait({task, address}, return_when=asyncio.FIRST_COMPLETED)
    if task.done():
        task.result()
    async with control_channel([address.result()]) as channel:
        try:
            yield Running(address.result(), task, stop, channel)
        finally:
            stop.set()
            async with asyncio.timeout(DEADLINE_S):
                await task


class Node:
    """One node's stream: says Hello, then what it is told to."""

    def __init__(self, channel, host: Host = ATLAS, services: tuple[Service, ...] = (CHAT,), boot_epoch: int = 1):
        self.host, self.services, self.boot_epoch = host, services, boot_epoch
        stub = node_service_pb2_grpc.NodeServiceStub(channel)
        self.stream = stub.Connect(metadata=metadata(node_key=NODE_KEY))
        self.session_id = ""

    async def hello(self) -> node_service_pb2.Welcome:
        hello = node_service_pb2.Hello(
            protocol_version=1,
            host=codec.host_to_pb(self.host),
            services=[codec.service_to_pb(service) for service in self.services],
        )
        await self.send(hello=hello)
        welcome = (await self.read()).welcome
        self.session_id = welcome.session_id
        return welcome

    async def send(self, **payload) -> None:
        await self.stream.write(
            node_service_pb2.NodeMessage(
                host_id=self.host.host_id, boot_epoch=self.boot_epoch, session_id=self.session_id, **payload
            )
        )

    async def read(self) -> node_service_pb2.ControlMessage:
        async with asyncio.timeout(DEADLINE_S):
            message = await self.stream.read()
        assert message is not grpc.aio.EOF, await self.stream.details()
        return message

    async def result(self, command_id: str, state: str, message: str = "") -> None:
        await self.send(
            command_result=node_service_pb2.CommandResult(
                command_id=command_id, state=f"COMMAND_RESULT_STATE_{state}", message=message
            )
        )

    def close(self) -> None:
        self.stream.cancel()


async def until(check, deadline_s: float = DEADLINE_S):
    """Waits until `await check()` is true, and returns it."""
    async with asyncio.timeout(deadline_s):
        while not (found := await check()):
            await asyncio.sleep(0.01)
        return found
