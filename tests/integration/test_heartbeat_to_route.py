"""A heartbeat that changes routing is published by itself, at once, and the gateway chooses by it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import pytest
from aiohttp import web

from geniehive.resources import Asset, Health, HealthStatus, Operation, Service
from geniehive.v1 import routing_service_pb2 as pb
from geniehive.v1 import routing_service_pb2_grpc as rpc
from tests.integration.cluster import Cluster, running_cluster
from tests.integration.hand_node import HandNode, Stream
from tests.integration.upstreams import serving

SICK = Health(status=HealthStatus.UNHEALTHY, reason="out of memory")


@pytest.fixture(scope="module")
def engine() -> Iterator[str]:
    async def chat(_request: web.Request) -> web.Response:
        choice = {"index": 0, "message": {"role": "assistant", "content": "ok"}, "finish_reason": "stop"}
        return web.json_response({"id": "c", "object": "chat.completion", "model": "m", "choices": [choice]})

    with serving({("POST", "/v1/chat/completions"): chat}) as url:
        yield url


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with running_cluster(tmp_path_factory.mktemp("beat"), routing={"default_strategy": "round_robin"}) as cluster:
        cluster.start_control()
        cluster.start_gateway()
        yield cluster


@pytest.fixture
def node(cluster: Cluster, engine: str) -> Iterator[HandNode]:
    services = tuple(
        Service(
            service_id=f"hand/{name}",
            host_id="hand",
            operations=(Operation.CHAT,),
            endpoint=engine,
            assets=(Asset(asset_id="model", loaded=True),),
        )
        for name in ("left", "right")
    )
    with closing(HandNode(cluster.channel, "hand", services)) as node:
        node.hello()
        node.beat()
        cluster.wait_for(lambda: chosen(cluster) == {"hand/left", "hand/right"})
        yield node


def chosen(cluster: Cluster) -> set[str]:
    """The services that the gateway would ask now."""
    route = cluster.http.get("/v1/cluster/routes/resolve", params={"model": "model"}).json()
    return {candidate["service_id"] for candidate in route.get("candidates", [])}


def test_gateway_leaves_a_service_and_returns_to_it(cluster: Cluster, node: HandNode) -> None:
    node.beat(left=SICK)
    cluster.wait_for(lambda: chosen(cluster) == {"hand/right"})
    assert {cluster.chat("model").headers["x-geniehive-service"] for _ in range(4)} == {"hand/right"}
    node.beat(left=SICK, right=SICK)
    cluster.wait_for(lambda: chosen(cluster) == set())
    answer = cluster.chat("model")
    assert answer.status_code == 503
    assert "out of memory" in answer.json()["error"]["message"]
    node.beat()
    cluster.wait_for(lambda: len(chosen(cluster)) == 2)
    assert {cluster.chat("model").headers["x-geniehive-service"] for _ in range(4)} == {"hand/left", "hand/right"}


def test_change_of_health_does_not_wait_for_the_batch_of_measurements(cluster: Cluster, node: HandNode) -> None:
    hello = pb.GatewayMessage(gateway_id="test", hello=pb.GatewayHello(protocol_version=1))
    with closing(Stream(rpc.RoutingServiceStub(cluster.channel).Watch)) as watch:
        watch.send(hello)
        revision = watch.next("snapshot").revision
        node.beat()
        while running(watch.next("observed"), "hand/right") != node.sequence:
            pass
        # Nothing waits now. The next heartbeat moves both lanes: health of one service, measurements of both.
        node.beat(left=SICK)
        update = next(one for one in iter(watch.next, None) if running(one, "hand/right") in {None, node.sequence})
        assert update.WhichOneof("payload") == "delta", "the measurements came first"
        assert update.revision == revision + 1
        (service,) = update.delta.services
        assert service.service_id == "hand/left"
        assert service.health.reason == "out of memory"
        assert running(watch.next("observed"), "hand/right") == node.sequence


def running(update: pb.RoutingUpdate, service_id: str) -> int | None:
    """What a batch of measurements says of a service; None for anything else."""
    if update.WhichOneof("payload") != "observed":
        return None
    return next((one.observed.running for one in update.observed.services if one.service_id == service_id), 0)


def test_heartbeats_that_change_no_route_leave_the_revision_alone(cluster: Cluster, node: HandNode) -> None:
    before = cluster.health()["revision"]
    for _ in range(5):
        node.beat()
    cluster.wait_for(lambda: observed_running(cluster) >= 6)
    assert cluster.health()["revision"] == before


def observed_running(cluster: Cluster) -> int:
    return min(one["observed"]["running"] for one in cluster.http.get("/v1/cluster/services").json()["data"])
