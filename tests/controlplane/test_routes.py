"""What the control plane tells operators of routes."""

import pytest
from msgspec.structs import replace

from controlplane.routes import resolve_route
from geniehive.config import RoutingConfig
from geniehive.resources import Observed, Snapshot
from geniehive.v1 import cluster_service_pb2 as pb
from tests.geniehive.routing.fleet import host, service


def snapshot(*services):
    return Snapshot(hosts={"h1": host()}, services={each.service_id: each for each in services})


@pytest.mark.parametrize(
    ("strategy", "first"),
    [("scored", "fast"), ("predicted", "fast"), ("least_loaded", "idle"), ("round_robin", "fast")],
)
def test_the_control_plane_tells_the_order_of_the_strategy(strategy, first):
    shape = snapshot(
        service(
            "fast", observed=Observed(in_flight=1, slots=4, tokens_per_second=90.0, prompt_tokens_per_second=4000.0)
        ),
        service("idle", observed=Observed(in_flight=0, slots=4, tokens_per_second=4.0, prompt_tokens_per_second=50.0)),
    )
    routing = RoutingConfig(default_strategy=strategy)
    told = resolve_route(pb.ResolveRouteRequest(model="qwen"), shape, routing)
    assert told.strategy == strategy
    assert told.candidates[0].service_id == first
    busy = replace(shape.services["fast"], observed=Observed(running=9, waiting=30, slots=1, tokens_per_second=90.0))
    told = resolve_route(
        pb.ResolveRouteRequest(model="qwen"), replace(shape, services={**shape.services, "fast": busy}), routing
    )
    if strategy != "round_robin":
        assert told.candidates[0].service_id == "idle", "what is open there counts"
