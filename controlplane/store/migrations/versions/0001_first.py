"""The first tables.

Revision: 0001
Revises: nothing
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision: str | None = None
branch_labels: str | None = None
depends_on: str | None = None


def _reference(column: str, target: str) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint([column], [target], ondelete="CASCADE", deferrable=True, initially="DEFERRED")


def upgrade() -> None:
    op.create_table(
        "meta",
        sa.Column("name", sa.String(), primary_key=True),
        sa.Column("value", sa.BigInteger(), nullable=False),
    )
    _hosts_and_services()
    op.create_table(
        "roles",
        sa.Column("role_id", sa.String(), primary_key=True),
        sa.Column("operation", sa.String(), nullable=False),
        sa.Column("document", sa.Text(), nullable=False),
    )
    _commands()
    _benchmark_samples()


def _hosts_and_services() -> None:
    op.create_table(
        "hosts",
        sa.Column("host_id", sa.String(), primary_key=True),
        sa.Column("availability", sa.String(), nullable=False),
        sa.Column("document", sa.Text(), nullable=False),
    )
    op.create_table(
        "services",
        sa.Column("service_id", sa.String(), primary_key=True),
        sa.Column("host_id", sa.String(), nullable=False),
        sa.Column("endpoint", sa.String(), nullable=False),
        sa.Column("document", sa.Text(), nullable=False),
        _reference("host_id", "hosts.host_id"),
    )
    op.create_index("ix_services_host_id", "services", ["host_id"])
    op.create_table(
        "assets",
        sa.Column("service_id", sa.String(), primary_key=True),
        sa.Column("position", sa.Integer(), primary_key=True),
        sa.Column("asset_id", sa.String(), nullable=False),
        sa.Column("family", sa.String(), nullable=False),
        sa.Column("document", sa.Text(), nullable=False),
        _reference("service_id", "services.service_id"),
    )
    op.create_index("ix_assets_asset_id", "assets", ["asset_id"])


def _commands() -> None:
    op.create_table(
        "commands",
        sa.Column("command_id", sa.String(), primary_key=True),
        sa.Column("host_id", sa.String(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("created_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("document", sa.Text(), nullable=False),
    )
    op.create_index("ix_commands_host_id", "commands", ["host_id"])
    op.create_index("ix_commands_created_at_ms", "commands", ["created_at_ms"])


def _benchmark_samples() -> None:
    op.create_table(
        "benchmark_samples",
        sa.Column("sample_id", sa.String(), primary_key=True),
        sa.Column("service_id", sa.String(), nullable=False),
        sa.Column("workload", sa.String(), nullable=False),
        sa.Column("measured_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("quality", sa.Float(), nullable=True),
        sa.Column("document", sa.Text(), nullable=False),
    )
    op.create_index("ix_benchmark_samples_measured_at_ms", "benchmark_samples", ["measured_at_ms"])
    op.create_index(
        "ix_benchmark_samples_service_workload", "benchmark_samples", ["service_id", "workload", "measured_at_ms"]
    )
