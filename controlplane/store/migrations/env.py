"""Run by alembic: applies migrations on the connection that `controlplane.store.migrate` hands over."""

from __future__ import annotations

from alembic import context

from controlplane.store.tables import VERSION_TABLE, metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    transactional_ddl=True,
    render_as_batch=True,
    version_table=VERSION_TABLE,
)
context.run_migrations()
