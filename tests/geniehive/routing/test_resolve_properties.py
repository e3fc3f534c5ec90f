"""What holds of resolution whatever the cluster and its roles, beside a slow and plain reading of the rules."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geniehive.errors import GenieHiveError, InvalidRequest, ModelNotFound, NoServiceAvailable
from geniehive.resources import (
    Asset,
    Availability,
    Health,
    HealthStatus,
    Host,
    LeaseState,
    Operation,
    Role,
    RoutingPolicy,
    Service,
    Snapshot,
)
from geniehive.routing.resolve import resolve, role_chain
from geniehive.routing.strategy import STRATEGIES, order
from geniehive.routing.table import RoutingTable

HOSTS, MODELS, FAMILIES, TIERS, ROLES = "hi", ("m1", "m2", "m3"), ("qwen", "llama", ""), ("home", "rented"), "abcd"

hosts = st.builds(
    Host,
    host_id=st.just(""),
    lease=st.sampled_from([LeaseState.UP] * 8 + list(LeaseState)),
    availability=st.sampled_from([Availability.AVAILABLE] * 12 + list(Availability)),
    trust_tier=st.sampled_from(TIERS),
    labels=st.dictionaries(st.just("room"), st.sampled_from(["attic", "cellar"])),
)
assets = st.builds(
    Asset,
    asset_id=st.sampled_from(MODELS),
    aliases=st.lists(st.sampled_from(["nick", "nick", "a"]), max_size=1).map(tuple),
    family=st.sampled_from(FAMILIES),
    loaded=st.sampled_from([True, False, None]),
    context_size=st.sampled_from([None, 2048, 8192]),
    operations=st.lists(st.sampled_from([Operation.CHAT, Operation.EMBEDDINGS]), max_size=2, unique=True).map(tuple),
)
services = st.builds(
    Service,
    service_id=st.just(""),
    host_id=st.sampled_from(HOSTS),
    operations=st.just((Operation.CHAT,)),
    assets=st.lists(assets, max_size=3, unique_by=lambda asset: asset.asset_id).map(tuple),
    health=st.builds(Health, status=st.sampled_from([HealthStatus.HEALTHY] * 6 + list(HealthStatus))),
    reachable=st.sampled_from([True] * 6 + [False]),
)
policies = st.builds(
    RoutingPolicy,
    preferred_families=st.lists(st.sampled_from(["Qwen", "llama"]), unique=True).map(tuple),
    assets=st.lists(st.sampled_from(MODELS), max_size=2, unique=True).map(tuple),
    min_context=st.sampled_from([0, 4096]),
    require_loaded=st.booleans(),
    denied_trust_tiers=st.lists(st.sampled_from(TIERS), max_size=1).map(tuple),
    preferred_labels=st.dictionaries(st.just("room"), st.just("attic")),
    fallback_roles=st.lists(st.sampled_from([*ROLES, "nobody"]), max_size=3, unique=True).map(tuple),  # cycles too
)
roles = st.builds(
    Role,
    role_id=st.just(""),
    operation=st.sampled_from([Operation.CHAT, Operation.COMPLETION, Operation.EMBEDDINGS]),
    routing_policy=policies,
)


@st.composite
def clusters(draw):
    def named(kind, names, **field):
        (key,) = field
        return {name: type(made)(**{**_fields(made), field[key]: name}) for name, made in zip(names, kind, strict=True)}

    return Snapshot(
        hosts=named([draw(hosts) for _ in HOSTS], HOSTS, key="host_id"),
        services=named([draw(services) for _ in range(4)], ["s1", "s2", "s3", "s4"], key="service_id"),
        roles=named([draw(roles) for _ in ROLES], ROLES, key="role_id"),
    )


def _fields(made):
    return {name: getattr(made, name) for name in made.__struct_fields__}


def answers(snapshot, service, asset, operation):
    """Whether this asset can be asked for that now, by the words of the rules."""
    host = snapshot.hosts[service.host_id]
    return (
        operation in (asset.operations or service.operations)
        and host.lease is LeaseState.UP
        and host.availability in {Availability.AVAILABLE, Availability.BUSY}
        and service.reachable
        and service.health.status is not HealthStatus.UNHEALTHY
    )


def wants(policy, asset, host):
    return (
        (not policy.assets or asset.asset_id in policy.assets)
        and not (policy.require_loaded and asset.loaded is False)
        and not (asset.context_size is not None and asset.context_size < policy.min_context)
        and host.trust_tier not in policy.denied_trust_tiers
    )


def expected(snapshot, name, operation):
    """Who may answer, each with the role that leads there first."""
    every = [(service, asset) for service in snapshot.services.values() for asset in service.assets]
    direct = [
        (service, asset) for service, asset in every if name in {asset.asset_id, *asset.aliases, service.service_id}
    ]
    if direct:
        return {
            (service.service_id, asset.asset_id): None
            for service, asset in direct
            if answers(snapshot, service, asset, operation)
        }
    kin = {Operation.CHAT: {Operation.CHAT, Operation.COMPLETION}}.get(operation, {operation})
    found = {}
    for role in role_chain(snapshot.roles, snapshot.roles[name]):
        for service, asset in every if role.operation in kin else ():
            if answers(snapshot, service, asset, operation) and wants(
                role.routing_policy, asset, snapshot.hosts[service.host_id]
            ):
                found.setdefault((service.service_id, asset.asset_id), role.role_id)
    return found


@settings(max_examples=60, deadline=None)
@given(
    clusters(),
    st.sampled_from([*ROLES, *MODELS, "nick", "s1"]),
    st.sampled_from([Operation.CHAT, Operation.EMBEDDINGS]),
)
def test_exactly_those_are_candidates_who_can_answer_and_are_wanted(snapshot, name, operation):
    try:
        found = resolve(RoutingTable(snapshot), name, operation)
    except ModelNotFound:
        assert not RoutingTable(snapshot).entries(name)
        assert name not in snapshot.roles
        return
    except InvalidRequest:
        return  # nothing of that name does this operation at all: `test_resolve`
    except NoServiceAvailable:
        assert expected(snapshot, name, operation) == {}
        return
    got = {
        (each.service.service_id, each.asset.asset_id): each.role.role_id if each.role else None
        for each in found.candidates
    }
    assert got == expected(snapshot, name, operation)
    assert len(got) == len(found.candidates)
    assert [each.tier for each in found.candidates] == sorted(each.tier for each in found.candidates)
    assert all(drop.reason for drop in found.dropped)
    assert not {(drop.service_id, drop.asset_id) for drop in found.dropped} & got.keys()


@settings(max_examples=60, deadline=None)
@given(clusters(), st.sampled_from([*ROLES, *MODELS]), st.sampled_from(list(STRATEGIES)), st.integers(0, 99))
def test_every_strategy_tries_each_candidate_once_and_a_better_tier_first(snapshot, name, strategy, turn):
    table = RoutingTable(snapshot, strategy)
    try:
        found = resolve(table, name, Operation.CHAT)
    except GenieHiveError:
        return
    tried = order(table, found, {}, turn)
    assert sorted(map(id, tried)) == sorted(map(id, found.candidates))
    depths = [each.tier[:-1] for each in tried]
    assert depths == sorted(depths)


@settings(max_examples=60, deadline=None)
@given(clusters(), st.sampled_from(ROLES))
def test_a_chain_of_fallbacks_ends_and_visits_each_role_once(snapshot, name):
    chain = [role.role_id for role in role_chain(snapshot.roles, snapshot.roles[name])]
    assert chain[0] == name
    assert len(chain) == len(set(chain)) <= len(ROLES)


@settings(max_examples=15, deadline=None)
@given(clusters(), st.text(max_size=12))
def test_a_name_that_nobody_has_is_not_found_and_says_where_to_look(snapshot, name):
    table = RoutingTable(snapshot)
    if name in table.names() or name + ":latest" in table.names():
        return
    with pytest.raises(ModelNotFound) as raised:
        resolve(table, name)
    assert "did you mean" in str(raised.value) or "/v1/models" in str(raised.value)
