"""A run as rows of the tables: from its analysis and its report."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

from tracelens.remote import absolute
from tracelens.store.content import Content
from tracelens.store.schema import TABLES

if TYPE_CHECKING:
    from tracelens.analysis import Analysis

Row: TypeAlias = dict[str, Any]
Report: TypeAlias = Mapping[str, Any]

_COLUMNS = {t.name: [c.name for c in t.columns] for t in TABLES}
#: Sections of a report whose values are means of the run.
_SECTIONS = ("summary", "compute", "idle", "efficiency")
#: What rows and reports call differently: `group` is a word of SQL's own.
_RENAMED = {"group": "group_name", "row": "event_row"}


def run_row(analysis: Analysis, report: Report, content: Content) -> Row:
    """The row of `runs`, without its number, time and version."""
    run = report["run"]
    kept = ("source", "device", "world_size", "n_events", "torch", "nccl")
    return {
        "name": run_name(run["paths"]),
        "content": content.key,
        **{k: run[k] for k in (*kept, "rank_source", "step_source")},
        "n_ranks": len(run["ranks"]),
        "verdict": "\n".join(report["verdict"]),
    }


def run_name(paths: list[str]) -> str:
    """The folder that the files share; of a single file its own name with its folder's.

    Examples
    --------
    >>> run_name(["/data/a/rank0.json", "/data/a/rank1.json"]), run_name(["/data/a/rank0.json"])
    ('a', 'a/rank0.json')
    """
    places = [absolute(p) for p in paths]
    if len(places) > 1:
        return os.path.basename(os.path.commonpath(places)) or "/"
    return os.path.join(os.path.basename(os.path.dirname(places[0])), os.path.basename(places[0]))


def child_rows(analysis: Analysis, report: Report, content: Content) -> Iterator[tuple[str, Row]]:
    """Table and row of everything that a run has, its report and evidence excepted."""
    for mark in content.files:
        names = ("path", "bytes", "modified_ns", "digest")
        yield "files", {name: getattr(mark, name) for name in names}
    parts = {f.rank: f.part for f in analysis.plan.files}
    for r in analysis.ranks:
        yield (
            "ranks",
            {
                "rank": r.rank,
                "path": absolute(r.path),
                "part": parts.get(r.rank),
                "n_steps": len(r.steps),
                "events_read": r.stats.events_read,
                "events_dropped": r.stats.events_dropped,
                "first_ns": r.first_ns,
                "clock_zero_ns": r.info.clock_zero_ns,
            },
        )
    for section in _SECTIONS:
        for metric, value in (report[section] or {}).items():
            if value is None or isinstance(value, (int, float)):
                yield "breakdowns", {"section": section, "metric": metric, "value": _real(value)}
    for name in ("steps", "collectives", "fits", "detectors"):
        for row in report[name]:
            yield name, _fitting(name, row)
    for note in report["import"]["notes"]:
        yield "notes", _fitting("notes", note)


#: Columns of `comm` after its number; a run may have hundreds of thousands of rows.
_COMM = _COLUMNS["comm"][1:]
COMM_INSERT = f"INSERT INTO comm ({', '.join(_COMM)}) VALUES ({', '.join('?' * len(_COMM))})"


def comm_rows(analysis: Analysis) -> Iterator[tuple[Any, ...]]:
    """Rows of `comm` for `COMM_INSERT`, without the run; None where the trace does not say."""
    from tracelens.frames import comm_frame  # pandas

    frame = comm_frame(analysis).rename(columns=_RENAMED)
    columns = [frame[c].astype(object).where(frame[c].notna(), None).tolist() for c in _COMM[1:]]
    return zip(*columns, strict=True)


def setup_rows(report: Report) -> Iterator[tuple[Row, dict[str, list[Row]]]]:
    """Rows of `setup`, each with the rows below it by table."""
    for key, found in report["setup"].items():
        row = {
            "key": key,
            "value": as_text(found["value"]),
            "candidates": json.dumps(found["candidates"]),
            "confidence": float(found["confidence"]),
            "low": found.get("low"),
            "high": found.get("high"),
        }
        yield row, {"setup_evidence": _sentences(found)}


def finding_rows(report: Report) -> Iterator[tuple[Row, dict[str, list[Row]]]]:
    """Rows of `findings`, each with the rows below it by table."""
    for position, found in enumerate(report["findings"]):
        row = _fitting("findings", found) | {
            "position": position,
            "ranks": json.dumps(found["ranks"]),
            "steps": json.dumps(found["steps"]),
            "config": None if found["config"] is None else json.dumps(found["config"]),
        }
        proof = [_fitting("finding_proof", p) for p in found["proof"]]
        yield row, {"finding_evidence": _sentences(found), "finding_proof": proof}


def _sentences(found: Report) -> list[Row]:
    return [{"text": text} for text in found["evidence"]]


def prediction_row(document: Report) -> Row:
    """The row of `predictions`, without its run and time, of what a what-if printed."""
    told = document.get("predicted") or {}
    names = ("step_ms", "low_ms", "high_ms", "ratio", "memory_delta_bytes")
    return {
        "change": json.dumps(document.get("change", {})),
        **{k: told.get(k) for k in names},
        "confidence": document.get("confidence"),
        "document": json.dumps(document),
    }


def as_text(value: object) -> str | None:
    """A value of the setup as people read it in a table.

    Examples
    --------
    >>> as_text(True), as_text(2), as_text("bf16"), as_text(None)
    ('true', '2', 'bf16', None)
    """
    if value is None or isinstance(value, str):
        return value
    return json.dumps(value)


def _fitting(table: str, row: Report) -> Row:
    """What of a report's row the table has a column for; later keys are in the document."""
    named = {_RENAMED.get(k, k): v for k, v in row.items()}
    return {k: v for k, v in named.items() if k in _COLUMNS[table] and not isinstance(v, list)}


def _real(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(value)
