"""A channel that lives through renewals: calls that run stay where they began, new ones show the new certificate."""

from __future__ import annotations

import asyncio

import grpc.aio
import pytest

from gateway.control_link import ControlLink
from geniehive.identity import Identity, Kind
from geniehive.v1 import cluster_service_pb2 as pb
from geniehive.v1 import cluster_service_pb2_grpc
from tests.controlplane.tls_edge import secure, tls_config


class Held:
    """Credentials that a test changes."""

    membership = None

    def __init__(self, credentials):
        self.credentials = credentials

    def current(self):
        return self.credentials


async def test_a_call_that_runs_outlives_the_certificate_that_it_began_with(tmp_path):
    async with secure(tls_config(tmp_path)) as plane:
        source = Held(await plane.member("gateway", "front"))
        async with ControlLink([plane.address], source) as link:
            cluster = cluster_service_pb2_grpc.ClusterServiceStub(link.channel)
            watching = cluster.WatchEvents(pb.WatchEventsRequest())
            await watching.wait_for_connection()
            first = link._dialled
            await cluster.ListHosts(pb.ListHostsRequest())
            assert link._dialled is first
            source.credentials = await plane.member("gateway", "other")
            await cluster.ListHosts(pb.ListHostsRequest())
            assert link._dialled is not first
            assert link._dialled.shown.leaf.identity == Identity(Kind.GATEWAY, "other")
            del first
            await plane.member("node", "atlas")  # which is told to those who watch
            async with asyncio.timeout(20):
                while (await watching.read()).kind != "member.joined":
                    pass
            watching.cancel()


async def test_after_its_end_nothing_is_called(tmp_path):
    async with secure(tls_config(tmp_path)) as plane:
        async with ControlLink([plane.address], Held(plane.admin)) as link:
            cluster = cluster_service_pb2_grpc.ClusterServiceStub(link.channel)
            await cluster.ListHosts(pb.ListHostsRequest())
        with pytest.raises((grpc.aio.UsageError, asyncio.CancelledError, grpc.aio.AioRpcError)):
            await cluster.ListHosts(pb.ListHostsRequest())
