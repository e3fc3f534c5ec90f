"""The tables, as the newest migration leaves them (a test compares the two).

A column stands for itself where a query needs it; everything else of a resource is one JSON
`document`, so that a new field of a resource needs no migration. Foreign keys are checked at the
commit, so the order of changes inside one transaction does not matter.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import BigInteger, Column, Float, ForeignKey, Index, Integer, MetaData, String, Table, Text

HEAD = "0003"
"""Revision of the newest migration: stored databases at it start without loading alembic."""

VERSION_TABLE = "geniehive_schema"
"""Where alembic keeps the revision; a name of our own, since a PostgreSQL may be shared."""

metadata = MetaData()


# SQLite counts by itself only in a column that is INTEGER, and that has 64 bits anyway.
_SERIAL = BigInteger().with_variant(Integer(), "sqlite")


def _reference(target: str) -> ForeignKey:
    return ForeignKey(target, ondelete="CASCADE", deferrable=True, initially="DEFERRED")


def _document() -> Column[Any]:
    return Column("document", Text, nullable=False)


meta = Table(
    "meta",
    metadata,
    Column("name", String, primary_key=True),
    Column("value", BigInteger, nullable=False),
)

hosts = Table(
    "hosts",
    metadata,
    Column("host_id", String, primary_key=True),
    Column("availability", String, nullable=False),
    _document(),
)

services = Table(
    "services",
    metadata,
    Column("service_id", String, primary_key=True),
    Column("host_id", String, _reference("hosts.host_id"), nullable=False, index=True),
    Column("endpoint", String, nullable=False),
    _document(),
)

assets = Table(
    "assets",
    metadata,
    Column("service_id", String, _reference("services.service_id"), primary_key=True),
    Column("position", Integer, primary_key=True),
    Column("asset_id", String, nullable=False, index=True),
    Column("family", String, nullable=False),
    _document(),
)

roles = Table(
    "roles",
    metadata,
    Column("role_id", String, primary_key=True),
    Column("operation", String, nullable=False),
    _document(),
)

commands = Table(
    "commands",
    metadata,
    Column("command_id", String, primary_key=True),
    Column("host_id", String, nullable=False, index=True),
    Column("state", String, nullable=False),
    Column("created_at_ms", BigInteger, nullable=False, index=True),
    _document(),
)

benchmark_samples = Table(
    "benchmark_samples",
    metadata,
    Column("sample_id", String, primary_key=True),
    Column("service_id", String, nullable=False),
    Column("workload", String, nullable=False),
    Column("measured_at_ms", BigInteger, nullable=False, index=True),
    Column("quality", Float, nullable=True),
    _document(),
    Index("ix_benchmark_samples_service_workload", "service_id", "workload", "measured_at_ms"),
)

access_keys = Table(
    "access_keys",
    metadata,
    Column("name", String, primary_key=True),
    Column("secret_sha256", String(64), nullable=True, unique=True),
    Column("revoked_at", BigInteger, nullable=True),
    _document(),
)

audit_entries = Table(
    "audit_entries",
    metadata,
    Column("entry_id", _SERIAL, primary_key=True, autoincrement=True),
    Column("at_ms", BigInteger, nullable=False, index=True),
    Column("actor", String, nullable=False),
    Column("action", String, nullable=False),
    Column("subject", String, nullable=False),
    Column("outcome", String, nullable=False),
    sqlite_autoincrement=True,
)

join_tokens = Table(
    "join_tokens",
    metadata,
    Column("token_id", String, primary_key=True),
    Column("expires_at_ms", BigInteger, nullable=False),
    _document(),
)

members = Table(
    "members",
    metadata,
    Column("kind", String, primary_key=True),
    Column("name", String, primary_key=True),
    Column("state", String, nullable=False),
    _document(),
)
