"""Brings the stored schema to `tables.HEAD`, in one transaction, at every start.

alembic is slow to import, so a database that is at the head already never loads it. A schema that
this program does not know is refused: a newer version wrote it.
"""

from __future__ import annotations

import logging
from pathlib import Path

from sqlalchemy import Connection, inspect, text

from controlplane.store.tables import HEAD, VERSION_TABLE, metadata
from geniehive import __version__
from geniehive.errors import StoreError


def check_integrity(connection: Connection, name: str) -> None:
    """Refuses a SQLite file that is damaged."""
    verdict = connection.exec_driver_sql("PRAGMA quick_check(1)").scalar_one()
    if verdict != "ok":
        first = str(verdict).strip().splitlines()[-1]
        raise StoreError(f"the database {name} is damaged ({first}): restore a backup, or move the file away")


def migrate(connection: Connection, name: str) -> None:
    """Applies what migrations are missing; `name` is for messages.

    Raises:
        StoreError: The schema is newer than this program, or the tables are somebody else's.
    """
    revision = stored_revision(connection, name)
    if revision != HEAD:
        _upgrade(connection, name, revision)


def stored_revision(connection: Connection, name: str) -> str | None:
    """The revision of the stored schema; None for an empty database."""
    found = set(inspect(connection).get_table_names())
    if VERSION_TABLE in found:
        version: str | None = connection.execute(text(f"SELECT version_num FROM {VERSION_TABLE}")).scalar()  # noqa: S608 - a constant
        return version
    foreign = found if connection.dialect.name == "sqlite" else found & set(metadata.tables)
    if foreign:
        raise StoreError(
            f"the database {name} holds tables that are not GenieHive's ({', '.join(sorted(foreign)[:3])}): point"
            " storage.url at another database"
        )
    return None


def _upgrade(connection: Connection, name: str, revision: str | None) -> None:
    logging.getLogger("alembic.runtime.plugins").setLevel(logging.WARNING)  # it lists its own parts at each import
    # Imported here: most starts need neither.
    from alembic import command  # noqa: PLC0415
    from alembic.config import Config  # noqa: PLC0415
    from alembic.script import ScriptDirectory  # noqa: PLC0415

    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    if revision is not None and revision not in known:
        raise StoreError(
            f"the database {name} has schema {revision}, which GenieHive {__version__} does not know: a newer version"
            " wrote it. Install that version, or restore a backup from before it"
        )
    command.upgrade(config, "head")
