"""The one writer and the one reader of run.db."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tracelens.errors import UsageError
from tracelens.remote import absolute, as_path
from tracelens.store.connect import damaged, is_older, reading, writing
from tracelens.store.content import Content, FileMark, check_unchanged, trusted
from tracelens.store.run import (
    ENTRIES,
    RunEntry,
    StoredRun,
    cache_of,
    document_of,
    entry_of,
    places,
    rows_of,
)
from tracelens.store.schema import TABLES
from tracelens.store.sql import Queries
from tracelens.units import NS_PER_S

if TYPE_CHECKING:
    from sqlite_utils import Database

    from tracelens.analysis import Analysis


class Store:
    """A run.db. Every call opens it, reads or writes whole runs, and closes it again.

    So a Store may be shared by threads, and holds no lock between calls.

    Parameters
    ----------
    path : path
        A run.db; `keep` makes it where there is none.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    # ------------------------------------------------------------------------------- reading
    def runs(self) -> list[RunEntry]:
        """What is kept, in the order in which it was added."""
        with reading(self.path) as db:
            return [entry_of(r) for r in db.query(ENTRIES + " ORDER BY run_id")]

    def get(self, run: int | str | None = None) -> StoredRun:
        """One run.

        Parameters
        ----------
        run : int or str, optional
            Its number or its name; may be left out where there is only one.

        Raises
        ------
        UsageError
            If there is no such run, or more than one.
        """
        with reading(self.path) as db:
            id_ = _find(self.path, db, run)
            entry = entry_of(next(db.query(ENTRIES + " WHERE run_id = ?", [id_])))
            sql = "SELECT document, content FROM reports JOIN runs USING (run_id) WHERE run_id = ?"
            row = next(db.query(sql, [id_]), None)
            if row is None:
                raise damaged(self.path, f"run {id_} has no report")
            files = frozenset(places(db, id_))
        document = document_of(self.path, row["document"])
        return StoredRun(entry, document, self.path, row["content"], files)

    def known(self) -> dict[str, FileMark]:
        """Files of all runs, by path, that need no hashing while they look as they did."""
        marks: dict[str, FileMark] = {}
        with reading(self.path) as db:
            sql = (
                "SELECT path, bytes, modified_ns, digest, added_at FROM files JOIN runs "
                "USING (run_id) ORDER BY run_id"
            )
            for r in db.query(sql):
                mark = FileMark(r["path"], r["bytes"], r["modified_ns"], r["digest"])
                marks |= trusted([mark], _ns(r["added_at"]))
        return marks

    def find(self, content: Content, tracelens: str) -> StoredRun | None:
        """The run of this content as this version of tracelens read it; None if there is none."""
        with reading(self.path) as db:
            id_ = _same(db, content, tracelens)
        return None if id_ is None else self.get(id_)

    # ------------------------------------------------------------------------------- writing
    def keep(
        self, analysis: Analysis, report: Mapping[str, Any], content: Content, tracelens: str
    ) -> int:
        """Keep a run, whole or not at all.

        A run of the same content is replaced and keeps its number and what was predicted of it,
        unless it is there already as this tracelens read it, from the same place.

        Parameters
        ----------
        analysis : Analysis
        report : mapping
            Its JSON document.
        content : Content
            Its files, looked at before they were read.
        tracelens : str
            The version that read it.

        Returns
        -------
        int
            The number of the run: that of the run that is there already, if it is.

        Raises
        ------
        StoreError
            If a file has changed since, or the store cannot be written.
        """
        from tracelens.store import codec, rows

        check_unchanged(content)
        children = list(rows.child_rows(analysis, report, content))
        comm = list(rows.comm_rows(analysis))
        packed = codec.encode(_anchored(analysis))
        with writing(self.path, create=True) as db:
            kept = _same(db, content, tracelens)
            if kept is not None and places(db, kept) == {m.path for m in content.files}:
                return kept
            run = rows.run_row(analysis, report, content)
            id_ = _add_run(db, run | {"added_at": _now(), "tracelens": tracelens})
            for table, row in children:
                db.table(table).insert({"run_id": id_, **row})
            db.conn.executemany(rows.COMM_INSERT, ((id_, *row) for row in comm))
            _add_told(db, id_, "setup", "setup_id", rows.setup_rows(report))
            _add_told(db, id_, "findings", "finding_id", rows.finding_rows(report))
            db.table("reports").insert(
                {
                    "run_id": id_,
                    "format": report["format"],
                    "document": json.dumps(report, allow_nan=False),
                    "shape": codec.shape(),
                    "analysis": packed,
                }
            )
        return id_

    def add_prediction(self, run: int | str | None, document: Mapping[str, Any]) -> None:
        """Keep what ``tracelens whatif --json`` printed, with the run that it is about."""
        from tracelens.store import rows

        row = rows.prediction_row(document)
        with writing(self.path) as db:
            id_ = _find(self.path, db, run)
            db.table("predictions").insert({"run_id": id_, "added_at": _now(), **row})

    def delete(self, run: int | str) -> RunEntry:
        """Delete a run and its cache; returns what it was."""
        with writing(self.path) as db:
            id_ = _find(self.path, db, run)
            gone = entry_of(next(db.query(ENTRIES + " WHERE run_id = ?", [id_])))
            (row,) = db.query("SELECT content FROM runs WHERE run_id = ?", [id_])
            db.execute("DELETE FROM runs WHERE run_id = ?", [id_])
        shutil.rmtree(cache_of(self.path, row["content"]), ignore_errors=True)
        return gone

    def table(self, name: str, runs: Sequence[int] = ()) -> list[dict[str, Any]]:
        """Rows of a table (docs/schema.md) as dicts: of these runs, or of all without any."""
        where = f"run_id IN ({', '.join('?' * len(runs))})" if runs else "TRUE"
        with reading(self.path) as db:
            return rows_of(db, name, where, list(runs))

    def upgrade(self) -> None:
        """Bring the tables to this version; nothing is lost."""
        with writing(self.path):
            pass

    def bring_up(self) -> None:
        """Bring the tables to this version if they are of an earlier one."""
        if is_older(self.path):
            self.upgrade()


def _find(path: Path, db: Queries, run: int | str | None) -> int:
    """The number of a run by number or name."""
    there = [(r["run_id"], r["name"]) for r in db.query("SELECT run_id, name FROM runs")]
    wanted = [i for i, name in there if run is None or str(run) == str(i)]
    wanted = wanted or [i for i, name in there if run == name]
    if len(wanted) == 1:
        return int(wanted[0])
    listed = ", ".join(f"{i} ({name})" for i, name in there) or "none"
    if not there:
        raise UsageError(
            f"{path}: holds no run", hint="`tracelens analyze RUN --db run.db` adds one"
        )
    if run is None:
        raise UsageError(
            f"{path}: holds {len(there)} runs", hint=f"name one as {path}#NUMBER: {listed}"
        )
    what = "more than one run" if wanted else "no run"
    raise UsageError(f"{path}: holds {what} {run}", hint=f"runs: {listed}")


def _same(db: Queries, content: Content, tracelens: str) -> int | None:
    from tracelens.store import codec

    sql = (
        "SELECT run_id FROM runs JOIN reports USING (run_id) "
        "WHERE content = ? AND tracelens = ? AND shape = ?"
    )
    found = list(db.query(sql, [content.key, tracelens, codec.shape()]))
    return int(found[0]["run_id"]) if found else None


def _anchored(analysis: Analysis) -> Analysis:
    """With absolute paths in its plan: a store is read from other folders, too."""
    files = tuple(replace(f, path=as_path(absolute(f.path))) for f in analysis.plan.files)
    return replace(analysis, plan=replace(analysis.plan, files=files))


def _add_run(db: Database, row: dict[str, Any]) -> int:
    """Add the row of `runs`, or put it in the place of a run of the same content."""
    old = list(db.query("SELECT run_id FROM runs WHERE content = ?", [row["content"]]))
    if not old:
        db.table("runs").insert(row)
        return int(db.execute("SELECT last_insert_rowid()").fetchone()[0])
    id_ = int(old[0]["run_id"])
    for table in TABLES:
        if table.name not in ("runs", "predictions"):
            db.table(table.name).delete_where("run_id = ?", [id_])
    db.table("runs").update(id_, row)
    return id_


def _add_told(
    db: Database,
    run: int,
    table: str,
    key: str,
    told: Iterable[tuple[dict[str, Any], dict[str, list[dict[str, Any]]]]],
) -> None:
    """Add rows, and below each what it is told by, in order."""
    for row, below in told:
        db.table(table).insert({"run_id": run, **row})
        id_ = db.execute("SELECT last_insert_rowid()").fetchone()[0]
        for name, rows_ in below.items():
            db.table(name).insert_all(
                {"run_id": run, key: id_, "position": i, **r} for i, r in enumerate(rows_)
            )


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds")


def _ns(iso: str) -> int:
    return int(datetime.fromisoformat(iso).timestamp() * NS_PER_S)
