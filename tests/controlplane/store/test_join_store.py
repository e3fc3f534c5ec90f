"""Who joins, in the database: one at a time, whatever the database would let through."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from types import SimpleNamespace

from sqlalchemy import Select
from sqlalchemy.dialects import postgresql

from controlplane.join_book import Member, MemberState
from controlplane.store.join_store import JoinStore


class Rows:
    """A database with one table of documents whose transactions overlap, as those of PostgreSQL do."""

    def __init__(self) -> None:
        self.committed: dict[str, str] = {}

    @asynccontextmanager
    async def begin(self):
        await asyncio.sleep(0)
        written: dict[str, str] = {}

        async def execute(statement, rows=()):
            await asyncio.sleep(0)
            for row in rows:
                written[row["name"]] = row["document"]
            found = self.committed.get("atlas") if isinstance(statement, Select) else None
            return SimpleNamespace(scalar_one_or_none=lambda: found)

        yield SimpleNamespace(execute=execute, dialect=postgresql.dialect())
        await asyncio.sleep(0)
        self.committed |= written


async def test_of_two_who_want_one_new_name_at_the_same_time_the_second_sees_the_first():
    rows = Rows()
    store = JoinStore(SimpleNamespace(writer=rows, reader=rows))
    seen = []

    def decide(known: Member | None) -> Member:
        seen.append(known)
        return Member(kind="host", name="atlas", state=MemberState.JOINED, since_ms=1)

    await asyncio.gather(*(store.change("host", "atlas", decide) for _ in range(2)))
    assert seen[0] is None
    assert seen[1] is not None
