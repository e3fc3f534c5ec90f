"""Every resource survives the wire, and nonsense does not."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from geniehive import codec
from geniehive import resources as r
from geniehive.v1 import node_service_pb2, routing_service_pb2
from geniehive.v1 import resources_pb2 as pb

TEXT = st.text(st.characters(codec="utf-8"), max_size=12)
COUNT = st.none() | st.integers(0, 100_000)
SHARE = st.none() | st.floats(0, 1)
SECONDS = st.none() | st.floats(0, 1e6)
OPERATIONS = st.lists(st.sampled_from(r.Operation), max_size=3).map(tuple)
JSON = st.recursive(st.none() | st.booleans() | st.integers(-(2**53), 2**53) | TEXT, st.lists, max_leaves=3)
POLICY = st.builds(
    r.RequestPolicy,
    body_defaults=st.dictionaries(TEXT, JSON, max_size=2),
    system_prompt=TEXT,
    system_prompt_position=st.sampled_from(r.SystemPromptPosition),
    reasoning=st.none() | st.sampled_from(r.ReasoningMode),
)
ASSET = st.builds(
    r.Asset,
    asset_id=TEXT,
    aliases=st.lists(TEXT, max_size=2).map(tuple),
    loaded=st.none() | st.booleans(),
    context_size=COUNT,
    operations=OPERATIONS,
    request_policy=POLICY,
)
OBSERVED = st.builds(
    r.Observed, running=COUNT, waiting=COUNT, kv_cache_usage=SHARE, ttft_seconds=SECONDS, tokens_per_second=SECONDS
)
SERVICE = st.builds(
    r.Service,
    service_id=TEXT,
    host_id=TEXT,
    operations=OPERATIONS,
    protocol=st.sampled_from(["openai", "ollama"]),
    runtime=st.builds(r.Runtime, engine=TEXT, launcher=st.sampled_from(["external", "managed"])),
    assets=st.lists(ASSET, max_size=2).map(tuple),
    health=st.builds(r.Health, status=st.sampled_from(r.HealthStatus), reason=TEXT),
    observed=OBSERVED,
    max_concurrency=COUNT,
    discovered=st.booleans(),
    reachable=st.booleans(),
)
HOST = st.builds(
    r.Host,
    host_id=TEXT,
    labels=st.dictionaries(TEXT, TEXT, max_size=2),
    availability=st.sampled_from(r.Availability),
    lease=st.sampled_from(r.LeaseState),
    boot_epoch=st.integers(0, 2**63),
    facts=st.builds(r.HostFacts, gpus=st.lists(st.builds(r.Gpu, index=st.integers(0, 7)), max_size=2).map(tuple)),
    heartbeat_age_seconds=SECONDS,
)


@pytest.mark.parametrize("cls", codec.PAIRS, ids=lambda cls: cls.__name__)
def test_struct_and_message_have_the_same_fields(cls):
    message = {name.removesuffix("_json") for name in codec.PAIRS[cls].DESCRIPTOR.fields_by_name}
    assert message == set(cls.__struct_fields__)


@given(SERVICE)
def test_a_service_survives_the_wire(service):
    wire = codec.service_to_pb(service).SerializeToString()
    assert codec.service_from_pb(pb.Service.FromString(wire)) == service


@given(HOST)
def test_a_host_survives_the_wire(host):
    assert codec.host_from_pb(codec.host_to_pb(host)) == host


@given(st.dictionaries(TEXT.filter(bool), SERVICE, max_size=3), st.integers(0, 2**63))
def test_a_snapshot_survives_the_wire(services, revision):
    services = {name: _named(service, name) for name, service in services.items()}
    snapshot = r.Snapshot(epoch=7, revision=revision, services=services)
    assert codec.snapshot_from_pb(codec.snapshot_to_pb(snapshot)) == snapshot


def _named(service, name):
    fields = {field: getattr(service, field) for field in service.__struct_fields__}
    return r.Service(**fields | {"service_id": name})


def test_unknown_is_not_zero():
    assert not codec.observed_to_pb(r.Observed()).HasField("waiting")
    assert codec.observed_to_pb(r.Observed(waiting=0)).HasField("waiting")
    assert codec.observed_from_pb(pb.Observed()).waiting is None


@pytest.mark.parametrize("value", [math.nan, math.inf, -1.0, 2.0**63])
def test_nonsense_in_a_measurement_becomes_unknown_and_the_rest_stays(value):
    message = pb.Observed(running=3, tokens_per_second=value, kv_cache_usage=value)
    assert codec.observed_from_pb(message) == r.Observed(running=3)


def test_nonsense_that_an_engine_told_the_agent_does_not_break_its_heartbeat():
    state = r.ServiceState(service_id="s", observed=r.Observed(running=-4, waiting=2, vram_used_bytes=2**80))
    assert codec.service_state_from_pb(codec.service_state_to_pb(state)).observed == r.Observed(waiting=2)


def test_an_enum_value_of_a_later_version_is_left_out():
    message = pb.Service(service_id="s", operations=[1, 99])
    message.health.status = 42
    service = codec.service_from_pb(message)
    assert service.operations == (r.Operation.CHAT,)
    assert service.health.status is r.HealthStatus.UNKNOWN


def test_integers_in_a_policy_stay_integers():
    policy = r.RequestPolicy(body_overrides={"top_k": 20, "seed": None})
    assert repr(codec.decode(r.RequestPolicy, codec.encode(policy)).body_overrides) == "{'top_k': 20, 'seed': None}"


def test_a_delta_survives_the_wire():
    delta = r.SnapshotDelta(base_revision=4, removed_service_ids=("a",), hosts=(r.Host(host_id="h"),))
    wire = codec.delta_to_pb(delta).SerializeToString()
    assert codec.delta_from_pb(routing_service_pb2.SnapshotDelta.FromString(wire)) == delta


def test_traffic_survives_the_wire():
    traffic = r.ServiceTraffic(service_id="s", in_flight=2, succeeded_total=9, ttft_seconds=0.25)
    assert codec.traffic_from_pb(codec.traffic_to_pb(traffic)) == traffic


def test_a_reachable_service_is_reachable_on_the_other_side():
    wire = codec.encode(r.ServiceState(service_id="s"))
    assert isinstance(wire, node_service_pb2.ServiceState)
    assert codec.service_from_pb(codec.service_to_pb(r.Service(service_id="s", host_id="h"))).reachable
