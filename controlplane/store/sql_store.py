"""The store: what must outlive a restart, in SQLite or PostgreSQL.

`open` refuses a database that it cannot trust, `load` reads the registry once at start, `apply` makes
the loop's changes in one transaction. Every method raises StoreError when the database refuses, and
does so within `database.DEADLINE_S`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from itertools import groupby
from typing import Any, Self, TypeVar

from sqlalchemy import Column, Table, bindparam, case, delete, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from controlplane.events import Append, Change, Delete, Kind, Put, Registry
from controlplane.store import rows, tables
from controlplane.store.database import DEADLINE_S, Database, is_sqlite, open_database
from controlplane.store.failures import as_store_error
from controlplane.store.join_store import JoinStore
from controlplane.store.migrate import check_integrity, migrate
from geniehive.resources import (
    AccessKey,
    Asset,
    AuditEntry,
    BenchmarkSample,
    Command,
    Host,
    Resource,
    Role,
    Service,
)

MIGRATION_DEADLINE_S = 300.0
"""A migration may rewrite every row; it runs before anything is served."""

_TERM = "epoch"
ResourceT = TypeVar("ResourceT", bound=Resource)


class SqlStore:
    """An open store; made by `open`, ended by `close`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @classmethod
    async def open(cls, url: str) -> Self:
        """Opens, checks and migrates the database at `url`.

        Raises:
            ConfigError: The URL, the folder or the driver is wrong, or another control plane has the file.
            StoreError: The file is damaged, of a newer version, or not ours. It is left as it is.
        """
        store = cls(open_database(url))
        try:
            await store._prepare()
        except BaseException:
            await store.close()
            raise
        return store

    async def close(self) -> None:
        """Ends all connections."""
        await self._database.close()

    @property
    def joins(self) -> JoinStore:
        """Join tokens and members, in the same database."""
        return JoinStore(self._database)

    async def load(self) -> Registry:
        """Everything that the store holds, but for benchmark samples; commands oldest first."""
        async with self._transaction(self._database.reader, "cannot read the registry") as connection:
            hosts = await _all(connection, Kind.HOST, Host)
            services = await _all(connection, Kind.SERVICE, Service)
            assets = await _assets(connection)
            roles = await _all(connection, Kind.ROLE, Role)
            commands = await _all(connection, Kind.COMMAND, Command)
            access_keys = await _all(connection, Kind.ACCESS_KEY, AccessKey)
        return Registry(
            hosts=hosts,
            services=rows.with_assets(services, assets),
            roles=roles,
            commands=tuple(sorted(commands, key=lambda command: (command.created_at_ms, command.command_id))),
            access_keys=access_keys,
        )

    async def apply(self, changes: Sequence[Change]) -> None:
        """Makes the changes, in order, in one transaction: all or none."""
        async with self._transaction(self._database.writer, "cannot store a change of the cluster") as connection:
            for (kind, what), found in groupby(changes, key=lambda change: (change.kind, type(change))):
                group = list(found)
                if what is Put:
                    await _put(connection, kind, [change.resource for change in group if isinstance(change, Put)])
                elif what is Delete:
                    await _delete(connection, kind, [change.key for change in group])
                else:
                    await _append(connection, [change.entry for change in group if isinstance(change, Append)])

    async def next_epoch(self, at_least: int = 1) -> int:
        """A term larger than any before, and not below `at_least`: the epoch of a control plane that starts."""
        following = tables.meta.c.value + 1
        insert = _insert(self._database, tables.meta).values(name=_TERM, value=at_least)
        statement = insert.on_conflict_do_update(
            index_elements=["name"], set_={"value": case((following > at_least, following), else_=at_least)}
        ).returning(tables.meta.c.value)
        async with self._transaction(self._database.writer, "cannot begin a term") as connection:
            term: int = (await connection.execute(statement)).scalar_one()
        return term

    async def add_samples(self, samples: Sequence[BenchmarkSample], audit: AuditEntry | None = None) -> None:
        """Stores samples, all or none; one whose id is stored already changes nothing. `audit` goes with them."""
        if not samples:
            return
        statement = _insert(self._database, tables.benchmark_samples).on_conflict_do_nothing()
        async with self._transaction(self._database.writer, "cannot store benchmark samples") as connection:
            await connection.execute(statement, [rows.sample_row(sample) for sample in samples])
            if audit is not None:
                await _append(connection, [audit])

    async def list_samples(self, service_id: str, workload: str, limit: int) -> tuple[BenchmarkSample, ...]:
        """At most `limit` samples, newest first; an empty service or workload is any."""
        table = tables.benchmark_samples
        query = select(table.c.sample_id, table.c.document).order_by(table.c.measured_at_ms.desc(), table.c.sample_id)
        if service_id:
            query = query.where(table.c.service_id == service_id)
        if workload:
            query = query.where(table.c.workload == workload)
        async with self._transaction(self._database.reader, "cannot read benchmark samples") as connection:
            found = (await connection.execute(query.limit(limit))).all()
        return tuple(rows.decode(document, BenchmarkSample, f"sample {key}") for key, document in found)

    async def list_audit(
        self, limit: int, before: int = 0, actor: str = "", action: str = ""
    ) -> tuple[AuditEntry, ...]:
        """At most `limit` entries, newest first: before an id (0 is none), of an actor, of actions that begin so."""
        table = tables.audit_entries
        query = select(table).order_by(table.c.entry_id.desc())
        if before:
            query = query.where(table.c.entry_id < before)
        if actor:
            query = query.where(table.c.actor == actor)
        if action:
            query = query.where(table.c.action.startswith(action, autoescape=True))
        async with self._transaction(self._database.reader, "cannot read the audit log") as connection:
            found = (await connection.execute(query.limit(limit))).mappings().all()
        return tuple(AuditEntry(**each) for each in found)

    async def _prepare(self) -> None:
        database = self._database
        if is_sqlite(database.url):
            async with self._transaction(database.reader, f"cannot open the database {database.name}") as connection:
                await connection.run_sync(check_integrity, database.name)
        doing = f"cannot prepare the database {database.name}"
        async with self._transaction(database.writer, doing, MIGRATION_DEADLINE_S) as connection:
            await connection.run_sync(migrate, database.name)

    @asynccontextmanager
    async def _transaction(
        self, engine: AsyncEngine, doing: str, deadline_s: float = DEADLINE_S
    ) -> AsyncIterator[AsyncConnection]:
        with as_store_error(doing):
            async with asyncio.timeout(deadline_s), engine.begin() as connection:
                yield connection


def _insert(database: Database, table: Table) -> sqlite.Insert | postgresql.Insert:
    return sqlite.insert(table) if is_sqlite(database.url) else postgresql.insert(table)


async def _all(connection: AsyncConnection, kind: Kind, cls: type[ResourceT]) -> tuple[ResourceT, ...]:
    mapped = rows.MAPPED[kind]
    key = mapped.table.c[mapped.key]
    found = await connection.execute(select(key, mapped.table.c.document).order_by(key))
    return tuple(rows.decode(document, cls, f"{kind} {name}") for name, document in found)


async def _assets(connection: AsyncConnection) -> dict[str, list[Asset]]:
    table = tables.assets
    query = select(table.c.service_id, table.c.document).order_by(table.c.service_id, table.c.position)
    assets: dict[str, list[Asset]] = {}
    for service_id, document in await connection.execute(query):
        assets.setdefault(service_id, []).append(rows.decode(document, Asset, f"asset of service {service_id}"))
    return assets


async def _put(connection: AsyncConnection, kind: Kind, resources: Sequence[Any]) -> None:
    mapped = rows.MAPPED[kind]
    insert = (sqlite if connection.dialect.name == "sqlite" else postgresql).insert(mapped.table)
    changed = {column.name: insert.excluded[column.name] for column in mapped.table.columns if not column.primary_key}
    statement = insert.on_conflict_do_update(index_elements=[mapped.key], set_=changed)
    await connection.execute(statement, [mapped.row(resource) for resource in resources])
    if kind is Kind.SERVICE:
        await _put_assets(connection, resources)


async def _append(connection: AsyncConnection, entries: Sequence[AuditEntry]) -> None:
    await connection.execute(tables.audit_entries.insert(), [rows.audit_row(entry) for entry in entries])


async def _put_assets(connection: AsyncConnection, services: Sequence[Service]) -> None:
    """Replaces the assets of services; of two services with one id the later counts."""
    latest = {service.service_id: service for service in services}
    await _delete_by(connection, tables.assets.c.service_id, list(latest))
    if values := [row for service in latest.values() for row in rows.asset_rows(service)]:
        await connection.execute(tables.assets.insert(), values)


async def _delete(connection: AsyncConnection, kind: Kind, keys: Sequence[str]) -> None:
    mapped = rows.MAPPED[kind]
    await _delete_by(connection, mapped.table.c[mapped.key], keys)


async def _delete_by(connection: AsyncConnection, column: Column[Any], keys: Sequence[str]) -> None:
    # One execution for each key: a list in the statement has a limit in every database.
    statement = delete(column.table).where(column == bindparam("key"))
    await connection.execute(statement, [{"key": key} for key in keys])
