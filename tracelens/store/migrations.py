"""From one version of the tables to the next.

A version is what `PRAGMA user_version` says. A new run.db is made from `schema.TABLES` in the last
version; an older one is brought there by the steps below, in the transaction of the writer that
meets it; views are made anew. To change the tables: change `schema.TABLES`, and add a step that
does the same to a file of the version before. A step stays as it is, whatever comes later.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sqlite_utils import Database

_OF_RUN = """run_id INTEGER NOT NULL REFERENCES runs (run_id) ON DELETE CASCADE"""


def _proofs_and_fits(db: Database) -> None:
    """2: where findings show in the trace; latency and bandwidth."""
    db.execute(
        f"""CREATE TABLE fits (
  fit_id INTEGER PRIMARY KEY,
  {_OF_RUN},
  kind TEXT NOT NULL,
  group_name TEXT,
  group_size INTEGER,
  algorithm TEXT,
  count INTEGER NOT NULL,
  sizes INTEGER NOT NULL,
  min_bytes REAL,
  max_bytes REAL,
  algbw_gbps REAL,
  busbw_gbps REAL,
  latency_us REAL,
  bandwidth_gbps REAL,
  bus_bandwidth_gbps REAL,
  residual_pct REAL,
  reason TEXT
) STRICT"""
    )
    db.execute(
        f"""CREATE TABLE finding_proof (
  proof_id INTEGER PRIMARY KEY,
  {_OF_RUN},
  finding_id INTEGER NOT NULL REFERENCES findings (finding_id) ON DELETE CASCADE,
  position INTEGER NOT NULL,
  rank INTEGER NOT NULL,
  step INTEGER NOT NULL,
  start_ns INTEGER NOT NULL,
  end_ns INTEGER NOT NULL,
  name TEXT NOT NULL,
  event_row INTEGER NOT NULL
) STRICT"""
    )
    db.execute("CREATE INDEX fits_run_id ON fits (run_id)")
    db.execute("CREATE INDEX finding_proof_run_id ON finding_proof (run_id)")
    db.execute("CREATE INDEX finding_proof_finding_id ON finding_proof (finding_id)")


#: Step i brings version i + 1 to version i + 2.
MIGRATIONS: tuple[Callable[[Database], None], ...] = (_proofs_and_fits,)

VERSION = 1 + len(MIGRATIONS)
