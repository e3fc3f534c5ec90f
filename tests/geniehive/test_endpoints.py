"""Endpoints are read strictly: nothing that a resolver or a URL parser could read in two ways gets through."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from geniehive.endpoints import forbidden, plain, read_allowed, read_endpoint


@pytest.mark.parametrize(
    ("url", "host", "port", "path"),
    [
        ("http://192.168.1.20:11434", "192.168.1.20", 11434, ""),
        ("https://Atlas.Lan/llm", "atlas.lan", 443, "/llm"),
        ("http://[fd00::20]:8000", "fd00::20", 8000, ""),
        ("http://localhost:8080", "localhost", 8080, ""),
        ("http://node-1_a.example.:80", "node-1_a.example.", 80, ""),
    ],
)
def test_an_ordinary_endpoint_is_taken_apart(url, host, port, path):
    assert read_endpoint(url)[1:4] == (host, port, path)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("file:///etc/passwd", "must be http://"),
        ("gopher://10.0.0.1:70", "must be http://"),
        ("//10.0.0.1", "must be http://"),
        ("http://user@10.0.0.1", "user name"),
        ("http://user:password@10.0.0.1", "user name"),
        ("http://10.0.0.1@169.254.169.254", "user name"),
        ("http://2130706433", "odd notation"),
        ("http://0x7f000001:80", "odd notation"),
        ("http://0x7f.1", "odd notation"),
        ("http://127.1", "odd notation"),
        ("http://0177.0.0.1", "odd notation"),
        ("http://10.0.0.1.", "odd notation"),
        ("http://a.0x1", "odd notation"),
        ("http://[fe80::1%25eth0]:80", "odd notation"),
        ("http://10.0.0.1?x=1", "query"),
        ("http://10.0.0.1/#", "query"),
        ("http://", "no host"),
        ("http://10.0.0.1:0", "no port"),
        ("http://10.0.0.1:", "no port"),
        ("http://10.0.0.1:99999", "not a URL"),
        ("http://[::1", "not a URL"),
        ("http://10.0.0.1\\@evil", "characters"),
        ("http://10.0.0.1\r\nHost: x", "characters"),
        ("http://①②⑦.0.0.1", "characters"),
        ("http://a..b", "neither a name"),
        ("http://-a.b", "neither a name"),
    ],
)
def test_what_could_be_read_in_two_ways_is_refused_with_the_reason(url, words):
    with pytest.raises(ValueError, match=words):
        read_endpoint(url)


@pytest.mark.parametrize(
    "address",
    [
        "169.254.169.254", "169.254.0.1", "fe80::1", "fd00:ec2::254", "100.100.100.200", "192.0.0.192",
        "0.0.0.0", "0.1.2.3", "::", "224.0.0.1", "ff02::1", "255.255.255.255",
        "::ffff:169.254.169.254", "64:ff9b::a9fe:a9fe", "2002:a9fe:a9fe::1",
    ],
)  # fmt: skip
def test_nobody_is_sent_to_metadata_services_or_to_no_single_host(address):
    assert forbidden(ipaddress.ip_address(address))


@pytest.mark.parametrize(
    "address", ["127.0.0.1", "::1", "10.0.0.1", "192.168.1.20", "fd00::20", "8.8.8.8", "::ffff:10.0.0.1"]
)
def test_ordinary_addresses_are_not_forbidden(address):
    assert forbidden(ipaddress.ip_address(address)) == ""


def test_an_address_takes_the_place_of_a_name_and_nothing_else_changes():
    endpoint = read_endpoint("http://atlas.lan:11434/llm")
    assert endpoint.at(ipaddress.ip_address("10.0.0.7")) == "http://10.0.0.7:11434/llm"
    assert endpoint.at(ipaddress.ip_address("fd00::7")) == "http://[fd00::7]:11434/llm"
    assert read_endpoint("http://atlas.lan").at(ipaddress.ip_address("10.0.0.7")) == "http://10.0.0.7"


@given(st.ip_addresses(v=4))
def test_a_wrapped_address_is_the_address_within(address):
    assert plain(ipaddress.ip_address(f"::ffff:{address}")) == address


@given(st.text(max_size=60))
def test_any_text_is_an_endpoint_or_a_value_error(text):
    for url in (text, f"http://{text}"):
        try:
            found = read_endpoint(url)
        except ValueError:
            continue
        assert found.host
        assert 0 < found.port < 65536


@pytest.mark.parametrize(
    ("text", "found"), [("10.0.0.0/8", "10.0.0.0/8"), ("10.0.0.1", "10.0.0.1/32"), ("Atlas.Lan", "atlas.lan")]
)
def test_an_allowed_endpoint_is_a_network_or_a_name(text, found):
    assert str(read_allowed(text)) == found


@pytest.mark.parametrize("text", ["", "http://10.0.0.1", "10.0.0.0/99", "127.1", "*", "a b"])
def test_an_allowed_endpoint_that_is_neither_is_refused(text):
    with pytest.raises(ValueError, match="expected a network"):
        read_allowed(text)
