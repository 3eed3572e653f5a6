"""Nsight Systems exports (SQLite) in, `Trace` out: one report may hold several ranks."""

from __future__ import annotations

import os

from tracelens.ingest.bounds import BOUNDS, Bounds
from tracelens.ingest.nsys.database import Database
from tracelens.ingest.nsys.export import plain
from tracelens.ingest.nsys.ranks import Part, find_parts
from tracelens.ingest.nsys.read import clock_zero_ns, read
from tracelens.sqlite import MAGIC

__all__ = ["MAGIC", "look", "read", "sniff"]


def sniff(head: bytes) -> bool:
    """Whether a file that starts with these bytes may be an export: whether it is SQLite."""
    return head.startswith(MAGIC)


def look(path: str | os.PathLike[str], bounds: Bounds = BOUNDS) -> tuple[int, tuple[Part, ...]]:
    """Unix time, ns, of an export's time 0, and the ranks in it.

    Raises
    ------
    InputError
        If it is no export, cannot be made into one, or cannot be read.
    """
    with Database(plain(path, bounds)) as db:
        return clock_zero_ns(db), find_parts(db)
