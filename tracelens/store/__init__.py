"""run.db: recorded runs, kept (SQLite, through sqlite-utils). docs/schema.md has its tables."""

from __future__ import annotations

from tracelens.store.content import Content, content_of
from tracelens.store.place import is_store, stored_at
from tracelens.store.run import RunEntry, StoredRun, cache_of
from tracelens.store.store import Store

__all__ = [
    "Content",
    "RunEntry",
    "Store",
    "StoredRun",
    "cache_of",
    "content_of",
    "is_store",
    "stored_at",
]
