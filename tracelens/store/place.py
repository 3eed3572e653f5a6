"""Which file is a run.db, and how a run in it is named: ``run.db#2`` or ``run.db#name``."""

from __future__ import annotations

import os
from pathlib import Path

from tracelens.sqlite import HEADER_BYTES, RUN_DB, application_id

#: Between a store and a run in it.
MARK = "#"


def is_store(path: str | os.PathLike[str]) -> bool:
    """Whether a file is a run.db, by its first hundred bytes."""
    try:
        with open(path, "rb") as file:
            head = file.read(HEADER_BYTES)
    except OSError:
        return False
    return application_id(head) == RUN_DB


def stored_at(path: str | os.PathLike[str]) -> tuple[Path, str | None] | None:
    """The store and the run in it that a path names; None if it names no store.

    A file of that very name goes first; without a run the store's only one is meant.
    """
    text = os.fspath(path)
    if is_store(text):
        return Path(text), None
    if os.path.exists(text):
        return None
    place, mark, run = text.rpartition(MARK)
    return (Path(place), run) if mark and run and is_store(place) else None
