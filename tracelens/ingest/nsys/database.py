"""An export as a database: which tables it has, and columns of them as arrays.

Only columns named here are ever read, and strings only by the ids that those columns hold: an
export also carries the environment of the profiled processes (in ``META_DATA_CAPTURE``,
``TARGET_INFO_SYSTEM_ENV``, ``ProcessStreams`` and as rows of ``StringIds``), and none of it may get
into a report.
"""

from __future__ import annotations

import os
import re
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from itertools import islice
from pathlib import Path
from types import TracebackType

import numpy as np

from tracelens.errors import CorruptTrace, UnsupportedFormat
from tracelens.ingest.nsys.pages import MISSING, Columns, NotPlain, Pages
from tracelens.sqlite import MAGIC
from tracelens.trace import Bools, Int64s

Where = tuple[str, Callable[[Int64s], Bools]]
Tick = Callable[[int, int], None]

#: What SQLite's module raises on a damaged file; its messages may quote bytes that are no UTF-8.
_DAMAGE = (sqlite3.DatabaseError, UnicodeDecodeError)

#: Newest schema whose columns were looked at (Nsight Systems 2026.3).
NEWEST_SCHEMA = (3, 27)

#: Tables of which an export has at least one, apart from `_STRINGS`.
_TELLING = re.compile(
    r"^(CUPTI_ACTIVITY_KIND_\w+|NVTX_EVENTS|TARGET_INFO_\w+|META_DATA_EXPORT|EXPORT_META_DATA"
    r"|ANALYSIS_DETAILS)$"
)
_STRINGS = "StringIds"
#: Keys of the export's own settings; ``META_DATA_CAPTURE`` next to it holds environments.
_EXPORT_KEYS = (
    "EXPORT_PRODUCT_VERSION", "EXPORT_SCHEMA_VERSION", "EXPORT_PARAM_TIME_NORMALIZE",
    "EXPORT_PARAM_TIME_SHIFT", "EXPORT_PARAM_INCLUDE_JSON", "EXPORT_PARAM_INCLUDE_BLOBS",
)  # fmt: skip
_IDS_AT_ONCE = 500  # SQLite allows 999 parameters by default before 3.32


class Database:
    """An Nsight Systems export, opened for reading only.

    Parameters
    ----------
    path : path

    Raises
    ------
    UnsupportedFormat
        If it is an SQLite file of something else.
    CorruptTrace
        If SQLite cannot read its table of contents.
    OSError
        If it cannot be opened.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(path)
        with open(path, "rb") as file:  # for the error that Python gives
            file.read(len(MAGIC))
        uri = Path(path).resolve().as_uri() + "?mode=ro"
        self._connection = sqlite3.connect(uri, uri=True, check_same_thread=False)
        # names come from anywhere: a local time zone in a Windows code page, say
        self._connection.text_factory = lambda raw: raw.decode("utf-8", "replace")
        # a file's own views and triggers may not call functions (sqlite.org/security.html)
        self._connection.execute("PRAGMA trusted_schema = OFF")
        self.damaged: set[str] = set()
        #: A row takes four bytes at least: its place in the page, its length and its id. A damaged
        #: b-tree whose pages have several parents would give many more.
        self._most_rows = os.path.getsize(path) // 4
        try:
            self._contents = self._look()
        except _DAMAGE as e:
            self._connection.close()
            kind = UnsupportedFormat if "not a database" in str(e) else CorruptTrace
            raise kind(
                f"{self.path}: no Nsight Systems export can be read from it: {e}",
                hint="copy the file again, or export it again",
            ) from e
        if _STRINGS not in self._contents and not any(map(_is_activity, self._contents)):
            self._connection.close()
            raise UnsupportedFormat(
                f"{self.path}: this is an SQLite file, but no Nsight Systems export",
                hint="write one with `nsys export --type sqlite REPORT.nsys-rep`",
            )

    def __enter__(self) -> Database:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self._connection.close()

    def _look(self) -> dict[str, tuple[int, tuple[str, ...]]]:
        """Root page and columns of each table that this reader may look at."""
        try:
            return self._table_of_contents()
        except _DAMAGE as e:
            if "malformed" not in str(e):
                raise
        # SQLite turns away a file that is shorter than it says, unless the schema is writable
        # (btree.c, lockBtree); the connection is read-only all the same
        self._connection.execute("PRAGMA writable_schema = ON")
        self.damaged.add("the whole")
        return self._table_of_contents()

    def _table_of_contents(self) -> dict[str, tuple[int, tuple[str, ...]]]:
        sql = "SELECT name, rootpage FROM sqlite_master WHERE type = 'table' ORDER BY name"
        found = {}
        for name, root in self._connection.execute(sql).fetchall():
            if not isinstance(name, str) or not isinstance(root, int):
                self.damaged.add("the table of contents")
                continue
            plain = re.sub(r"_V\d+$", "", name)
            if name == _STRINGS or name in _OTHERS or _TELLING.match(plain):
                columns = self._connection.execute(f'PRAGMA table_info("{name}")').fetchall()
                found[name] = (root, tuple(str(c[1]) for c in columns))
        return found

    def _resolve(self, table: str) -> str:
        """The table's name in this file: a later format may call it ``NAME_V2``."""
        versions = [n for n in self._contents if re.fullmatch(re.escape(table) + r"_V\d+", n)]
        return max(versions, key=lambda n: int(n.rpartition("_V")[2]), default=table)

    def columns(self, table: str) -> tuple[str, ...]:
        """Names of a table's columns; none if the file lacks the table."""
        return self._contents.get(self._resolve(table), (0, ()))[1]

    def has(self, table: str, *columns: str) -> bool:
        """Whether a table and some of its columns exist."""
        there = self.columns(table)
        return bool(there) and set(columns) <= set(there)

    @property
    def tables(self) -> tuple[str, ...]:
        """Names of the tables that this reader may look at."""
        return tuple(self._contents)

    def integers(
        self,
        table: str,
        wanted: Sequence[str],
        where: Sequence[Where] = (),
        tick: Tick | None = None,
    ) -> Columns:
        """Integer columns of a table, in the order of the file.

        A column that this version lacks is -1 throughout, as is NULL. A table that cannot be read
        to its end gives what comes before the damage and is added to `damaged`.
        """
        name = self._resolve(table)
        root, there = self._contents.get(name, (0, ()))
        have = {c: there.index(c) for c in wanted if c in there}
        lacking = np.full(1, MISSING, np.int64)
        if not have or not all(bool(test(lacking)[0]) for c, test in where if c not in have):
            return {c: np.empty(0, np.int64) for c in wanted}
        where = [(c, test) for c, test in where if c in have]
        try:
            with Pages(self.path) as pages:
                found = pages.scan(root, have, where, tick)
        except NotPlain:
            found = self._ask(name, tuple(have), where)
        n = len(next(iter(found.values())))
        absent = [c for c in wanted if c not in have]
        return {**found, **{c: np.full(n, MISSING, np.int64) for c in absent}}

    def _ask(self, name: str, have: tuple[str, ...], where: Sequence[Where]) -> Columns:
        """The same by SQLite itself, for whatever is not stored plainly."""
        listed = ", ".join(f'CAST(coalesce("{c}", {MISSING}) AS INTEGER)' for c in have)
        dtype = np.dtype([(c, np.int64) for c in have])
        table = np.fromiter(self._until_damage(f'SELECT {listed} FROM "{name}"', name), dtype)
        keep = np.ones(len(table), bool)
        for column, test in where:
            keep &= test(np.ascontiguousarray(table[column]))
        return {c: np.ascontiguousarray(table[c][keep]) for c in have}

    def _until_damage(self, sql: str, name: str) -> Iterator[tuple[int, ...]]:
        with closing(self._connection.cursor()) as cursor:
            try:
                yield from islice(cursor.execute(sql), self._most_rows)
                if cursor.fetchone() is not None:
                    self.damaged.add(name)
            except _DAMAGE:
                self.damaged.add(name)

    def rows(
        self, table: str, wanted: Sequence[str], condition: str = ""
    ) -> list[tuple[object, ...]]:
        """Rows of a small table as SQLite gives them; a column that is missing is None."""
        name = self._resolve(table)
        there = self._contents.get(name, (0, ()))[1]
        if not there:
            return []
        listed = ", ".join(f'"{c}"' if c in there else "NULL" for c in wanted)
        try:
            found = self._connection.execute(f'SELECT {listed} FROM "{name}" {condition}')
            return found.fetchmany(self._most_rows)
        except _DAMAGE:
            self.damaged.add(name)
            return []

    def strings(self, ids: Iterable[int]) -> dict[int, str]:
        """Strings by id: those asked for and no others."""
        wanted = sorted({int(i) for i in ids if i >= 0})
        found: dict[int, str] = {}
        if _STRINGS not in self._contents:
            return found
        for first in range(0, len(wanted), _IDS_AT_ONCE):
            some = wanted[first : first + _IDS_AT_ONCE]
            marks = ",".join("?" * len(some))
            sql = f"SELECT id, value FROM {_STRINGS} WHERE id IN ({marks})"
            try:
                found.update((i, str(v)) for i, v in self._connection.execute(sql, some))
            except _DAMAGE:
                self.damaged.add(_STRINGS)
        return found

    def settings(self) -> dict[str, str]:
        """The export's own settings (version, time base, what was included)."""
        marks = ", ".join(f"'{k}'" for k in _EXPORT_KEYS)
        for table in ("META_DATA_EXPORT", "EXPORT_META_DATA"):  # the latter up to schema 3.1
            rows = self.rows(table, ("name", "value"), f"WHERE name IN ({marks})")
            if rows:
                return {str(k): str(v) for k, v in rows}
        return {}

    def schema(self) -> tuple[int, ...] | None:
        """Version of the export's schema; None before Nsight Systems 2021."""
        text = self.settings().get("EXPORT_SCHEMA_VERSION", "")
        numbers = re.findall(r"\d{1,9}", text)
        return tuple(int(n) for n in numbers) if numbers else None


#: Tables that are read beside the telling ones.
_OTHERS = frozenset(
    {
        "NVTX_PAYLOAD_SCHEMAS", "NVTX_PAYLOAD_SCHEMA_ENTRIES", "NVTX_PAYLOAD_ENUM_ENTRIES",
        "PROFILER_OVERHEAD", "PROCESSES", "ThreadNames", "DIAGNOSTIC_EVENT", "META_DATA_CAPTURE",
        "CUDA_GRAPH_NODE_EVENTS",
    }
)  # fmt: skip


def _is_activity(name: str) -> bool:
    return name.startswith("CUPTI_ACTIVITY_KIND_") or name == "NVTX_EVENTS"
