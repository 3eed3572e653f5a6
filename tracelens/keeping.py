"""Runs read once: from the store where they are in it, else from their files and into it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tracelens.analysis import Analysis
from tracelens.comparison.document import check_prediction, check_report
from tracelens.comparison.prediction import made_for
from tracelens.errors import StoreError
from tracelens.ingest.run import RunPlan, discover
from tracelens.pipeline import read_run
from tracelens.reading import Effort, Progress
from tracelens.remote import as_path
from tracelens.report.json import to_json
from tracelens.report.text import tool_version
from tracelens.store import Content, Store, StoredRun, content_of, stored_at


def load(path: str | os.PathLike[str]) -> Analysis:
    """The analysis of a run in a store.

    Raises
    ------
    StoreError
        If another tracelens wrote it: its report is still there, what draws it is not.
    """
    place = stored_at(path)
    if place is None:
        raise StoreError(f"{os.fspath(path)}: not a run.db")
    run = Store(place[0]).get(place[1])
    found = run.analysis
    if found is None:
        raise StoreError(
            f"{place[0]}: run {run.entry.id} was kept by another version of tracelens",
            hint="`analyze --json` prints its report; for more analyze its traces with --db again",
        )
    return found


def report_of(path: str | os.PathLike[str]) -> dict[str, Any] | None:
    """The report of a run in a store, whichever tracelens wrote it; None if `path` names none."""
    place = stored_at(path)
    if place is None:
        return None
    document = Store(place[0]).get(place[1]).document
    check_report(document, os.fspath(path))
    return document


def predicted_of(
    path: object, before: Mapping[str, Any], after: Mapping[str, Any]
) -> Mapping[str, Any] | None:
    """What was predicted of the change from a run in a store to another; None if nothing was."""
    place = stored_at(path) if isinstance(path, (str, os.PathLike)) else None
    if place is None:
        return None
    kept = Store(place[0]).get(place[1]).predictions
    for document in kept:
        check_prediction(document, str(path))
    return made_for(kept, before, after)


def read_or_load(
    paths: Sequence[str | os.PathLike[str]],
    ranks: Sequence[int] | None,
    progress: Progress | None,
    ds_config: str | os.PathLike[str] | None,
    effort: Effort,
    db: str | os.PathLike[str],
) -> Analysis:
    """The analysis of the run at `paths`, which is in the store `db` afterwards.

    Raises
    ------
    InputError
        If there is no run at `paths`.
    StoreError
        If the store cannot be used, or a file changed while it was read.
    """
    store, there = Store(Path(db)), os.path.exists(db) and os.path.getsize(db) > 0
    _check_writable(db)
    if there:
        store.bring_up()
    known = store.known() if there else {}
    plan = discover(paths, effort.bounds)
    plan = plan if ranks is None else plan.select(ranks)
    beside = [*plan.manifests, *([Path(ds_config)] if ds_config is not None else [])]
    content = content_of([(f.path, f.part) for f in plan.files], beside, known)
    kept = store.find(content, tool_version()) if there else None
    if kept is not None and (found := kept.analysis) is not None:
        return _moved(store, kept, found, plan, content)
    fresh = read_run(paths, ranks, progress, ds_config, effort)
    store.keep(fresh, to_json(fresh), content, tool_version())
    return fresh


def _check_writable(db: str | os.PathLike[str]) -> None:
    """Before minutes of reading: can the run be put where it is wanted?"""
    place = os.path.abspath(db)
    place = place if os.path.exists(place) else os.path.dirname(place)
    if not os.access(place, os.W_OK):
        raise StoreError(f"{os.fspath(db)}: it cannot be written", hint="may you write there?")


def _moved(
    store: Store, kept: StoredRun, found: Analysis, plan: RunPlan, content: Content
) -> Analysis:
    """A run that was kept, at the place where its files are now."""
    path = {f.rank: str(f.path) for f in plan.files}
    if not set(path) >= {r.rank for r in found.ranks}:
        return found  # ranks that their files number otherwise: the place is in the plan alone
    ranks = tuple(replace(r, path=path[r.rank]) for r in found.ranks)
    run = replace(found.run, paths=tuple(dict.fromkeys(r.path for r in ranks)))
    files = tuple(
        replace(f, path=as_path(path[f.rank])) for f in found.plan.files if f.rank in path
    )
    here = replace(found, run=run, ranks=ranks, plan=replace(found.plan, files=files))
    if {m.path for m in content.files} != kept.files:
        store.keep(here, to_json(here), content, tool_version())
    return here
