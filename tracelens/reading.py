"""The ranks of a run, each read and reduced on its own: here, in worker processes, or on Dask.

Whichever way, the same function sees the same file, and results come in the order of ranks: the
analysis is the same to the last bit.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias, TypeVar

from tracelens import cluster, workers
from tracelens.errors import InputError, TraceLensError
from tracelens.ingest.bounds import BOUNDS, Bounds
from tracelens.ingest.run import RankFile
from tracelens.remote import absolute, as_path
from tracelens.trace import Note, frozen_again

R = TypeVar("R")
Work: TypeAlias = "Callable[[RankFile, Callable[[int, int], None]], R]"
Progress: TypeAlias = Callable[[str, int, int], None]
"""Called with (what is read, bytes read, bytes in all)."""

#: Peak memory of reading a rank (docs/scale.md): an interpreter with what it imports, and bytes per
#: byte of a plain file; a packed one holds as many events as one 20 times its size.
_BASE_BYTES, _PER_BYTE, _PACKED = 80_000_000, 0.35, 20
_PACKED_NAMES = (".gz", ".xz", ".zst")
#: Bytes of plain files below which workers would take longer to start than to read.
_WORTH_BYTES = 60_000_000
#: Bytes of plain files whose events are kept: `_PER_BYTE` of them, 90 MB.
_KEPT_BYTES = 250_000_000


@dataclass(frozen=True, slots=True)
class Effort:
    """What reading may use.

    Attributes
    ----------
    jobs : int or None
        Ranks that are read at once; None for as many as cores and memory carry.
    memory_limit : int or None
        Bytes that all processes may take together; None for what is free.
    raise_limits : float
        How many times more than `BOUNDS` a file may be.
    dask : str or None
        Address of a Dask scheduler whose workers read instead.
    """

    jobs: int | None = 1
    memory_limit: int | None = None
    raise_limits: float = 1
    dask: str | None = None

    @property
    def bounds(self) -> Bounds:
        """What a file may grow to."""
        return BOUNDS.times(self.raise_limits)


#: One rank after the other, in this process.
ALONE = Effort()


def read_ranks(
    work: Work[R], files: Sequence[RankFile], effort: Effort, progress: Progress | None
) -> tuple[list[R], list[Note]]:
    """Do `work` on each file.

    Returns
    -------
    results : list
        Of the ranks that could be read, in the order of `files`.
    notes : list of Note
        One a rank that could not.

    Raises
    ------
    InputError
        If there is one file, and it cannot be read.
    """
    sizes = [f.bytes for f in files]
    plain = [_plain_bytes(f) for f in files]
    if effort.jobs is None and effort.memory_limit is None and sum(plain) < _WORTH_BYTES:
        crew = workers.Crew(0)
    else:
        needs = [_BASE_BYTES + round(_PER_BYTE * n) for n in plain]
        crew = workers.choose(effort.jobs, effort.memory_limit, needs)
    tick = None if progress is None else _Sum(progress, files)
    if effort.dask is None:
        found = workers.run(work, files, sizes, crew, tick)
    else:  # workers there have working directories of their own
        whole = [replace(f, path=as_path(absolute(f.path))) for f in files]
        ends = None if tick is None else lambda i: tick(i, sizes[i])
        found = cluster.run(work, whole, effort.dask, ends)
    results: list[R] = []
    notes: list[Note] = []
    for file, result in zip(files, found, strict=True):
        if not isinstance(result, TraceLensError):
            frozen_again(result)
            results.append(result)
        elif len(files) == 1 or not isinstance(result, InputError):
            raise result
        else:
            text = f"rank {file.rank} is left out: {result}"
            notes.append(Note("unreadable_file", 1, text))
    return results, notes


def worth_keeping(files: Sequence[RankFile], effort: Effort) -> bool:
    """Whether all events of these files may stay in memory for who reads them right after."""
    here = effort.dask is None and effort.jobs == 1 and effort.memory_limit is None
    return here and sum(_plain_bytes(f) for f in files) <= _KEPT_BYTES


def _plain_bytes(file: RankFile) -> int:
    return file.bytes * (_PACKED if file.path.suffix in _PACKED_NAMES else 1)


def ticking(what: str, progress: Progress | None) -> Callable[[int, int], None] | None:
    """What a reader of one file calls, so that `progress` is told what it is that is read."""
    return None if progress is None else lambda done, total: progress(what, done, total)


class _Sum:
    """What all ranks have read, told as one number."""

    def __init__(self, progress: Progress, files: Sequence[RankFile]) -> None:
        self._progress, self._files = progress, files
        self._read = [0] * len(files)
        self._done, self._total = 0, sum(f.bytes for f in files)

    def __call__(self, i: int, read: int) -> None:
        file = self._files[i]
        read = min(read, file.bytes)
        self._done += read - self._read[i]
        self._read[i] = read
        name = os.path.basename(file.path)
        ranks = sum(r >= f.bytes for r, f in zip(self._read, self._files, strict=True))
        what = name if len(self._files) == 1 else f"{name}, {ranks} of {len(self._files)} ranks"
        self._progress(what, self._done, self._total)
