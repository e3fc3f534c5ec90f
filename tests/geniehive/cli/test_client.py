"""How a control plane's refusals reach the one who asked; the peer is a real gRPC server with the real doorway."""

import contextlib

import grpc.aio
import pytest

from controlplane.rpc_errors import ErrorInterceptor
from geniehive import errors
from geniehive.cli import client
from geniehive.cli.client import Target
from geniehive.v1 import cluster_service_pb2 as pb
from geniehive.v1 import cluster_service_pb2_grpc


class Refusing(cluster_service_pb2_grpc.ClusterServiceServicer):
    def __init__(self, error):
        self.error = error

    async def DrainHost(self, request, context):
        raise self.error


@contextlib.asynccontextmanager
async def refusing(error):
    server = grpc.aio.server(interceptors=[ErrorInterceptor()])
    cluster_service_pb2_grpc.add_ClusterServiceServicer_to_server(Refusing(error), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield Target(addresses=(f"127.0.0.1:{port}",))
    finally:
        await server.stop(None)


async def drain(where):
    async def talk(cluster):
        await cluster.call("DrainHost", pb.DrainHostRequest(host_id="atlas"))

    await client._conversation(where, talk)


@pytest.mark.parametrize(
    "error",
    [
        errors.StoreError("the disk is full: make room"),
        errors.NotReady("the control plane is stopping: try again in a moment"),
        errors.NoServiceAvailable("no service can answer now"),
        errors.Conflict("the command id was used"),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_what_a_control_plane_answers_is_said_in_its_own_words(error):
    async with refusing(error) as where:
        with pytest.raises(type(error)) as raised:
            await drain(where)
    assert raised.value.message == error.message


async def test_a_control_plane_that_is_not_there_is_called_unreachable(unused_port):
    with pytest.raises(errors.ControlPlaneUnreachable, match="start it"):
        await drain(Target(addresses=(f"127.0.0.1:{unused_port}",)))


def test_an_address_that_is_none_is_refused_with_what_is_expected():
    with pytest.raises(errors.ConfigError, match="--control: expected host:port"):
        client.target(None, "junk", "")


def test_a_status_without_our_code_is_a_silence():
    found = client.translate("UNAVAILABLE", "Socket closed", Target(addresses=("h:1",)))
    assert isinstance(found, errors.ControlPlaneUnreachable)
