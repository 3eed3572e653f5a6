"""Opening a run.db: whose file it is, which version, who may write, and what to say otherwise.

The journal is SQLite's own default, a rollback journal: a run.db is one file, may lie on a network
file system and be read from a read-only one, which a write-ahead log does not allow. Writers take
the lock before they look, hold it for one run's rows (well under a second), and wait for each
other; readers open the file read-only and see whole runs.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from tracelens.errors import StoreError
from tracelens.sqlite import HEADER_BYTES, RUN_DB, application_id
from tracelens.store.migrations import MIGRATIONS, VERSION
from tracelens.store.sql import Queries, Sql
from tracelens.store.views import VIEWS, statements

if TYPE_CHECKING:
    from sqlite_utils import Database

#: How long one waits for another's transaction, s: a run's rows take well under one.
PATIENCE_S = 20.0
#: STRICT tables (sqlite.org/stricttables.html).
_OLDEST_SQLITE = (3, 37, 0)


def is_older(path: Path) -> bool:
    """Whether a store is of an earlier version of the tables."""
    _check(path)
    with open(path, "rb") as file:
        head = file.read(HEADER_BYTES)
    return int.from_bytes(head[60:64], "big") < VERSION  # PRAGMA user_version


@contextmanager
def reading(path: Path) -> Iterator[Sql]:
    """The store at `path`, read-only, in one transaction: what is read belongs together.

    Raises
    ------
    StoreError
        If it is none, of another version, or locked.
    """
    _check(path)
    with _explained(path):
        db = Sql(_connect(path, "ro"))
        try:
            # a file from elsewhere may hold views in the place of tables
            db.execute("PRAGMA trusted_schema = OFF")
            try:
                _begin(db, "BEGIN")
            except sqlite3.OperationalError as e:
                if "readonly" not in str(e):
                    raise
                _recover(path)
                _begin(db, "BEGIN")
            _check_version(path, db, writing=False)
            yield db
        finally:
            db.conn.rollback()
            db.close()


@contextmanager
def writing(path: Path, create: bool = False) -> Iterator[Database]:
    """The store at `path` in one transaction of its only writer; all or nothing is kept.

    Raises
    ------
    StoreError
        If it is none, of a later version, cannot be written, or stays locked.
    """
    if not (create and (not path.exists() or path.stat().st_size == 0)):
        _check(path)
    from sqlite_utils import Database  # loads much; readers do without

    with _explained(path):
        db = Database(_connect(path, "rwc" if create else "rw"), execute_plugins=False)
        try:
            db.execute("PRAGMA foreign_keys = ON")
            db.execute("BEGIN IMMEDIATE")
            _prepare(path, db)
            yield db
            db.conn.commit()
        except BaseException:
            db.conn.rollback()
            raise
        finally:
            db.close()


def _connect(path: Path, mode: str) -> sqlite3.Connection:
    uri = f"file:{quote(str(path.absolute()))}?mode={mode}"
    return sqlite3.connect(uri, uri=True, timeout=PATIENCE_S)


def _begin(db: Sql, statement: str) -> None:
    """Begin, and read: a lock is taken only then."""
    db.execute(statement)
    try:
        db.execute("PRAGMA schema_version").fetchone()
        db.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    except sqlite3.OperationalError:
        db.conn.rollback()
        raise


def _recover(path: Path) -> None:
    """Undo what a writer that was killed left half written, which a reader may not."""
    db = Sql(_connect(path, "rw"))
    try:
        db.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    finally:
        db.close()


def _prepare(path: Path, db: Database) -> None:
    """Make the tables of a new file; bring those of an older version up to date."""
    if not db.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]:
        for statement in statements():
            db.execute(statement)
        db.execute(f"PRAGMA application_id = {RUN_DB}")
    else:
        version = _check_version(path, db, writing=True)
        for migrate in MIGRATIONS[version - 1 :]:
            migrate(db)
        _renew_views(db)
    db.execute(f"PRAGMA user_version = {VERSION}")


def _renew_views(db: Database) -> None:
    """Our views hold nothing: they are those of the tracelens that writes; others stay."""
    there = dict(db.execute("SELECT name, sql FROM sqlite_schema WHERE type = 'view'").fetchall())
    for view in VIEWS:
        if there.get(view.name) != view.create:
            db.execute(f"DROP VIEW IF EXISTS {view.name}")
            db.execute(view.create)


def damaged(path: Path, why: str) -> StoreError:
    """The error for a store whose content makes no sense."""
    return StoreError(
        f"{path}: damaged: {why}", hint="restore it from a copy, or read the runs again"
    )


def _check(path: Path) -> None:
    """Is there a run.db?"""
    if sqlite3.sqlite_version_info < _OLDEST_SQLITE:
        raise StoreError(
            f"SQLite {sqlite3.sqlite_version} is too old for a run.db",
            hint="use a Python with SQLite 3.37 or later",
        )
    if not path.is_file():
        raise StoreError(
            f"{path}: no such file", hint="`tracelens analyze RUN --db run.db` makes it"
        )
    try:
        with open(path, "rb") as file:
            head = file.read(HEADER_BYTES)
    except OSError as e:
        raise StoreError(f"{path}: {e.strerror or e}", hint="may you read it?") from e
    found = application_id(head)
    if found != RUN_DB:
        what = "not a SQLite file" if found is None else "a SQLite file of another program"
        raise StoreError(f"{path}: this is {what}, not a run.db", hint="it was left as it is")


def _check_version(path: Path, db: Queries, writing: bool) -> int:
    version = int(db.execute("PRAGMA user_version").fetchone()[0])
    if version > VERSION:
        raise StoreError(
            f"{path}: written by a later tracelens (tables of version {version}, not {VERSION})",
            hint="update tracelens; the file was left as it is",
        )
    if version < VERSION and not writing:
        raise StoreError(
            f"{path}: written by an earlier tracelens (version {version} of the tables)",
            hint=f"`tracelens runs {path} --upgrade` brings it up to date and loses nothing",
        )
    return version


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """SQLite's errors as ours."""
    try:
        yield
    except sqlite3.OperationalError as e:
        text = str(e)
        if "locked" in text or "busy" in text:
            message, hint = "another program is writing to it", "try again when it is done"
        elif "readonly" in text or "unable to open" in text:
            message, hint = f"it cannot be written ({text})", "may you write there?"
        elif "full" in text:
            message, hint = "the disk is full", "nothing was kept; what was in it is still there"
        else:  # a table or a column that every store has is not there
            raise damaged(path, text) from e
        raise StoreError(f"{path}: {message}", hint=hint) from e
    except sqlite3.DatabaseError as e:
        if not isinstance(e, (sqlite3.IntegrityError, sqlite3.ProgrammingError)):
            raise damaged(path, str(e)) from e
        raise
    except UnicodeDecodeError as e:  # SQLite quotes what it cannot make sense of
        raise damaged(path, str(e)) from e
