"""Join tokens and members in the database.

A token is used in one transaction with what its use changes, behind a lock of its row: two that come with it at the
same time cannot both get in.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import msgspec
from sqlalchemy import Table, delete, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from controlplane.join_book import Member, Ticket
from controlplane.store import rows, tables
from controlplane.store.database import DEADLINE_S, Database
from controlplane.store.failures import as_store_error

FORGET_MS = 30 * 86_400_000
"""Tokens are remembered for so long after their end: "used already" is a better answer than "not known"."""

T = TypeVar("T", Ticket, Member)


class JoinStore:
    """See the module."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def members(self) -> tuple[Member, ...]:
        """All of them, by kind and name."""
        table = tables.members
        async with self._transaction("cannot read the members", reads=True) as connection:
            found = await connection.execute(select(table.c.kind, table.c.name, table.c.document))
            members = [rows.decode(document, Member, f"member {kind} {name}") for kind, name, document in found]
        return tuple(sorted(members, key=lambda member: (member.kind, member.name)))

    async def add_ticket(self, ticket: Ticket, now_ms: int) -> None:
        """Store a new token; those that ended long ago go."""
        table = tables.join_tokens
        async with self._transaction("cannot store a join token") as connection:
            await connection.execute(delete(table).where(table.c.expires_at_ms < now_ms - FORGET_MS))
            await _put(connection, table, _ticket_row(ticket))

    async def use(
        self,
        token_id: str,
        name_for: Callable[[Ticket | None], str],
        admit: Callable[[Ticket, Member | None], tuple[Ticket, Member]],
    ) -> Member:
        """Have a token used: `name_for` says under which name, `admit` what becomes of it. Raises what they raise."""
        async with self._transaction("cannot store who joined") as connection:
            ticket = await _one(connection, tables.join_tokens, Ticket, token_id=token_id)
            name = name_for(ticket)
            assert ticket is not None  # noqa: S101 - `name_for` has refused what is not there
            member = await _one(connection, tables.members, Member, kind=ticket.kind, name=name)
            ticket, member = admit(ticket, member)
            await _put(connection, tables.join_tokens, _ticket_row(ticket))
            await _put(connection, tables.members, _member_row(member))
        return member

    async def change(self, kind: str, name: str, decide: Callable[[Member | None], Member]) -> Member:
        """Have a member changed. Raises what `decide` raises."""
        async with self._transaction("cannot store a member") as connection:
            member = decide(await _one(connection, tables.members, Member, kind=kind, name=name))
            await _put(connection, tables.members, _member_row(member))
        return member

    @asynccontextmanager
    async def _transaction(self, doing: str, *, reads: bool = False) -> AsyncIterator[AsyncConnection]:
        engine = self._database.reader if reads else self._database.writer
        with as_store_error(doing):
            async with asyncio.timeout(DEADLINE_S), engine.begin() as connection:
                yield connection


async def _one(connection: AsyncConnection, table: Table, cls: type[T], **keys: str) -> T | None:
    query = select(table.c.document).filter_by(**keys).with_for_update()
    document = (await connection.execute(query)).scalar_one_or_none()
    return None if document is None else rows.decode(document, cls, " ".join(keys.values()))


async def _put(connection: AsyncConnection, table: Table, row: dict[str, Any]) -> None:
    insert = (sqlite if connection.dialect.name == "sqlite" else postgresql).insert(table)
    changed = {column.name: insert.excluded[column.name] for column in table.columns if not column.primary_key}
    keys = [column.name for column in table.primary_key]
    await connection.execute(insert.on_conflict_do_update(index_elements=keys, set_=changed), [row])


def _ticket_row(ticket: Ticket) -> dict[str, Any]:
    document = msgspec.json.encode(ticket).decode()
    return {"token_id": ticket.token_id, "expires_at_ms": ticket.expires_at_ms, "document": document}


def _member_row(member: Member) -> dict[str, Any]:
    document = msgspec.json.encode(member).decode()
    return {"kind": member.kind, "name": member.name, "state": member.state.value, "document": document}
