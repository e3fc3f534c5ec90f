"""What the database says when it refuses, as one line that says what to do.

SQLAlchemy's own texts carry the statement and its parameters; only the driver's line is kept.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from geniehive.errors import StoreError

_ADVICE: tuple[tuple[str, str], ...] = (
    ("locked", "another program holds the database's lock: end that program, then repeat"),
    ("full", "the disk is full: free some space, then repeat"),
    ("malformed", "the database is damaged: stop the control plane and restore a backup"),
    ("not a database", "the file is damaged, or no SQLite database: restore a backup, or point storage.url elsewhere"),
    ("readonly", "the database cannot be written: check the owner and the mode of the file and its folder"),
    ("unable to open", "the database cannot be opened: check the owner and the mode of the file and its folder"),
    ("disk i/o error", "the disk fails or is full: look at the system's log"),
    ("password", "the database refuses the user or password in storage.url"),
)


def explain(error: BaseException) -> str:
    """The driver's own line and what to do about it."""
    cause = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
    said = str(cause).strip().splitlines()[0] if str(cause).strip() else type(cause).__name__
    said = said.partition(": ")[2] if said.startswith("<class") else said
    advice = next((words for sign, words in _ADVICE if sign in said.lower()), "")
    return f"{said}; {advice}" if advice else said


@contextmanager
def as_store_error(doing: str) -> Iterator[None]:
    """Turns every way in which a database can refuse into a `StoreError` that begins with `doing`."""
    try:
        yield
    except TimeoutError as error:
        raise StoreError(f"{doing}: the database did not answer in time; look at its disk or network") from error
    except (SQLAlchemyError, OSError, OverflowError, UnicodeError) as error:
        raise StoreError(f"{doing}: {explain(error)}") from error
