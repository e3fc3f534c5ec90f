"""A node agent moved by hand: says Hello for one host, and then just the heartbeats that a benchmark wants."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

from grpc.aio import EOF

from geniehive import codec, dial
from geniehive.resources import Asset, Health, HealthStatus, Host, Operation, Service, ServiceState
from geniehive.v1 import node_service_pb2 as pb
from geniehive.v1 import node_service_pb2_grpc as rpc
from kit.processes import BenchError
from kit.stack import MODEL, NODE_KEY

_WELCOME_S = 10


def chat_service(service_id: str, host_id: str, port: int, health: HealthStatus) -> Service:
    """A service with the benchmarks' model."""
    return Service(
        service_id=service_id,
        host_id=host_id,
        operations=(Operation.CHAT,),
        endpoint=f"http://127.0.0.1:{port}",
        assets=(Asset(asset_id=MODEL, loaded=True),),
        health=Health(status=health),
    )


class HandNode:
    """One Connect stream."""

    def __init__(self, control_port: int, host_id: str, services: Sequence[Service]) -> None:
        self._channel = dial.control_channel([f"127.0.0.1:{control_port}"])
        self._host = Host(host_id=host_id)
        self._services = services
        self._boot_epoch = time.time_ns() // 1_000_000
        self._session_id = ""
        self._sequence = 0
        self._reader: asyncio.Task[None] | None = None
        self._call: Any = None

    async def __aenter__(self) -> Self:
        stub = rpc.NodeServiceStub(self._channel)
        self._call = stub.Connect(metadata=dial.metadata(node_key=NODE_KEY))
        hello = pb.Hello(
            protocol_version=1,
            host=codec.host_to_pb(self._host),
            services=[codec.service_to_pb(each) for each in self._services],
        )
        await self._call.write(self._message(hello=hello))
        answer = await asyncio.wait_for(self._call.read(), _WELCOME_S)
        if answer.WhichOneof("payload") != "welcome":
            raise BenchError(f"the control plane did not welcome the node: {answer}")
        self._session_id = answer.welcome.session_id
        self._reader = asyncio.create_task(self._read())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        if self._reader is not None:
            self._reader.cancel()
            with suppress(asyncio.CancelledError):
                await self._reader
        self._call.cancel()
        await self._channel.close()

    async def heartbeat(self, health: dict[str, HealthStatus]) -> None:
        """Send the full state of the host."""
        self._sequence += 1
        states = [
            codec.service_state_to_pb(ServiceState(service_id=name, health=Health(status=status)))
            for name, status in health.items()
        ]
        await self._call.write(self._message(heartbeat=pb.Heartbeat(sequence=self._sequence, services=states)))

    def _message(self, **payload: Any) -> pb.NodeMessage:
        return pb.NodeMessage(
            host_id=self._host.host_id, boot_epoch=self._boot_epoch, session_id=self._session_id, **payload
        )

    async def _read(self) -> None:
        """Acks are read so that they do not pile up; a refusal ends the benchmark."""
        while (message := await self._call.read()) is not EOF:
            if message.WhichOneof("payload") == "reject":
                raise BenchError(f"the control plane refused a heartbeat: {message.reject.message}")
