"""The agent's core: sessions, heartbeats, inventories."""

import math

import pytest
from msgspec.structs import replace

from geniehive.resources import (
    Asset,
    Command,
    CommandKind,
    CommandState,
    Health,
    HealthStatus,
    Host,
    HostObserved,
    Observed,
    Service,
)
from nodeagent import events as ev
from nodeagent.agent import GREETING_PATIENCE_S, HELLO_RETRY_S, TRANSITIONS, Agent, SessionState
from nodeagent.events import RejectReason

HEALTHY = Health(status=HealthStatus.HEALTHY)
HOST = Host(host_id="atlas", boot_epoch=7)
CHAT = Service(
    service_id="atlas/chat",
    host_id="atlas",
    endpoint="http://127.0.0.1:1",
    health=HEALTHY,
    assets=(Asset(asset_id="m", loaded=True),),
)
WELCOME = ev.Welcomed(session_id="s1", lease_ttl_s=15, heartbeat_interval_s=5)


def kinds(effects):
    return [type(effect) for effect in effects]


def welcomed(*services, now=0.0, agent=None):
    agent = agent or Agent(HOST)
    for service in services:
        agent.apply(ev.Looked(service), now)
    agent.apply(ev.Connected(), now)
    agent.apply(WELCOME, now)
    return agent


def test_a_stream_begins_with_a_hello_of_all_services():
    agent = Agent(HOST)
    other = replace(CHAT, service_id="atlas/a")
    assert agent.apply(ev.Looked(CHAT), 0) == []
    assert agent.apply(ev.Looked(other), 0) == []
    assert agent.apply(ev.Connected(), 0) == [ev.SendHello(HOST, (other, CHAT), ())]


def test_a_welcome_is_answered_by_a_heartbeat_with_the_full_state():
    agent = Agent(HOST)
    agent.apply(ev.HostMeasured(HostObserved(ram_available_bytes=5)), 0)
    agent.apply(ev.Looked(replace(CHAT, observed=Observed(running=2))), 0)
    agent.apply(ev.Connected(), 0)
    (beat,) = agent.apply(WELCOME, 0)
    assert (beat.session_id, beat.sequence, beat.host) == ("s1", 1, HostObserved(ram_available_bytes=5))
    assert [(one.service_id, one.health, one.observed.running) for one in beat.services] == [("atlas/chat", HEALTHY, 2)]
    assert [(one.asset_id, one.loaded) for one in beat.services[0].assets] == [("m", True)]


def test_heartbeats_go_out_at_the_interval_of_the_welcome_and_count_up():
    agent = welcomed(CHAT)
    assert agent.due == 5
    assert agent.apply(ev.Tick(), 4.9) == []
    (beat,) = agent.apply(ev.Tick(), 5)
    assert beat.sequence == 2
    assert agent.due == 10


def test_an_interval_from_the_config_wins():
    assert welcomed(agent=Agent(HOST, heartbeat_interval_s=2)).due == 2


def test_an_interval_that_would_lose_the_lease_is_shortened_and_said():
    agent = Agent(HOST, heartbeat_interval_s=60)
    agent.apply(ev.Connected(), 0)
    effects = agent.apply(WELCOME, 0)
    assert kinds(effects) == [ev.Say, ev.SendHeartbeat]
    assert "node.heartbeat_interval_s" in effects[0].message
    assert agent.due == 5


@pytest.mark.parametrize(
    "after",
    [
        replace(CHAT, health=Health(status=HealthStatus.UNHEALTHY, reason="refused")),
        replace(CHAT, assets=(Asset(asset_id="m", loaded=False),)),
    ],
    ids=["health", "loaded set"],
)
def test_what_changes_routes_goes_out_at_once(after):
    agent = welcomed(CHAT)
    (beat,) = agent.apply(ev.Looked(after), 1)
    assert isinstance(beat, ev.SendHeartbeat)
    assert beat.services[0].health == after.health
    assert beat.services[0].assets[0].loaded == after.assets[0].loaded
    assert agent.due == 6


def test_measurements_wait_for_the_next_heartbeat():
    agent = welcomed(CHAT)
    measured = replace(CHAT, observed=Observed(running=3), assets=(Asset(asset_id="m", loaded=True, vram_bytes=9),))
    assert agent.apply(ev.Looked(measured), 1) == []
    assert agent.apply(ev.HostMeasured(HostObserved(cpu_utilization=0.5)), 1) == []
    (beat,) = agent.apply(ev.Tick(), 5)
    assert (beat.services[0].observed.running, beat.services[0].assets[0].vram_bytes) == (3, 9)
    assert beat.host.cpu_utilization == 0.5


def test_a_change_of_shape_is_an_inventory():
    agent = welcomed(CHAT)
    more = replace(CHAT, assets=(*CHAT.assets, Asset(asset_id="n")))
    assert agent.apply(ev.Looked(more), 1) == [ev.SendInventory("s1", (more,))]
    new = replace(CHAT, service_id="atlas/new")
    assert agent.apply(ev.Looked(new), 1) == [ev.SendInventory("s1", (more, new))]
    assert agent.apply(ev.ServiceGone("atlas/new"), 1) == [ev.SendInventory("s1", (more,))]
    assert agent.apply(ev.ServiceGone("atlas/new"), 1) == []


def test_a_shape_that_changed_between_hello_and_welcome_is_told_after_it():
    agent = Agent(HOST)
    agent.apply(ev.Connected(), 0)
    assert agent.apply(ev.Looked(CHAT), 0) == []
    assert kinds(agent.apply(WELCOME, 0)) == [ev.SendInventory, ev.SendHeartbeat]


def test_an_unknown_session_is_answered_by_one_hello_on_the_same_stream():
    agent = welcomed(CHAT)
    reject = ev.Rejected(RejectReason.UNKNOWN_SESSION)
    assert kinds(agent.apply(reject, 1)) == [ev.SendHello]
    assert agent.apply(reject, 1) == []
    (beat,) = agent.apply(replace_session(WELCOME, "s2"), 2)
    assert (beat.session_id, beat.sequence) == ("s2", 1)


def replace_session(welcome, session_id):
    return ev.Welcomed(
        session_id=session_id, lease_ttl_s=welcome.lease_ttl_s, heartbeat_interval_s=welcome.heartbeat_interval_s
    )


def test_a_fenced_agent_stops_and_says_that_another_one_speaks_for_the_host():
    agent = welcomed(CHAT)
    (stop,) = agent.apply(ev.Rejected(RejectReason.FENCED, "give it another node.host_id"), 1)
    assert isinstance(stop, ev.Stop)
    assert "another agent speaks for host 'atlas'" in stop.message
    assert "node.host_id" in stop.message
    assert agent.view.state is SessionState.STOPPED
    assert agent.apply(ev.Connected(), 2) == []


def test_no_common_protocol_version_stops_the_agent():
    agent = Agent(HOST)
    agent.apply(ev.Connected(), 0)
    (stop,) = agent.apply(ev.Rejected(RejectReason.PROTOCOL_VERSION, "update the node agent"), 0)
    assert isinstance(stop, ev.Stop)
    assert "update the node agent" in stop.message


def test_a_control_plane_that_does_not_serve_means_reconnect():
    agent = welcomed(CHAT)
    assert kinds(agent.apply(ev.Rejected(RejectReason.NOT_SERVING), 1)) == [ev.Reconnect]


def test_an_invalid_message_is_said_and_the_stream_stays():
    agent = welcomed(CHAT)
    (said,) = agent.apply(ev.Rejected(RejectReason.INVALID, "no such thing"), 1)
    assert isinstance(said, ev.Say)
    assert "no such thing" in said.message
    assert agent.view.state is SessionState.WELCOMED


def test_an_invalid_hello_is_tried_again_later():
    agent = Agent(HOST)
    agent.apply(ev.Connected(), 0)
    agent.apply(ev.Rejected(RejectReason.INVALID, "twice"), 0)
    assert agent.due == HELLO_RETRY_S
    assert kinds(agent.apply(ev.Tick(), HELLO_RETRY_S)) == [ev.SendHello]


def test_a_hello_without_an_answer_gives_up_the_stream():
    agent = Agent(HOST)
    agent.apply(ev.Connected(), 0)
    assert kinds(agent.apply(ev.Tick(), GREETING_PATIENCE_S)) == [ev.Reconnect]
    assert agent.due == math.inf


def test_heartbeats_without_acks_give_up_the_stream_and_acks_keep_it():
    agent = welcomed(CHAT)
    for now in (5, 10, 15):
        agent.apply(ev.Acked(1), now)
        assert kinds(agent.apply(ev.Tick(), now)) == [ev.SendHeartbeat]
    assert kinds(agent.apply(ev.Tick(), 20)) == [ev.SendHeartbeat]
    assert kinds(agent.apply(ev.Tick(), 30)) == [ev.Reconnect]


def test_after_a_lost_stream_nothing_is_sent_until_the_next_one():
    agent = welcomed(CHAT)
    agent.apply(ev.Disconnected(), 1)
    assert agent.due == math.inf
    assert agent.apply(ev.Looked(replace(CHAT, health=Health())), 2) == []
    assert kinds(agent.apply(ev.Connected(), 3)) == [ev.SendHello]


def test_a_new_address_means_a_new_hello():
    agent = welcomed(CHAT)
    (hello,) = agent.apply(ev.HostFound(replace(HOST, address="10.0.0.5")), 1)
    assert hello.host.address == "10.0.0.5"
    agent.apply(WELCOME, 1)
    assert agent.apply(ev.HostFound(replace(HOST, address="10.0.0.5")), 2) == []


def test_measurements_of_the_host_survive_a_new_description():
    agent = Agent(HOST)
    agent.apply(ev.HostMeasured(HostObserved(ram_available_bytes=5)), 0)
    agent.apply(ev.HostFound(replace(HOST, address="10.0.0.5")), 0)
    assert agent.view.host.observed.ram_available_bytes == 5


def test_a_command_is_accepted_runs_and_ends():
    agent = welcomed(CHAT)
    load = Command(command_id="c", host_id="atlas", kind=CommandKind.LOAD, service_id="atlas/chat", asset_id="m")
    accepted, running, start = agent.apply(ev.CommandReceived(load), 1)
    assert accepted == ev.SendResult("s1", "c", CommandState.ACCEPTED)
    assert running == ev.SendResult("s1", "c", CommandState.RUNNING)
    assert start == ev.StartCommand(load)
    end = agent.apply(ev.CommandEnded("c", message="m is in memory"), 2)
    assert end == [ev.SendResult("s1", "c", CommandState.SUCCEEDED, "m is in memory")]
    assert agent.apply(ev.CommandReceived(load), 3) == end


def test_an_end_without_a_session_is_told_after_the_next_welcome():
    agent = welcomed(CHAT)
    load = Command(command_id="c", host_id="atlas", kind=CommandKind.LOAD, service_id="atlas/chat", asset_id="m")
    agent.apply(ev.CommandReceived(load), 1)
    agent.apply(ev.Disconnected(), 2)
    assert agent.apply(ev.CommandEnded("c", failed=True, message="out of memory"), 3) == []
    (hello,) = agent.apply(ev.Connected(), 4)
    assert hello.open_command_ids == ("c",)
    result = agent.apply(WELCOME, 4)[-1]
    assert result == ev.SendResult("s1", "c", CommandState.FAILED, "out of memory")
    agent.apply(ev.Disconnected(), 5)
    (hello,) = agent.apply(ev.Connected(), 6)
    assert hello.open_command_ids == ()


def test_every_state_is_reached_and_left_as_the_table_says():
    assert set(TRANSITIONS) == set(SessionState)
    assert set().union(*TRANSITIONS.values()) == set(SessionState)
    assert not TRANSITIONS[SessionState.STOPPED]
