from __future__ import annotations

import asyncio
import math
import sqlite3

import msgspec
import pytest

from controlplane.events import Append, Delete, Kind, Put
from controlplane.store.sql_store import SqlStore
from geniehive.errors import StoreError
from geniehive.resources import (
    AccessKey,
    Asset,
    AuditEntry,
    Availability,
    BenchmarkSample,
    Command,
    CommandKind,
    CommandState,
    Host,
    HostFacts,
    HostObserved,
    LeaseState,
    Observed,
    Operation,
    PromptPolicy,
    RequestPolicy,
    Role,
    RoutingPolicy,
    Service,
)

ATLAS = Host(host_id="atlas", labels={"room": "attic"}, facts=HostFacts(cpu_count=8), boot_epoch=2**63 + 5)
CHAT = Service(
    service_id="atlas/chat",
    host_id="atlas",
    operations=(Operation.CHAT,),
    endpoint="http://127.0.0.1:1",
    reachable=False,
    assets=(
        Asset(asset_id="qwen", loaded=True, request_policy=RequestPolicy(body_defaults={"top_k": 20, "deep": [{}]})),
        Asset(asset_id="apple"),
    ),
)
CODER = Role(
    role_id="coder",
    prompt_policy=PromptPolicy(system_prompt="Be terse."),
    routing_policy=RoutingPolicy(preferred_families=("qwen3",), fallback_roles=("any",)),
)


def command(number: int = 1, state: CommandState = CommandState.PENDING) -> Command:
    return Command(
        command_id=f"c{number}", host_id="atlas", kind=CommandKind.LOAD, state=state, created_at_ms=1000 + number
    )


def sample(number: int, **fields) -> BenchmarkSample:
    given = {"workload": "chat.short", "service_id": "atlas/chat", "measured_at_ms": 1000 + number} | fields
    return BenchmarkSample(sample_id=f"s{number}", **given)


@pytest.fixture
def url(tmp_path):
    return f"sqlite+aiosqlite:///{tmp_path}/deep/er/hive.sqlite3"


@pytest.fixture
async def store(url):
    store = await SqlStore.open(url)
    yield store
    await store.close()


async def reopened(store, url):
    await store.close()
    return await SqlStore.open(url)


async def test_what_was_put_is_there_after_a_restart(store, url):
    await store.apply([Put(ATLAS), Put(CHAT), Put(CODER), Put(command())])
    again = await reopened(store, url)
    registry = await again.load()
    await again.close()
    assert list(registry.hosts) == [ATLAS]
    assert list(registry.services) == [CHAT]
    assert list(registry.roles) == [CODER]
    assert list(registry.commands) == [command()]


async def test_measurements_and_the_lease_are_not_kept(store):
    host = msgspec.structs.replace(
        ATLAS, observed=HostObserved(cpu_utilization=0.5), lease=LeaseState.OFFLINE, heartbeat_age_seconds=1.0
    )
    service = msgspec.structs.replace(CHAT, observed=Observed(running=3))
    await store.apply([Put(host), Put(service)])
    registry = await store.load()
    assert registry.hosts[0] == ATLAS
    assert registry.services[0] == CHAT


async def test_a_put_replaces_the_whole_thing_and_its_assets(store):
    await store.apply([Put(ATLAS), Put(CHAT)])
    fewer = msgspec.structs.replace(CHAT, assets=(Asset(asset_id="pear"),), endpoint="http://127.0.0.1:2")
    drained = msgspec.structs.replace(ATLAS, availability=Availability.DRAINING)
    await store.apply([Put(drained), Put(CHAT), Put(fewer)])
    registry = await store.load()
    assert list(registry.hosts) == [drained]
    assert list(registry.services) == [fewer]


async def test_putting_a_host_again_leaves_its_services(store):
    await store.apply([Put(ATLAS), Put(CHAT)])
    await store.apply([Put(ATLAS)])
    assert list((await store.load()).services) == [CHAT]


async def test_deleting_a_host_takes_its_services_along(store):
    await store.apply([Put(ATLAS), Put(CHAT)])
    await store.apply([Delete(Kind.HOST, "atlas"), Delete(Kind.HOST, "nobody")])
    registry = await store.load()
    assert (list(registry.hosts), list(registry.services)) == ([], [])
    await store.apply([Put(ATLAS), Put(msgspec.structs.replace(CHAT, assets=()))])
    assert (await store.load()).services[0].assets == ()


@pytest.mark.parametrize(
    ("kind", "key"), [(Kind.SERVICE, "atlas/chat"), (Kind.ROLE, "coder"), (Kind.COMMAND, "c1"), (Kind.SAMPLE, "s1")]
)
async def test_everything_that_can_be_put_can_be_deleted(store, kind, key):
    things = {Kind.SERVICE: CHAT, Kind.ROLE: CODER, Kind.COMMAND: command(), Kind.SAMPLE: sample(1)}
    await store.apply([Put(ATLAS), *map(Put, things.values())])
    await store.apply([Delete(kind, key)])
    registry = await store.load()
    left = {
        Kind.SERVICE: registry.services,
        Kind.ROLE: registry.roles,
        Kind.COMMAND: registry.commands,
        Kind.SAMPLE: await store.list_samples("", "", 10),
    }
    assert {each for each, found in left.items() if not found} == {kind}


async def test_changes_are_made_all_or_none(store):
    orphan = msgspec.structs.replace(CHAT, service_id="ghost/chat", host_id="ghost")
    with pytest.raises(StoreError, match="FOREIGN KEY"):
        await store.apply([Put(ATLAS), Put(CODER), Put(orphan)])
    registry = await store.load()
    assert (list(registry.hosts), list(registry.roles), list(registry.services)) == ([], [], [])


async def test_a_service_may_come_before_its_host_in_one_transaction(store):
    await store.apply([Put(CHAT), Put(ATLAS)])
    assert list((await store.load()).services) == [CHAT]


async def test_each_epoch_is_larger_than_the_last(store, url):
    first = [await store.next_epoch(), await store.next_epoch()]
    again = await reopened(store, url)
    assert [*first, await again.next_epoch()] == [1, 2, 3]
    await again.close()


async def test_an_epoch_is_not_below_the_floor_and_never_goes_back(store):
    assert [await store.next_epoch(100), await store.next_epoch(100), await store.next_epoch(50)] == [100, 101, 102]


async def test_commands_come_oldest_first(store):
    later = command(2, CommandState.SUCCEEDED)
    await store.apply([Put(later), Put(command(1))])
    assert list((await store.load()).commands) == [command(1), later]


async def test_samples_come_newest_first_and_filtered(store):
    await store.add_samples([sample(1), sample(2, workload="embed"), sample(3, service_id="other")])
    await store.add_samples([])
    assert [each.sample_id for each in await store.list_samples("", "", 10)] == ["s3", "s2", "s1"]
    assert [each.sample_id for each in await store.list_samples("", "", 1)] == ["s3"]
    assert [each.sample_id for each in await store.list_samples("atlas/chat", "", 10)] == ["s2", "s1"]
    assert [each.sample_id for each in await store.list_samples("atlas/chat", "embed", 10)] == ["s2"]


async def test_a_sample_that_is_sent_again_changes_nothing(store):
    await store.add_samples([sample(1, requests=7)])
    await store.add_samples([sample(1, requests=8), sample(2)])
    assert [each.requests for each in await store.list_samples("", "", 10)] == [0, 7]


async def test_a_full_disk_fails_loudly_and_reading_goes_on(store, url):
    await store.apply([Put(ATLAS)])
    async with store._database.reader.connect() as connection:
        await connection.exec_driver_sql("PRAGMA max_page_count=1")  # SQLite raises it to the size that is used
        big = msgspec.structs.replace(CODER, description="x" * 1_000_000)
        # The pool hands the same connection to the writer once it is back.
    with pytest.raises(StoreError, match="disk is full: free some space"):
        await store.apply([Put(big)])
    assert list((await store.load()).hosts) == [ATLAS]
    assert list((await store.load()).roles) == []


async def test_a_lock_of_another_program_fails_bounded_and_the_loop_runs_on(store, tmp_path, monkeypatch):
    await store.apply([Put(ATLAS)])
    blocker = sqlite3.connect(tmp_path / "deep/er/hive.sqlite3", isolation_level=None)
    blocker.execute("BEGIN IMMEDIATE")
    turns = 0
    writing = asyncio.create_task(store.apply([Put(CODER)]))
    while not writing.done():
        await asyncio.sleep(0.01)
        turns += 1
        if turns == 5:
            assert list((await store.load()).hosts) == [ATLAS]  # reading needs no lock
    with pytest.raises(StoreError, match="another program holds the database's lock"):
        await writing
    assert turns > 5
    blocker.execute("ROLLBACK")
    blocker.close()
    await store.apply([Put(CODER)])
    assert list((await store.load()).roles) == [CODER]


async def test_a_write_that_is_cancelled_leaves_the_store_usable(store):
    await store.apply([Put(ATLAS)])
    writing = asyncio.create_task(store.apply([Put(CODER)] * 500))
    await asyncio.sleep(0)
    writing.cancel()
    await asyncio.gather(writing, return_exceptions=True)
    await store.apply([Put(command())])
    assert list((await store.load()).commands) == [command()]


async def test_a_number_that_no_database_can_hold_is_a_store_error(store):
    with pytest.raises(StoreError):
        await store.apply([Put(msgspec.structs.replace(command(), created_at_ms=2**70))])
    await store.apply([Put(ATLAS)])


async def test_numbers_that_json_cannot_say_become_unknown(store):
    await store.add_samples([sample(1, latency_p50_seconds=math.inf)])
    assert (await store.list_samples("", "", 1))[0].latency_p50_seconds is None


async def test_a_record_that_cannot_be_read_is_named(store, tmp_path):
    await store.apply([Put(ATLAS)])
    other = sqlite3.connect(tmp_path / "deep/er/hive.sqlite3", isolation_level=None)
    other.execute("""UPDATE hosts SET document = '{"host_id": "atlas", "boot_epoch": "soon"}'""")
    other.close()
    with pytest.raises(StoreError, match=r"host atlas: .*boot_epoch.*start that version, or restore a backup"):
        await store.load()


async def test_fields_of_a_later_version_are_passed_over(store, tmp_path):
    await store.apply([Put(ATLAS)])
    other = sqlite3.connect(tmp_path / "deep/er/hive.sqlite3", isolation_level=None)
    other.execute("""UPDATE hosts SET document = '{"host_id": "atlas", "from_the_future": 1}'""")
    other.close()
    assert [host.host_id for host in (await store.load()).hosts] == ["atlas"]


async def test_the_audit_log_is_written_with_the_change_or_not_at_all(store, tmp_path):
    entry = AuditEntry(at_ms=1, actor="root", action="host.put", subject="atlas")
    await store.apply([Put(ATLAS), Append(entry), Append(msgspec.structs.replace(entry, subject="x"))])
    orphan = msgspec.structs.replace(CHAT, host_id="nobody")
    with pytest.raises(StoreError):
        await store.apply([Append(entry), Put(orphan)])
    assert [(each.entry_id, each.subject) for each in await store.list_audit(10)] == [(2, "x"), (1, "atlas")]
    await store.add_samples([sample(1)], entry)
    assert len(await store.list_audit(10)) == 3


@pytest.mark.parametrize("statement", ["UPDATE audit_entries SET actor = 'me'", "DELETE FROM audit_entries"])
async def test_the_database_itself_lets_the_audit_log_only_grow(store, tmp_path, statement):
    await store.apply([Append(AuditEntry(at_ms=1, actor="root", action="token.create"))])
    with (
        sqlite3.connect(tmp_path / "deep/er/hive.sqlite3") as other,
        pytest.raises(sqlite3.IntegrityError, match="only grows"),
    ):
        other.execute(statement)
    assert len(await store.list_audit(10)) == 1


async def test_two_tokens_cannot_have_one_secret_and_a_revoked_one_keeps_none(store, tmp_path):
    key = AccessKey(name="a", secret_sha256=b"h" * 32)
    await store.apply([Put(key)])
    with pytest.raises(StoreError):
        await store.apply([Put(msgspec.structs.replace(key, name="b"))])
    marks = [msgspec.structs.replace(key, name=name, secret_sha256=b"", revoked_at=5) for name in ("a", "b")]
    await store.apply([Put(mark) for mark in marks])
    assert (await store.load()).access_keys == tuple(marks)
    with sqlite3.connect(tmp_path / "deep/er/hive.sqlite3") as other:
        assert other.execute("SELECT secret_sha256 FROM access_keys").fetchall() == [(None,), (None,)]
