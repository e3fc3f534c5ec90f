"""Certificates are renewed at half of their life, warned about long before their end, and read again when replaced."""

from __future__ import annotations

import asyncio
import logging
import os
import stat

import msgspec
import pytest

from geniehive import joining, renewal
from geniehive.config import Config, ControlPlaneConfig, NodeConfig
from geniehive.credentials import FromMembership, Plain, source_for
from geniehive.errors import ConfigError, ControlPlaneUnreachable, InvalidRequest
from geniehive.identity import CONTROL_NAME, Identity, Kind, identity_of
from geniehive.join_token import JoinToken, parse_join_token
from geniehive.membership import Joined, Membership, folder_of
from geniehive.renewal import Renewal, warns_from
from geniehive.tls import Leaf, bundle_sha256
from tests.controlplane.tls_edge import Maker

ATLAS = Identity(Kind.HOST, "atlas")
HUB = Joined(addresses=("hub:8801",), kind=Kind.HOST, name="atlas", server_name=CONTROL_NAME)


@pytest.fixture
def membership(tmp_path):
    found = Membership(folder_of(str(tmp_path), Kind.HOST))
    found.keep(Maker().credentials(ATLAS), HUB)
    return found


class Authority:
    """Stands for the control plane: what `joining.renew` asks."""

    def __init__(self, failures=0):
        self.asked, self.failures = [], failures
        self.renewed = asyncio.Event()

    async def renew(self, address, credentials):
        self.asked.append(address)
        if len(self.asked) <= self.failures:
            raise ControlPlaneUnreachable("away")
        await asyncio.sleep(0.01)  # others get their turn meanwhile
        self.renewed.set()
        return Maker().credentials(ATLAS, days=100)


async def running(task, event):
    async with asyncio.TaskGroup() as tasks:
        work = tasks.create_task(task.run())
        async with asyncio.timeout(20):
            await event.wait()
            while not task.renewed:  # it writes what it got
                await asyncio.sleep(0.01)
        work.cancel()


async def test_at_half_life_a_certificate_is_renewed_and_shown_from_then_on(membership, monkeypatch):
    authority = Authority()
    monkeypatch.setattr(joining, "renew", authority.renew)
    source = FromMembership(membership)
    before = source.current()
    # Maker's certificates began 30 days ago and end in one: more than half is over.
    await running(Renewal(source, ["hub:8801"], lambda: 0.0), authority.renewed)
    after = source.current()
    assert after.leaf.not_after > before.leaf.not_after
    assert after.key_pem != before.key_pem
    assert stat.S_IMODE(membership.identity_path.stat().st_mode) == 0o600


async def test_before_half_life_nobody_is_asked(membership, monkeypatch):
    authority = Authority()
    monkeypatch.setattr(joining, "renew", authority.renew)
    leaf = membership.credentials().leaf
    task = Renewal(FromMembership(membership), ["hub:8801"], lambda: 0.0, lambda: leaf.half_life - 1)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(task.run(), 0.1)
    assert authority.asked == []


async def test_one_that_cannot_be_renewed_is_tried_again_at_the_next_address(membership, monkeypatch, caplog):
    authority = Authority(failures=2)
    monkeypatch.setattr(joining, "renew", authority.renew)
    monkeypatch.setattr(renewal, "LEAST_PAUSE_S", 0.001)
    with caplog.at_level(logging.WARNING):
        await running(Renewal(FromMembership(membership), ["one:1", "two:2"], lambda: 0.0), authority.renewed)
    assert authority.asked == ["one:1", "two:2", "one:1"]
    assert sum("could not be renewed: away" in record.getMessage() for record in caplog.records) == 1


async def test_of_several_processes_one_renews(membership, monkeypatch):
    authority = Authority()
    monkeypatch.setattr(joining, "renew", authority.renew)
    tasks = [Renewal(FromMembership(Membership(membership.folder)), ["hub:8801"], lambda: 0.0) for _ in range(4)]
    await asyncio.gather(*(task._renew(task._source.membership) for task in tasks))
    assert len(authority.asked) == 1
    assert len({task.expires_at for task in tasks}) == 1


def test_people_hear_of_an_end_a_quarter_of_its_life_before(membership, caplog):
    leaf = Leaf(identity=None, not_before=0, not_after=400, sha256="")
    assert warns_from(leaf) == 300
    year = Leaf(identity=None, not_before=0, not_after=365 * 86400, sha256="")
    assert year.not_after - warns_from(year) == renewal.WARN_S
    end = membership.credentials().leaf.not_after
    task = Renewal(FromMembership(membership), ["hub:8801"], lambda: 0.0, lambda: end - 3600)
    with caplog.at_level(logging.WARNING):
        task._warn(membership.credentials().leaf)
        task._warn(membership.credentials().leaf)
    (record,) = caplog.records
    assert "certificate of host atlas ends on" in record.getMessage()


# --- where credentials come from ---


def test_who_has_not_joined_dials_plainly(tmp_path):
    config = Config(node=NodeConfig(state_dir=str(tmp_path)))
    assert isinstance(source_for(config, Kind.HOST), Plain)


def test_a_membership_counts_for_the_control_plane_that_was_joined(tmp_path, membership):
    config = Config(node=NodeConfig(state_dir=str(tmp_path)), control_plane=ControlPlaneConfig(address="hub:8801"))
    assert source_for(config, Kind.HOST).current().leaf.identity == ATLAS
    other = msgspec.structs.replace(config, control_plane=ControlPlaneConfig(address="127.0.0.1:8801"))
    assert source_for(other, Kind.HOST).current() is None


def test_files_of_your_own_are_read_again_when_they_change(tmp_path, caplog):
    ca = Maker()
    first, second = ca.credentials(ATLAS), ca.credentials(ATLAS)
    (tmp_path / "ca.pem").write_bytes(ca.pem)
    (tmp_path / "own.pem").write_bytes(first.key_pem + first.chain_pem)
    dialled = ControlPlaneConfig(ca_file=str(tmp_path / "ca.pem"), cert_file=str(tmp_path / "own.pem"))
    source = source_for(Config(control_plane=dialled), Kind.HOST)
    assert source.membership is None
    assert source.current().leaf == first.leaf
    (tmp_path / "own.pem").write_bytes(b"half a fi")
    os.utime(tmp_path / "own.pem", (1, 1))
    assert source.current().leaf == first.leaf
    assert "keeping the certificate" in caplog.text
    (tmp_path / "own.pem").write_bytes(second.chain_pem + second.key_pem)
    os.utime(tmp_path / "own.pem", (2, 2))
    assert source.current().leaf == second.leaf
    assert source.current() is source.current()  # nothing is parsed anew at each dial


def test_files_that_are_not_there_are_named(tmp_path):
    with pytest.raises(ConfigError, match=r"missing\.pem cannot be read"):
        source_for(Config(control_plane=ControlPlaneConfig(ca_file=str(tmp_path / "missing.pem"))), Kind.HOST)


def test_a_damaged_membership_says_what_to_do(membership):
    (membership.folder / "joined.json").write_text("{")
    with pytest.raises(ConfigError, match="join again"):
        membership.joined()


# --- words ---


def test_a_join_token_is_one_word_that_reads_back():
    token = JoinToken("0" * 64, "abcd1234", "s" * 32)
    assert parse_join_token(f" {token}\n") == token
    for nonsense in ("", "gh_something", f"{token}x y", "gh1-abc.def.ghi", str(token).replace("gh1", "gh2")):
        with pytest.raises(InvalidRequest, match="no join token"):
            parse_join_token(nonsense)


@pytest.mark.parametrize(
    "uri",
    ["spiffe://geniehive/host/", "spiffe://geniehive/host/a/b", "spiffe://geniehive/control/x", "spiffe://other/host/a",
     "spiffe://geniehive/root/a", "https://geniehive/host/a", "spiffe://geniehive/host/a%2Fb", "spiffe://geniehive/host/-",
     "spiffe://geniehivehost/a", ""],
)  # fmt: skip
def test_names_that_are_none_are_none(uri):
    assert identity_of(uri) is None


@pytest.mark.parametrize("identity", [ATLAS, Identity(Kind.GATEWAY, "a.b-c"), Identity(Kind.CONTROL)])
def test_a_name_reads_back(identity):
    assert identity_of(identity.uri) == identity


def test_the_hash_of_a_bundle_is_of_its_certificates_alone():
    ca, other = Maker(), Maker()
    assert bundle_sha256(ca.pem) == bundle_sha256(b"# a comment\n" + ca.pem + b"\n\n")
    assert bundle_sha256(ca.pem) != bundle_sha256(ca.pem + other.pem)
