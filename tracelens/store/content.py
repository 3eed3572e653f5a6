"""What a run is by content: the digest of every byte of its files.

Reading and hashing (about 1 GB/s) costs a fiftieth of what analysing costs, and a whole digest
cannot be mistaken, where a sample can: two recordings of one job have equal sizes and headers. A
file whose path, size and time of change are those kept need not be hashed again, as git does.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tracelens.errors import InputError, StoreError
from tracelens.units import NS_PER_S

_CHUNK = 1 << 20
#: A file changed less than this before it was looked at may change again unnoticed: file systems
#: keep times to 2 s at worst (FAT), and git calls such files racy.
_RACY_NS = 2 * NS_PER_S


@dataclass(frozen=True, slots=True)
class FileMark:
    """A file as it was: absolute path, size, time of change, digest of its content."""

    path: str
    bytes: int
    modified_ns: int
    digest: str


@dataclass(frozen=True, slots=True)
class Content:
    """The files of a run and what they are together.

    `key` depends on the bytes of the files and on which ranks are read, not on names or places.
    """

    key: str
    files: tuple[FileMark, ...]


def content_of(
    traces: Sequence[tuple[Path, str | None]],
    others: Iterable[Path] = (),
    known: Mapping[str, FileMark] | None = None,
) -> Content:
    """Look at a run's files.

    Parameters
    ----------
    traces : sequence of (path, part)
        Trace file and part of each rank, in order of rank.
    others : iterable of Path
        Further files that the analysis reads: manifests, a ds_config.
    known : mapping of path to FileMark, optional
        Files as they were kept: unchanged ones are not hashed again.

    Raises
    ------
    InputError
        If a file cannot be read.
    """
    marks: dict[str, FileMark] = {}
    for path in [*(p for p, _ in traces), *others]:
        place = os.path.abspath(path)
        if place not in marks:
            marks[place] = _mark(place, (known or {}).get(place))
    whole = hashlib.blake2b(digest_size=16)
    for path, part in traces:
        whole.update(f"{marks[os.path.abspath(path)].digest} {part or ''}\n".encode())
    for digest in sorted(marks[os.path.abspath(p)].digest for p in others):
        whole.update(f"beside {digest}\n".encode())
    return Content(whole.hexdigest(), tuple(marks.values()))


def check_unchanged(content: Content) -> None:
    """Raise a StoreError if a file has changed since: what was read may be of two recordings."""
    for mark in content.files:
        stat = os.stat(mark.path)
        if (stat.st_size, stat.st_mtime_ns) != (mark.bytes, mark.modified_ns):
            raise StoreError(
                f"{mark.path}: changed while it was read; nothing was kept",
                hint="is the job still writing? read it again when it is done",
            )


def check_same(mark: FileMark) -> None:
    """Raise a StoreError if a file does not hold any more what it held when it was kept.

    Raises
    ------
    InputError
        If it cannot be read.
    """
    if _mark(mark.path, mark).digest != mark.digest:
        raise StoreError(
            f"{mark.path}: changed since the run was kept",
            hint="its events are of another recording: analyse that with --db to keep it too",
        )


def _mark(path: str, known: FileMark | None) -> FileMark:
    try:
        stat = os.stat(path)
        if known and (stat.st_size, stat.st_mtime_ns) == (known.bytes, known.modified_ns):
            return known
        digest = hashlib.blake2b(digest_size=16)
        with open(path, "rb") as file:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
    except OSError as e:
        raise InputError(f"{path}: {e.strerror or e}", hint="check the path") from e
    return FileMark(path, stat.st_size, stat.st_mtime_ns, digest.hexdigest())


def trusted(marks: Iterable[FileMark], kept_ns: int) -> dict[str, FileMark]:
    """Those of a run's files, kept at `kept_ns`, whose time of change is enough to know them by."""
    return {m.path: m for m in marks if m.modified_ns < kept_ns - _RACY_NS}
