"""A run that was kept, read back."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tracelens.errors import UsageError
from tracelens.store.connect import damaged, reading
from tracelens.store.content import FileMark, check_same
from tracelens.store.sql import Queries

if TYPE_CHECKING:
    import pandas as pd

    from tracelens.analysis import Analysis, RankEvents
    from tracelens.reading import Progress


@dataclass(frozen=True, slots=True)
class RunEntry:
    """One line of `Store.runs`.

    `added_at` is UTC, ISO 8601; `step_ms` is the mean step; None where the traces do not say.
    """

    id: int
    name: str
    added_at: str
    n_ranks: int
    world_size: int | None
    device: str | None
    n_events: int
    step_ms: float | None
    largest_cause: str | None


@dataclass(frozen=True, slots=True)
class StoredRun:
    """A run that was kept. Tables are read from the store when they are asked for.

    Attributes
    ----------
    entry : RunEntry
    document : dict
        The report: equal to `Analysis.to_json` of the files.
    store : Path
        The run.db that holds it.
    content : str
        Digest of the files that it was read from.
    files : frozenset of str
        Their absolute paths.
    """

    entry: RunEntry
    document: dict[str, Any]
    store: Path
    content: str
    files: frozenset[str]

    @property
    def steps(self) -> pd.DataFrame:
        """As `Analysis.steps`."""
        from tracelens.store import frames

        return frames.steps(self._columns("steps"))

    @property
    def collectives(self) -> pd.DataFrame:
        """As `Analysis.collectives`, rounded as in the report."""
        from tracelens.store import frames

        return frames.collectives(self._columns("collectives"))

    @property
    def comm(self) -> pd.DataFrame:
        """As `Analysis.comm`."""
        from tracelens.store import frames

        return frames.comm(self._columns("comm"))

    @property
    def findings(self) -> pd.DataFrame:
        """As `Analysis.findings`."""
        from tracelens.store import frames

        rows = self.document["findings"]
        return frames.findings({c: [r[c] for r in rows] for c in frames.FINDING})

    @property
    def predictions(self) -> list[dict[str, Any]]:
        """What was predicted of this run (``tracelens whatif --json``), oldest first."""
        return [document_of(self.store, r["document"]) for r in self._rows("predictions")]

    @property
    def analysis(self) -> Analysis | None:
        """The analysis itself, for drawing; None where another tracelens wrote it."""
        from tracelens.store import codec

        with reading(self.store) as db:
            found = list(
                db.query(
                    "SELECT analysis FROM reports WHERE run_id = ? AND shape = ?",
                    [self.entry.id, codec.shape()],
                )
            )
        return codec.decode(found[0]["analysis"]) if found else None

    @property
    def cache(self) -> Path:
        """Folder for what can be made again from the traces, such as a timeline's index.

        It lies beside the run.db, goes with the run when that is deleted, and may be deleted at
        any time. It is not made here.
        """
        return cache_of(self.store, self.content)

    def open_rank(self, rank: int, progress: Progress | None = None) -> RankEvents:
        """Read one rank's file again and link it, as `Analysis.open_rank`.

        Raises
        ------
        UsageError
            If the run has no such rank.
        InputError
            If its file is not there any more, or holds something else.
        """
        from tracelens.ingest import open_trace
        from tracelens.pipeline import look
        from tracelens.reading import ticking

        marks = {r["path"]: r for r in self._rows("files")}
        for row in self._rows("ranks"):
            if row["rank"] == rank:
                m = marks[row["path"]]
                check_same(FileMark(m["path"], m["bytes"], m["modified_ns"], m["digest"]))
                tick = ticking(f"rank {rank}", progress)
                return look(open_trace(row["path"], tick, row["part"]))
        raise UsageError(f"the run has no rank {rank}")

    def _columns(self, table: str) -> dict[str, Sequence[Any]]:
        sql = f"SELECT * FROM {table} WHERE run_id = ? ORDER BY rowid"
        with reading(self.store) as db:
            found = db.execute(sql, [self.entry.id])
            names = [d[0] for d in found.description]
            rows = found.fetchall()
        columns: Sequence[Sequence[Any]] = list(zip(*rows, strict=True)) or [()] * len(names)
        return dict(zip(names, columns, strict=True))

    def _rows(self, table: str) -> list[dict[str, Any]]:
        with reading(self.store) as db:
            return rows_of(db, table, "run_id = ?", [self.entry.id])


def cache_of(store: Path, content: str) -> Path:
    """Where a run's cache lies: ``.run.db-cache/CONTENT`` beside ``run.db``."""
    return store.with_name(f".{store.name}-cache") / content


#: Rows for `entry_of`.
ENTRIES = """SELECT run_id, name, added_at, n_ranks, world_size, device, n_events,
  (SELECT value FROM breakdowns b
    WHERE b.run_id = runs.run_id AND section = 'summary' AND metric = 'wall_ms') AS step_ms,
  (SELECT title FROM findings f
    WHERE f.run_id = runs.run_id AND cost_ms_per_step > 0 ORDER BY position LIMIT 1)
    AS largest_cause
FROM runs"""


def document_of(path: Path, text: str) -> dict[str, Any]:
    """A JSON document as it was kept.

    Raises
    ------
    StoreError
        If it is none.
    """
    try:
        found = json.loads(text)
    except (ValueError, TypeError, RecursionError) as e:
        raise damaged(path, str(e)) from e
    if not isinstance(found, dict):
        raise damaged(path, "a report that is no JSON object")
    return found


def entry_of(row: dict[str, Any]) -> RunEntry:
    """A row of `ENTRIES` as a value."""
    return RunEntry(row.pop("run_id"), **row)


def rows_of(db: Queries, table: str, where: str, values: Sequence[Any]) -> list[dict[str, Any]]:
    """Rows of one of our tables, in the order in which they were added."""
    return list(db.query(f"SELECT * FROM {table} WHERE {where} ORDER BY rowid", values))


def places(db: Queries, run: int) -> set[str]:
    """Absolute paths of the files that a run was read from."""
    return {r["path"] for r in db.query("SELECT path FROM files WHERE run_id = ?", [run])}
