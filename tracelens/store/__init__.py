"""run.db: recorded runs, kept (SQLite, through sqlite-utils). docs/schema.md has its tables.

Everything is imported on first use: whether a path names a store is asked by every command, and the
answer needs neither SQLite nor what sqlite-utils imports.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
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

_HOME = {
    "Content": "content",
    "content_of": "content",
    "is_store": "place",
    "stored_at": "place",
    "RunEntry": "run",
    "StoredRun": "run",
    "cache_of": "run",
    "Store": "store",
}


def __getattr__(name: str) -> object:
    """Import a public name on first use (PEP 562)."""
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{home}"), name)
