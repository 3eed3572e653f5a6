"""Questions to an open SQLite file, answered with the standard library alone.

Readers get by with this: sqlite-utils, which writes, loads pandas where there is one, a good part
of the time in which a page should be on the screen.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

Parameters = Sequence[Any] | Mapping[str, Any]


class Queries(Protocol):
    """What a reader's `Sql` and a writer's ``sqlite_utils.Database`` have in common."""

    conn: Any

    def execute(self, sql: str, /) -> sqlite3.Cursor:
        """Run a statement."""

    def query(self, sql: str, params: Any = None) -> Iterator[dict[str, Any]]:
        """Rows as dicts."""

    def close(self) -> None:
        """Close the file."""


class Sql:
    """An open SQLite file.

    Parameters
    ----------
    conn : sqlite3.Connection
    """

    def __init__(self, conn: sqlite3.Connection) -> None:
        self.conn = conn

    def execute(self, sql: str, params: Parameters = ()) -> sqlite3.Cursor:
        """Run a statement."""
        return self.conn.execute(sql, params)

    def query(self, sql: str, params: Parameters | None = None) -> Iterator[dict[str, Any]]:
        """Rows as dicts."""
        cursor = self.conn.execute(sql, params or ())
        names = [d[0] for d in cursor.description]
        for row in cursor:
            yield dict(zip(names, row, strict=True))

    def close(self) -> None:
        """Close the file."""
        self.conn.close()
