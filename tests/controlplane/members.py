"""What members of a secure control plane do in tests: a call, a Hello, and how they are refused."""

from __future__ import annotations

import asyncio
from pathlib import Path

import grpc
import grpc.aio
import pytest

from geniehive.identity import Identity, Kind
from geniehive.v1 import (
    cluster_service_pb2,
    cluster_service_pb2_grpc,
    node_service_pb2_grpc,
)
from geniehive.v1 import node_service_pb2 as node_pb

ATLAS = Identity(Kind.HOST, "atlas")


async def refusal(call) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await call
    return raised.value


def hosts(channel, **metadata: str):
    stub = cluster_service_pb2_grpc.ClusterServiceStub(channel)
    return stub.ListHosts(cluster_service_pb2.ListHostsRequest(), metadata=tuple(metadata.items()), timeout=20)


async def hello(channel, host_id: str) -> node_pb.ControlMessage:
    """The answer to a node's Hello."""
    stream = node_service_pb2_grpc.NodeServiceStub(channel).Connect()
    await stream.write(node_pb.NodeMessage(host_id=host_id, boot_epoch=1, hello=node_pb.Hello(protocol_version=1)))
    async with asyncio.timeout(20):
        message = await stream.read()
    if message is grpc.aio.EOF:
        raise await refusal(stream)
    return message


async def silence(channel) -> None:
    """A node's stream on which nothing is said. With a message on its way grpc may lose what it is refused with."""
    stream = node_service_pb2_grpc.NodeServiceStub(channel).Connect()
    await until_end(stream)
    await stream


def database_of(plane) -> Path:
    """The control plane's database."""
    (found,) = plane.folder.parent.glob("*.sqlite3")
    return found


async def until_end(stream) -> None:
    async with asyncio.timeout(20):
        while await stream.read() is not grpc.aio.EOF:
            pass
