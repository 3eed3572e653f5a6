"""docs/schema.md: the tables and views of a run.db as a page."""

from __future__ import annotations

from collections.abc import Sequence

from tracelens.store.migrations import VERSION
from tracelens.store.schema import TABLES
from tracelens.store.views import VIEWS

_HEAD = f"""# The tables of run.db

Written by `tracelens.store.describe.to_markdown()`; a test compares this page with the code. Tables
of version {VERSION} (`PRAGMA user_version`).

A run.db is an SQLite file with STRICT tables and foreign keys: open it with Datasette, DB Browser
for SQLite, pandas or any SQLite client; keep to reading, and let `tracelens runs` delete. How it is
used is in [store.md](store.md).

All tables but `runs` belong to a run by `run_id`. NULL means that the trace does not say; it never
stands for 0. Where the JSON report has the same key, it means the same ([json.md](json.md)).
"""


def to_markdown() -> str:
    """The page: views first, which people want, then the tables."""
    parts = [_HEAD, "## Views\n"]
    parts.append(_table(("view", "what it shows"), [(f"`{v.name}`", v.doc) for v in VIEWS]))
    for t in TABLES:
        rows = [
            (f"`{c.name}`", c.type, "yes" if c.null and "PRIMARY" not in c.sql else "", c.doc)
            for c in t.columns
        ]
        head = ("column", "type", "NULL", "meaning")
        parts.append(f"## {t.name}\n\n{t.doc}\n\n{_table(head, rows)}")
    return "\n".join(parts)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
