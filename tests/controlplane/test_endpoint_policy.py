"""A node announces engines of its own host; the operator may allow more; nobody may allow metadata services."""

from __future__ import annotations

import ipaddress

import pytest

from controlplane.endpoint_policy import EndpointPolicy, EndpointRefused, peer_address

NODE = frozenset({ipaddress.ip_address("10.0.0.2")})


def judged(url: str, *resolved: str, policy: EndpointPolicy | None = None) -> str:
    policy = policy or EndpointPolicy()
    endpoint = policy.read(url)
    found = [ipaddress.ip_address(one) for one in resolved] or [endpoint.address]
    return policy.judge(url, endpoint, found, NODE)


@pytest.mark.parametrize("url", ["http://10.0.0.2:11434", "http://[::ffff:10.0.0.2]:8000", "https://10.0.0.2"])
def test_the_nodes_own_address_is_taken_as_it_is(url):
    assert judged(url) == url


@pytest.mark.parametrize("url", ["http://10.0.0.3:11434", "http://127.0.0.1:8801", "http://[::1]:80", "http://8.8.8.8"])
def test_somebody_elses_address_is_refused_and_the_setting_is_named(url):
    with pytest.raises(EndpointRefused, match=r"control\.allowed_endpoints"):
        judged(url)


def test_a_name_is_pinned_to_what_it_resolved_to_and_the_nodes_own_address_is_preferred():
    assert judged("http://atlas.lan:11434/x", "10.0.0.2") == "http://10.0.0.2:11434/x"
    policy = EndpointPolicy(["10.0.0.0/24"])
    assert judged("http://atlas.lan:11434", "10.0.0.9", "10.0.0.2", policy=policy) == "http://10.0.0.2:11434"


def test_a_name_whose_certificate_proves_it_stays():
    assert judged("https://atlas.lan", "10.0.0.2") == "https://atlas.lan"


def test_a_name_is_refused_if_any_of_its_addresses_is_not_the_nodes():
    with pytest.raises(EndpointRefused, match=r"atlas\.lan \(10\.0\.0\.2\)"):
        judged("http://atlas.lan", "10.0.0.2", "10.0.0.3")


def test_a_name_that_does_not_resolve_is_refused():
    policy = EndpointPolicy()
    with pytest.raises(EndpointRefused, match="does not resolve"):
        policy.judge("http://atlas.lan", policy.read("http://atlas.lan"), [], NODE)


@pytest.mark.parametrize(
    ("allowed", "url", "resolved"),
    [
        ("10.0.0.0/8", "http://10.9.9.9:1", ()),
        ("10.9.9.9", "http://10.9.9.9:1", ()),
        ("fd00::/8", "http://[fd00::1]:1", ()),
        ("Engine.LAN", "https://engine.lan", ("10.9.9.9",)),
    ],
)
def test_the_operator_may_allow_networks_addresses_and_names(allowed, url, resolved):
    with pytest.raises(EndpointRefused):
        judged(url, *resolved)
    assert judged(url, *resolved, policy=EndpointPolicy([allowed])) == url


def test_an_endpoint_of_this_very_config_is_allowed():
    policy = EndpointPolicy(configured=["http://10.9.9.9:8000/"])
    assert judged("http://10.9.9.9:8000", policy=policy) == "http://10.9.9.9:8000"
    with pytest.raises(EndpointRefused):
        judged("http://10.9.9.9:8001", policy=policy)


@pytest.mark.parametrize("resolved", ["169.254.169.254", "fe80::1", "::ffff:169.254.169.254", "0.0.0.0"])
def test_nobody_may_allow_what_is_forbidden(resolved):
    policy = EndpointPolicy(["0.0.0.0/0", "::/0", "metadata.lan"], ["http://metadata.lan"])
    with pytest.raises(EndpointRefused, match="no setting allows it"):
        judged("http://metadata.lan", resolved, policy=policy)


@pytest.mark.parametrize(
    ("peer", "address"),
    [
        ("ipv4:10.0.0.2:4711", "10.0.0.2"),
        ("ipv6:%5B::1%5D:4711", "::1"),
        ("ipv6:[fd00::2]:4711", "fd00::2"),
        ("ipv6:%5B::ffff:10.0.0.2%5D:1", "10.0.0.2"),
        ("unix:/run/x.sock", "None"),
        ("ipv4:nonsense", "None"),
    ],
)
def test_the_peers_address_is_found_in_grpcs_name_for_it(peer, address):
    assert str(peer_address(peer)) == address
