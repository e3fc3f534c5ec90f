from __future__ import annotations

import hashlib
import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from controlplane.events import Put
from controlplane.store import tables
from controlplane.store.sql_store import SqlStore
from geniehive.errors import ConfigError, StoreError
from geniehive.resources import Role


def url_of(path: Path) -> str:
    return f"sqlite+aiosqlite:///{path}"


async def opened_and_closed(path: Path) -> None:
    await (await SqlStore.open(url_of(path))).close()


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("", "is no database URL; write sqlite"),
        ("state/hive.sqlite3", "is no database URL; write sqlite"),
        ("sqlite:///hive.sqlite3", r"write sqlite\+aiosqlite://"),
        ("postgresql://me:secret@db/hive", r"write postgresql\+asyncpg://"),
        ("oracular://db/hive", "oracular.*; write sqlite"),
    ],
)
async def test_a_url_that_cannot_work_says_what_to_write(url, says):
    with pytest.raises(ConfigError, match=says) as raised:
        await SqlStore.open(url)
    assert "secret" not in raised.value.message
    assert "\n" not in raised.value.message


async def test_a_missing_driver_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "asyncpg", None)
    with pytest.raises(ConfigError, match=r"package asyncpg; install it with: pip install 'geniehive\[postgres\]'"):
        await SqlStore.open("postgresql+asyncpg://me:secret@127.0.0.1/hive")


async def test_an_unreachable_server_is_a_store_error_without_the_password():
    with pytest.raises(StoreError, match="cannot prepare the database postgresql") as raised:
        await SqlStore.open("postgresql+asyncpg://me:secret@127.0.0.1:1/hive")
    assert "secret" not in raised.value.message


@pytest.mark.parametrize("damage", ["overwritten", "cut", "flipped"])
async def test_a_damaged_database_is_refused_and_left_as_it_is(tmp_path, damage):
    path = tmp_path / "hive.sqlite3"
    store = await SqlStore.open(url_of(path))
    await store.apply([Put(Role(role_id=f"r{number}", description="x" * 500)) for number in range(200)])
    await store.close()
    content = bytearray(path.read_bytes())
    match damage:
        case "overwritten":
            content[:100] = b"?" * 100
        case "cut":
            del content[len(content) // 2 :]
        case "flipped":
            last = len(content) // 4  # rows alone: nothing that is read before the check
            content[-last:] = bytes(last)
    path.write_bytes(content)
    before = hashlib.sha256(path.read_bytes()).digest()
    with pytest.raises(StoreError, match="restore a backup") as raised:
        await SqlStore.open(url_of(path))
    assert str(path) in raised.value.message
    assert "\n" not in raised.value.message
    assert hashlib.sha256(path.read_bytes()).digest() == before


async def test_a_schema_of_a_newer_version_is_refused(tmp_path):
    path = tmp_path / "hive.sqlite3"
    await opened_and_closed(path)
    with sqlite3.connect(path) as other:
        other.execute(f"UPDATE {tables.VERSION_TABLE} SET version_num = '9999'")
    other.close()
    with pytest.raises(StoreError, match=r"schema 9999.*a newer version wrote it. Install that version"):
        await SqlStore.open(url_of(path))


async def test_somebody_elses_database_is_refused(tmp_path):
    path = tmp_path / "firefox.sqlite3"
    with sqlite3.connect(path) as other:
        other.execute("CREATE TABLE bookmarks (id INTEGER)")
    other.close()
    with pytest.raises(StoreError, match=r"not GenieHive's .bookmarks.: point storage.url at another"):
        await SqlStore.open(url_of(path))


async def test_a_second_control_plane_on_one_file_is_refused_until_the_first_ends(tmp_path):
    path = tmp_path / "hive.sqlite3"
    first = await SqlStore.open(url_of(path))
    with pytest.raises(ConfigError, match=f"in use by another control plane .process {os.getpid()}.: stop it"):
        await SqlStore.open(url_of(path))
    await first.close()
    await opened_and_closed(path)


async def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "state").write_text("a file, not a folder")
    with pytest.raises(ConfigError, match=r"cannot make the folder .*/state"):
        await SqlStore.open(url_of(tmp_path / "state" / "hive.sqlite3"))


async def test_a_refused_opening_leaves_no_lock_behind(tmp_path):
    path = tmp_path / "hive.sqlite3"
    path.write_bytes(b"not a database" * 100)
    for _ in range(2):
        with pytest.raises(StoreError, match="restore a backup"):
            await SqlStore.open(url_of(path))


async def test_a_database_in_memory_works_for_the_life_of_the_store():
    store = await SqlStore.open("sqlite+aiosqlite:///:memory:")
    await store.apply([Put(Role(role_id="coder"))])
    assert [role.role_id for role in (await store.load()).roles] == ["coder"]
    await store.close()


WRITER = """
import asyncio, sys
from controlplane.events import Put
from controlplane.store.sql_store import SqlStore
from geniehive.resources import Asset, Host, Service

async def main(url):
    store = await SqlStore.open(url)
    for number in range(1_000_000):
        host = Host(host_id=f"h{number:06}")
        service = Service(service_id=f"h{number:06}/chat", host_id=host.host_id, assets=(Asset(asset_id="a"),) * 3)
        await store.apply([Put(host), Put(service)])
        print(number, flush=True)

asyncio.run(main(sys.argv[1]))
"""


async def test_what_was_acknowledged_survives_a_kill_during_writes(tmp_path):
    path = tmp_path / "hive.sqlite3"
    acknowledged = -1
    for _ in range(2):
        writer = subprocess.Popen([sys.executable, "-c", WRITER, url_of(path)], stdout=subprocess.PIPE, text=True)
        try:
            for line in writer.stdout:
                acknowledged = max(acknowledged, int(line))
                if int(line) >= 40:
                    break
        finally:
            writer.send_signal(signal.SIGKILL)
            rest = writer.stdout.read()
            writer.wait()
        acknowledged = max([acknowledged, *map(int, rest.split())])
        store = await SqlStore.open(url_of(path))  # neither the lock nor a journal stands in the way
        registry = await store.load()
        await store.close()
        hosts = {host.host_id for host in registry.hosts}
        assert {f"h{number:06}" for number in range(acknowledged + 1)} <= hosts
        assert {service.host_id for service in registry.services} == hosts  # whole transactions only
        assert all(len(service.assets) == 3 for service in registry.services)
