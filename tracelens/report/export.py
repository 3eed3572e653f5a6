"""Tables of a store as files that other tools read: CSV, or Parquet where pyarrow is installed."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias

import pandas as pd

from tracelens.errors import InputError, UsageError
from tracelens.report.files import write_whole
from tracelens.report.text import cell
from tracelens.store import Store
from tracelens.store.schema import TABLES, Table

Format: TypeAlias = Literal["csv", "parquet"]

#: Tables that are exported: all but the report, which `tracelens analyze --json` prints.
EXPORTED = tuple(t for t in TABLES if t.name != "reports")
_TYPES: dict[str, Any] = {"INTEGER": "Int64", "REAL": "float64", "TEXT": "string"}


def export(
    store: Store, folder: Path, runs: Sequence[int] = (), format: Format = "csv"
) -> list[Path]:
    """Write one file a table.

    Parameters
    ----------
    store : Store
    folder : Path
        Made if it is not there; files of the tables' names in it are replaced, each whole.
    runs : sequence of int
        Numbers of the runs; all without any.
    format : {"csv", "parquet"}
        In CSV, text is UTF-8, what the trace does not say is empty, and a text that a spreadsheet
        would take for a formula has an apostrophe before it.

    Returns
    -------
    list of Path

    Raises
    ------
    UsageError
        If Parquet is asked for and pyarrow is not installed.
    """
    if format == "parquet" and importlib.util.find_spec("pyarrow") is None:
        raise UsageError(
            "writing Parquet needs pyarrow, which is not installed",
            hint="pip install pyarrow, or --format csv",
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise InputError(f"{folder}: {e.strerror or e}", hint="may you write there?") from e
    written = []
    for t in EXPORTED:
        frame = _frame(t, store.table(t.name, runs))
        data = _csv(frame) if format == "csv" else frame.to_parquet(index=False)
        written.append(folder / f"{t.name}.{format}")
        write_whole(written[-1], data)
    return written


def _frame(table: Table, rows: list[dict[str, Any]]) -> pd.DataFrame:
    return pd.DataFrame(
        {c.name: pd.Series([r[c.name] for r in rows], dtype=_TYPES[c.type]) for c in table.columns}
    )


def _csv(frame: pd.DataFrame) -> str:
    harmless = frame.copy()
    for name in frame.columns[frame.dtypes == "string"]:
        harmless[name] = frame[name].map(_lines, na_action="ignore")
    return harmless.to_csv(index=False)


def _lines(text: str) -> str:
    """A text of several lines, each made harmless."""
    return "\n".join(map(cell, text.split("\n")))
