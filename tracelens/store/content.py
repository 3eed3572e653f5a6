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
from tracelens.remote import Url, absolute, as_path, open_binary, size_of
from tracelens.units import NS_PER_S

_CHUNK = 1 << 20
#: Time of change of what tells none: such a file is hashed each time.
NEVER = 0
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

    @property
    def state(self) -> tuple[int, int]:
        """What changes with the content, mostly: size and time."""
        return self.bytes, self.modified_ns


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
        where = absolute(path)
        if where not in marks:
            marks[where] = _mark(where, (known or {}).get(where))
    whole = hashlib.blake2b(digest_size=16)
    for path, part in traces:
        whole.update(f"{marks[absolute(path)].digest} {part or ''}\n".encode())
    for digest in sorted(marks[absolute(p)].digest for p in others):
        whole.update(f"beside {digest}\n".encode())
    return Content(whole.hexdigest(), tuple(marks.values()))


def check_unchanged(content: Content) -> None:
    """Raise a StoreError if a file has changed since: what was read may be of two recordings."""
    for mark in content.files:
        if _state(mark.path) != mark.state:
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
        size, modified_ns = _state(path)
        if modified_ns != NEVER and known and (size, modified_ns) == known.state:
            return known
        digest = hashlib.blake2b(digest_size=16)
        file, _ = open_binary(path)
        with file:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
    except OSError as e:
        raise InputError(f"{path}: {e.strerror or e}", hint="check the path") from e
    return FileMark(path, size, modified_ns, digest.hexdigest())


def _state(path: str) -> tuple[int, int]:
    """Size and time of change; of a URL no time that can be trusted."""
    if isinstance(as_path(path), Url):
        return size_of(path), NEVER
    stat = os.stat(path)
    return stat.st_size, stat.st_mtime_ns


def trusted(marks: Iterable[FileMark], kept_ns: int) -> dict[str, FileMark]:
    """Those of a run's files, kept at `kept_ns`, whose time of change is enough to know them by."""
    return {m.path: m for m in marks if m.modified_ns < kept_ns - _RACY_NS}
