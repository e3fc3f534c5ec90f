"""Opens the database: URL checks, the engine with its pragmas, the file lock, the integrity check.

SQLite runs in write-ahead mode with full synchronisation: what was acknowledged survives kill -9 and
a power cut. Every wait has a bound: `BUSY_TIMEOUT_MS` for another program's lock, `DEADLINE_S` for
anything else. Writers begin with BEGIN IMMEDIATE, so a lock is met before any work is done.
Each connection works on a thread of its own; the event loop is never blocked.
"""

from __future__ import annotations

import fcntl
import os
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from sqlalchemy import URL, Connection, event, make_url
from sqlalchemy.exc import ArgumentError, InvalidRequestError, NoSuchModuleError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from controlplane.store.failures import explain
from geniehive.errors import ConfigError

BUSY_TIMEOUT_MS = 3000
DEADLINE_S = 8.0  # less than the loop waits, so that its error says more than the loop's
EXAMPLES = "sqlite+aiosqlite:///state/geniehive.sqlite3 or postgresql+asyncpg://user:password@host/geniehive"
_DRIVERS = {"sqlite": "sqlite+aiosqlite", "postgresql": "postgresql+asyncpg", "postgres": "postgresql+asyncpg"}
_READS = "geniehive_reads"


@dataclass(frozen=True, kw_only=True)
class Database:
    """An open database: `writer` and `reader` share one pool; `lock` is held until `close`."""

    url: URL
    writer: AsyncEngine
    reader: AsyncEngine
    lock: IO[str] | None

    @property
    def name(self) -> str:
        """What to call it in messages, without the password."""
        return self.url.database or "" if is_sqlite(self.url) else self.url.render_as_string(hide_password=True)

    async def close(self) -> None:
        """Ends all connections and lets go of the lock."""
        await self.writer.dispose()
        if self.lock is not None:
            self.lock.close()


def is_sqlite(url: URL) -> bool:
    """Whether the URL names a SQLite database."""
    return url.get_backend_name() == "sqlite"


def open_database(text: str) -> Database:
    """The database that a URL names; nothing is read yet.

    Raises:
        ConfigError: The URL makes no sense, its driver is missing, or another control plane has the file.
    """
    url = _parse(text)
    lock = _lock(_prepared(url)) if is_sqlite(url) and url.database not in {None, "", ":memory:"} else None
    try:
        writer = _engine(url)
    except ConfigError:
        if lock is not None:
            lock.close()
        raise
    return Database(url=url, writer=writer, reader=writer.execution_options(**{_READS: True}), lock=lock)


def _parse(text: str) -> URL:
    try:
        url = make_url(text)
    except (ArgumentError, ValueError) as error:
        raise ConfigError(f"storage.url is no database URL; write {EXAMPLES}", param="storage.url") from error
    if url.drivername in _DRIVERS:
        better = _DRIVERS[url.drivername]
        raise ConfigError(
            f"storage.url: write {better}://… in place of {url.drivername}://… (the driver must be asynchronous)",
            param="storage.url",
        )
    return url


def _engine(url: URL) -> AsyncEngine:
    try:
        engine = create_async_engine(url, **_options(url))
    except ModuleNotFoundError as error:
        extra = "; install it with: pip install 'geniehive[postgres]'" if error.name == "asyncpg" else ""
        raise ConfigError(f"storage.url needs the Python package {error.name}{extra}", param="storage.url") from error
    except (NoSuchModuleError, InvalidRequestError, ArgumentError) as error:
        raise ConfigError(f"storage.url: {explain(error)}; write {EXAMPLES}", param="storage.url") from error
    if is_sqlite(url):
        event.listen(engine.sync_engine, "connect", _on_connect)
        event.listen(engine.sync_engine, "begin", _on_begin)
    return engine


def _options(url: URL) -> dict[str, Any]:
    if is_sqlite(url):
        return {"hide_parameters": True}
    # asyncpg's own bounds, in seconds: connecting, and any one statement.
    return {
        "hide_parameters": True,
        "pool_pre_ping": True,
        "pool_timeout": DEADLINE_S,
        "connect_args": {"timeout": DEADLINE_S / 2, "command_timeout": DEADLINE_S / 2},
    }


def _on_connect(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # the driver must not begin transactions by itself: `_on_begin` does
    cursor = connection.cursor()
    for pragma in (
        f"busy_timeout={BUSY_TIMEOUT_MS}",  # first: the others may have to wait
        "journal_mode=WAL",
        "synchronous=FULL",
        "foreign_keys=ON",
    ):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _on_begin(connection: Connection) -> None:
    reads = connection.get_execution_options().get(_READS, False)
    connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")


def _prepared(url: URL) -> Path:
    path = Path(str(url.database))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"storage.url: cannot make the folder {path.parent} ({error.strerror}); choose another, or fix its mode",
            param="storage.url",
        ) from error
    return path


def _lock(path: Path) -> IO[str]:
    """Holds the database for this process; the system lets go when the process ends, however it ends."""
    try:
        file = Path(f"{path}.lock").open("a+", encoding="ascii")  # noqa: SIM115 - held until the database is closed
    except OSError as error:
        raise ConfigError(
            f"storage.url: cannot write in {path.parent} ({error.strerror}); choose another folder, or fix its mode",
            param="storage.url",
        ) from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.seek(0)
        owner = file.read(32).strip() or "unknown"
        file.close()
        raise ConfigError(
            f"the database {path} is in use by another control plane (process {owner}): stop it, or give this one a"
            " storage.url of its own",
            param="storage.url",
        ) from error
    file.truncate(0)
    file.write(str(os.getpid()))
    file.flush()
    return file
