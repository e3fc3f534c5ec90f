from __future__ import annotations

import asyncio

import grpc
import pytest

from geniehive.config import ControlConfig
from geniehive.resources import Asset, Health, HealthStatus, Host, Operation, Service
from geniehive.v1 import cluster_service_pb2 as pb
from geniehive.v1 import node_service_pb2, resources_pb2
from tests.controlplane.edge import DEADLINE_S, Node, config_for, running, until

EMBED = Service(
    service_id="atlas/embed",
    host_id="atlas",
    operations=(Operation.EMBEDDINGS,),
    endpoint="http://127.0.0.1:2",
    assets=(Asset(asset_id="nomic"),),
    health=Health(status=HealthStatus.UNHEALTHY, reason="connection refused"),
)
ROLES = """
roles:
  - role_id: coder
    description: writes and reviews programs in Python
    routing_policy: {preferred_families: [qwen3]}
  - role_id: scribe
    operation: transcription
    fallback_roles_note: x
"""


@pytest.fixture
async def control(tmp_path):
    roles = tmp_path / "roles.yaml"
    roles.write_text(ROLES.replace("    fallback_roles_note: x\n", ""))
    async with running(config_for(tmp_path, roles_path=str(roles))) as control:
        yield control


@pytest.fixture
async def node(control):
    from tests.controlplane.edge import CHAT

    node = Node(control.channel, services=(CHAT, EMBED))
    await node.hello()
    yield node
    node.close()


async def refused(call) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await call
    return raised.value.code(), raised.value.details()


async def test_hosts_services_and_roles_are_listed_by_id(control, node):
    hosts = (await control.cluster.ListHosts(pb.ListHostsRequest())).hosts
    services = (await control.cluster.ListServices(pb.ListServicesRequest())).services
    roles = (await control.cluster.ListRoles(pb.ListRolesRequest())).roles
    assert [host.host_id for host in hosts] == ["atlas"]
    assert hosts[0].lease == resources_pb2.LEASE_STATE_UP
    assert [service.service_id for service in services] == ["atlas/chat", "atlas/embed"]
    assert [role.role_id for role in roles] == ["coder", "scribe"]


async def test_services_are_chosen_by_host_and_operation(control, node):
    async def ids(**wanted):
        found = await control.cluster.ListServices(pb.ListServicesRequest(**wanted))
        return [service.service_id for service in found.services]

    assert await ids(operation=resources_pb2.OPERATION_EMBEDDINGS) == ["atlas/embed"]
    assert await ids(operation=resources_pb2.OPERATION_IMAGE) == []
    assert await ids(host_id="atlas") == ["atlas/chat", "atlas/embed"]
    code, words = await refused(control.cluster.ListServices(pb.ListServicesRequest(host_id="atals")))
    assert (code, "did you mean 'atlas'?" in words) == (grpc.StatusCode.NOT_FOUND, True)


async def test_one_thing_is_found_or_near_misses_are_named(control, node):
    found = await control.cluster.GetHost(pb.GetHostRequest(host_id="atlas"))
    assert [service.service_id for service in found.services] == ["atlas/chat", "atlas/embed"]
    not_found = grpc.StatusCode.NOT_FOUND
    calls = control.cluster
    assert await refused(calls.GetHost(pb.GetHostRequest(host_id="atlsa"))) == (
        not_found,
        "no host 'atlsa'; did you mean 'atlas'?",
    )
    assert await refused(calls.GetService(pb.GetServiceRequest(service_id="atlas/chats"))) == (
        not_found,
        "no service 'atlas/chats'; did you mean 'atlas/chat', 'atlas/embed'?",
    )
    assert await refused(calls.GetRole(pb.GetRoleRequest(role_id="zzzzzz"))) == (
        not_found,
        "no role 'zzzzzz'; known are coder, scribe",
    )
    assert await refused(calls.GetCommand(pb.GetCommandRequest(command_id="c"))) == (
        not_found,
        "no command 'c'; no command is known at all",
    )
    code, _ = await refused(calls.GetHost(pb.GetHostRequest()))
    assert code is grpc.StatusCode.INVALID_ARGUMENT


async def test_the_cluster_in_numbers(control, node):
    found = await control.cluster.GetCluster(pb.GetClusterRequest())
    numbers = (found.hosts_up, found.hosts_total, found.services_healthy, found.services_total, found.gateways)
    assert numbers == (1, 1, 1, 2, 0)
    assert found.version
    assert found.uptime_seconds > 0


async def test_resolve_says_candidates_and_why_others_were_dropped(control, node):
    async def resolved(model):
        return await control.cluster.ResolveRoute(pb.ResolveRouteRequest(model=model))

    by_alias = await resolved("qwen")
    assert (by_alias.match, [each.asset_id for each in by_alias.candidates]) == ("alias", ["qwen3-8b"])
    assert list(by_alias.candidates[0].reasons) == ["service is healthy", "model is loaded"]
    by_role = await resolved("coder")
    assert (by_role.match, by_role.role_id) == ("role", "coder")
    down = await resolved("nomic")
    assert (list(down.candidates), down.dropped[0].service_id) == ([], "atlas/embed")
    assert "connection refused" in down.dropped[0].reason
    code, words = await refused(resolved("qwen3-8c"))
    assert (code, "did you mean 'qwen3-8b'" in words) == (grpc.StatusCode.NOT_FOUND, True)
    assert (await refused(resolved("")))[0] is grpc.StatusCode.INVALID_ARGUMENT


async def test_match_finds_roles_and_services_by_the_words_of_a_task(control, node):
    async def matched(*tasks, **wanted):
        found = await control.cluster.MatchRoutes(pb.MatchRoutesRequest(tasks=tasks, **wanted))
        return [(each.kind, each.name) for each in found.matches]

    assert await matched("review a Python program") == [("role", "coder")]
    both = await matched("talk to atlas", include_direct_services=True)
    assert both == [("service", "atlas/chat"), ("role", "coder")]
    assert await matched("transcribe a recording") == []  # a role suits, and no service can answer for it
    assert await matched("review", operation=resources_pb2.OPERATION_IMAGE) == []
    assert await matched("review", modality="audio") == []
    assert (await refused(matched(" ")))[0] is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_load_is_stored_sent_and_followed_to_its_end(control, node):
    events = control.cluster.WatchEvents(pb.WatchEventsRequest(host_id="atlas"))
    await events.initial_metadata()
    request = pb.LoadModelRequest(service_id="atlas/chat", asset_id="qwen", context_size=4096, command_id="mine")
    answer = (await control.cluster.LoadModel(request)).command
    assert (answer.command_id, answer.asset_id, answer.kind) == ("mine", "qwen3-8b", "load")
    order = (await node.read()).command
    assert (order.command_id, order.load.asset_id, order.load.context_size) == ("mine", "qwen3-8b", 4096)
    await node.result("mine", "SUCCEEDED", "loaded in 3 s")

    async def ended():
        found = (await control.cluster.GetCommand(pb.GetCommandRequest(command_id="mine"))).command
        return found if found.state == pb.COMMAND_STATE_SUCCEEDED else None

    assert (await until(ended)).message == "loaded in 3 s"
    async with asyncio.timeout(DEADLINE_S):
        while (await events.read()).kind != "command.succeeded":
            pass
    events.cancel()


async def test_an_order_that_is_repeated_is_one_order(control, node):
    request = pb.ProbeServiceRequest(service_id="atlas/chat", command_id="again")
    first, second = [(await control.cluster.ProbeService(request)).command for _ in range(2)]
    assert first == second
    await node.send(inventory=node_service_pb2.Inventory())  # the service is gone
    await until(lambda: gone(control))
    assert (await control.cluster.ProbeService(request)).command.command_id == "again"
    other = pb.ProbeServiceRequest(service_id="atlas/chat")
    assert (await refused(control.cluster.ProbeService(other)))[0] is grpc.StatusCode.NOT_FOUND
    assert len((await control.cluster.ListCommands(pb.ListCommandsRequest())).commands) == 1


async def gone(control):
    return not (await control.cluster.ListServices(pb.ListServicesRequest())).services


async def test_an_id_that_ordered_something_else_is_a_conflict(control, node):
    await control.cluster.ProbeService(pb.ProbeServiceRequest(service_id="atlas/chat", command_id="c"))
    unload = pb.UnloadModelRequest(service_id="atlas/chat", asset_id="qwen", command_id="c")
    code, words = await refused(control.cluster.UnloadModel(unload))
    assert (code, "choose a new id" in words) == (grpc.StatusCode.FAILED_PRECONDITION, True)


async def test_orders_without_an_id_get_one_each_and_are_listed_newest_first(control, node):
    request = pb.ProbeServiceRequest(service_id="atlas/chat")
    ids = [(await control.cluster.ProbeService(request)).command.command_id for _ in range(3)]
    assert len(set(ids)) == 3
    listed = (await control.cluster.ListCommands(pb.ListCommandsRequest(limit=2, host_id="atlas"))).commands
    assert {each.command_id for each in listed} < set(ids)
    assert len(listed) == 2
    assert not (await control.cluster.ListCommands(pb.ListCommandsRequest(host_id="nobody"))).commands


async def test_an_order_that_makes_no_sense_is_refused_with_near_misses(control, node):
    unknown = pb.LoadModelRequest(service_id="atlas/chat", asset_id="qwen3-8c")
    assert await refused(control.cluster.LoadModel(unknown)) == (
        grpc.StatusCode.NOT_FOUND,
        "no asset 'qwen3-8c'; did you mean 'qwen3-8b', 'qwen'?",
    )
    long = pb.ProbeServiceRequest(service_id="atlas/chat", command_id="x" * 300)
    assert (await refused(control.cluster.ProbeService(long)))[0] is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_drained_host_leaves_the_routes_until_it_is_resumed(control, node):
    drained = (await control.cluster.DrainHost(pb.DrainHostRequest(host_id="atlas"))).host
    assert drained.availability == resources_pb2.AVAILABILITY_DRAINING
    assert (await node.read()).command.drain.draining is True
    route = await control.cluster.ResolveRoute(pb.ResolveRouteRequest(model="qwen"))
    assert (list(route.candidates), "draining" in route.dropped[0].reason) == ([], True)
    resumed = (await control.cluster.ResumeHost(pb.ResumeHostRequest(host_id="atlas"))).host
    assert resumed.availability == resources_pb2.AVAILABILITY_AVAILABLE
    assert (await control.cluster.ResolveRoute(pb.ResolveRouteRequest(model="qwen"))).candidates


FORGET = pb.ForgetHostRequest(host_id="atlas")


async def test_a_host_that_is_up_is_not_forgotten(control, node):
    code, words = await refused(control.cluster.ForgetHost(FORGET))
    assert (code, "is up" in words) == (grpc.StatusCode.FAILED_PRECONDITION, True)


async def test_a_host_that_is_not_up_is_forgotten_with_its_services(tmp_path):
    brief = ControlConfig(listen="127.0.0.1:0", lease_ttl_s=0.1, lease_grace_s=60, heartbeat_interval_s=0.05)
    async with running(config_for(tmp_path, control=brief)) as control:
        await Node(control.channel).hello()

        async def stale():
            found = await control.cluster.GetCluster(pb.GetClusterRequest())
            return found.hosts_total and not found.hosts_up

        await until(stale)
        await control.cluster.ForgetHost(FORGET)
        assert not (await control.cluster.ListHosts(pb.ListHostsRequest())).hosts
        assert not (await control.cluster.ListServices(pb.ListServicesRequest())).services
        assert (await refused(control.cluster.ForgetHost(FORGET)))[0] is grpc.StatusCode.NOT_FOUND


async def test_events_of_other_hosts_are_left_out_where_one_is_asked_for(control, node):
    events = control.cluster.WatchEvents(pb.WatchEventsRequest(host_id="boreas"))
    await events.initial_metadata()
    await control.cluster.DrainHost(pb.DrainHostRequest(host_id="atlas"))
    other = Node(control.channel, Host(host_id="boreas"), ())
    await other.hello()
    async with asyncio.timeout(DEADLINE_S):
        first = await events.read()
    assert (first.kind, first.host_id) == ("host.up", "boreas")
    assert first.at_ms > 0
    other.close()
    events.cancel()
