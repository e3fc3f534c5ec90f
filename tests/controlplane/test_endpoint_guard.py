"""What the control plane lets into the cluster of what nodes announce, over real gRPC where the stream matters."""

from __future__ import annotations

import ipaddress
import logging

import pytest

from controlplane.endpoint_guard import EndpointGuard, local_addresses
from controlplane.endpoint_policy import EndpointPolicy
from geniehive.resources import Service
from tests.controlplane.plane import Node, plane

ATLAS = ipaddress.ip_address("10.0.0.2")


def service(endpoint: str, name: str = "atlas/chat") -> Service:
    return Service(service_id=name, host_id="atlas", endpoint=endpoint)


async def vetted(endpoint: str, peer: str | None = "10.0.0.2") -> Service:
    guard = EndpointGuard(EndpointPolicy())
    (found,) = await guard.vet("atlas", [service(endpoint)], None if peer is None else ipaddress.ip_address(peer))
    return found


async def test_a_node_of_another_host_cannot_send_gateways_to_their_own_loopback():
    found = await vetted("http://127.0.0.1:8801")
    assert (found.endpoint, found.reachable) == ("", False)
    assert "control.allowed_endpoints" in found.notes[0]


async def test_a_node_of_this_machine_may_announce_all_its_addresses():
    for peer in (None, "127.0.0.1", "::1"):
        for endpoint in ("http://127.0.0.1:1", "http://127.9.9.9:1", "http://[::1]:1", "http://localhost:1"):
            assert (await vetted(endpoint, peer)).endpoint == endpoint
    for own in local_addresses():
        if not own.is_link_local:
            endpoint = f"http://[{own}]:1" if own.version == 6 else f"http://{own}:1"
            assert (await vetted(endpoint, "127.0.0.1")).endpoint == endpoint


async def test_localhost_of_another_host_is_refused():
    assert not (await vetted("http://localhost:11434")).reachable


async def test_a_name_that_does_not_resolve_is_refused_and_the_rest_stays():
    guard = EndpointGuard(EndpointPolicy())
    first, second = await guard.vet(
        "atlas", [service("http://no.such.name.invalid"), service("http://10.0.0.2:1")], ATLAS
    )
    assert (first.reachable, second.reachable) == (False, True)


async def test_a_refusal_is_logged_once_without_line_breaks_and_counted(caplog: pytest.LogCaptureFixture):
    guard = EndpointGuard(EndpointPolicy())
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            await guard.vet("atlas", [service("http://169.254.169.254/latest")], ATLAS)
    assert guard.refused == 3
    assert len(caplog.records) == 1
    assert "169.254.169.254" in caplog.text


async def test_an_engine_that_the_node_itself_calls_unreachable_is_left_as_it_is():
    guard = EndpointGuard(EndpointPolicy())
    before = Service(service_id="s", host_id="atlas", endpoint="http://127.0.0.1:1", reachable=False, notes=("why",))
    assert await guard.vet("atlas", [before], ATLAS) == (before,)


@pytest.mark.parametrize(
    "endpoint", ["file:///etc/passwd", "http://169.254.169.254", "http://user@127.0.0.1", "http://2130706433"]
)
async def test_the_stream_stays_and_operators_see_why_the_service_is_not_used(endpoint: str):
    async with plane() as (loop, channel):
        node = Node(channel)
        assert (await node.hello(service(endpoint), service("http://127.0.0.1:11434", "atlas/other"))).HasField(
            "welcome"
        )
        refused = loop.snapshot.services["atlas/chat"]
        assert (refused.endpoint, refused.reachable) == ("", False)
        assert refused.notes
        assert loop.snapshot.services["atlas/other"].reachable
