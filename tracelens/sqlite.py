"""Whose a SQLite file is, by its first bytes (sqlite.org/fileformat.html)."""

from __future__ import annotations

#: How every SQLite 3 file begins.
MAGIC = b"SQLite format 3\0"
HEADER_BYTES = 100  #: of every SQLite file; the application's id is in 68 to 71
#: Application id of a run.db: "TrLe".
RUN_DB = 0x54724C65


def application_id(head: bytes) -> int | None:
    """What a SQLite file, by its first bytes, says it is; None if it is no SQLite file."""
    if len(head) < HEADER_BYTES or not head.startswith(MAGIC):
        return None
    return int.from_bytes(head[68:72], "big")
