from __future__ import annotations

import sqlite3
import subprocess
import sys

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from controlplane.store import migrate, tables
from controlplane.store.sql_store import SqlStore


async def test_the_migrations_make_the_tables_that_the_program_uses(tmp_path):
    store = await SqlStore.open(f"sqlite+aiosqlite:///{tmp_path}/hive.sqlite3")

    def differences(connection):
        context = MigrationContext.configure(
            connection, opts={"version_table": tables.VERSION_TABLE, "compare_type": True}
        )
        return compare_metadata(context, tables.metadata)

    async with store._database.reader.connect() as connection:
        assert await connection.run_sync(differences) == []
        assert await connection.run_sync(migrate.stored_revision, "") == tables.HEAD
    await store.close()


def test_the_program_knows_the_newest_migration():
    config = Config()
    config.set_main_option("script_location", migrate.__file__.replace("migrate.py", "migrations"))
    assert ScriptDirectory.from_config(config).get_heads() == [tables.HEAD]


async def test_a_database_at_the_newest_schema_opens_without_alembic(tmp_path):
    url = f"sqlite+aiosqlite:///{tmp_path}/hive.sqlite3"
    await (await SqlStore.open(url)).close()
    program = (
        "import asyncio, sys; from controlplane.store.sql_store import SqlStore\n"
        f"async def main(): await (await SqlStore.open({url!r})).close()\n"
        "asyncio.run(main()); assert 'alembic' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


async def test_a_migration_that_was_cut_is_done_again(tmp_path, monkeypatch):
    url = f"sqlite+aiosqlite:///{tmp_path}/hive.sqlite3"

    def cut(connection, name):
        migrate.migrate(connection, name)
        raise KeyboardInterrupt

    monkeypatch.setattr("controlplane.store.sql_store.migrate", cut)
    with pytest.raises(KeyboardInterrupt):
        await SqlStore.open(url)
    monkeypatch.undo()
    with sqlite3.connect(tmp_path / "hive.sqlite3") as other:
        assert other.execute("SELECT count(*) FROM sqlite_master").fetchone() == (0,)
    other.close()
    store = await SqlStore.open(url)
    assert await store.next_epoch() == 1
    await store.close()


@pytest.mark.parametrize("how", ["UPDATE audit_entries SET actor = 'x'", "DELETE FROM audit_entries", "REPLACE"])
async def test_the_database_refuses_to_change_the_audit_log(tmp_path, how):
    await (await SqlStore.open(f"sqlite+aiosqlite:///{tmp_path}/hive.sqlite3")).close()
    columns, row = "entry_id, at_ms, actor, action, subject, outcome", "7, 1, 'root', 'token.create', 'ci', 'ok'"
    if how == "REPLACE":
        how = f"REPLACE INTO audit_entries ({columns}) VALUES (7, 1, 'x', 'y', 'z', 'ok')"
    with sqlite3.connect(tmp_path / "hive.sqlite3") as other:
        other.execute(f"INSERT INTO audit_entries ({columns}) VALUES ({row})")
        with pytest.raises(sqlite3.IntegrityError, match="only grows"):
            other.execute(how)
        assert other.execute("SELECT actor FROM audit_entries").fetchall() == [("root",)]
    other.close()
