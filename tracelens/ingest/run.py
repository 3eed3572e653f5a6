"""Which files make up a run, and whose rank each one is.

Notes of a `RunPlan`, by code:

===============  ==================================================================================
ignored_file     files that are no traces (manifests, configs, other JSON)
unreadable_file  files that look like traces or claim to be and cannot be read, one note each
duplicate_rank   several files of one rank: the newest is taken
mixed_run        the files do not belong to one job: world sizes or group counts differ
missing_ranks    ranks of the world that have no file
===============  ==================================================================================
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from tracelens.errors import InputError, UsageError
from tracelens.ingest.peek import Peek, peek, rank_in_name
from tracelens.trace import Note

RankSource = Literal["distributedInfo", "file name", "order"]

#: How deep to look below a given folder: run/rank3/trace.json.
_MAX_DEPTH = 2
#: How many names a note spells out.
_NAMED = 5


@dataclass(frozen=True, slots=True)
class RankFile:
    """One rank's trace file.

    `rank_source` tells how the rank is known; `world_size` is what the file says, None if nothing;
    `bytes` is its size on disk.
    """

    path: Path
    rank: int
    rank_source: RankSource
    world_size: int | None
    bytes: int


@dataclass(frozen=True, slots=True)
class RunPlan:
    """The files of a run, by rank, and what is odd about them."""

    files: tuple[RankFile, ...]
    notes: tuple[Note, ...]
    world_size: int | None

    @property
    def ranks(self) -> tuple[int, ...]:
        """Ranks that have a file, ascending."""
        return tuple(f.rank for f in self.files)

    def select(self, ranks: Iterable[int]) -> RunPlan:
        """The same plan with only these ranks.

        Raises
        ------
        UsageError
            If one of them has no file.
        """
        wanted = set(ranks)
        absent = wanted - set(self.ranks)
        if absent:
            raise UsageError(
                f"no trace of rank {compact(absent)}", hint=f"there are ranks {compact(self.ranks)}"
            )
        return replace(self, files=tuple(f for f in self.files if f.rank in wanted))


def discover(paths: Sequence[str | os.PathLike[str]]) -> RunPlan:
    """Find the trace files of a run.

    Parameters
    ----------
    paths : sequence of path
        Files, and folders that are looked through two levels deep. Files are recognised by content.

    Returns
    -------
    RunPlan
        Files in order of rank. A rank comes from the file's ``distributedInfo``, else from its
        name, else from its place among the names.

    Raises
    ------
    InputError
        If a path does not exist, or no trace can be read.
    """
    peeks: list[Peek] = []
    ignored: list[Path] = []
    notes: list[Note] = []
    for path in _files(paths):
        try:
            found = peek(path)
        except InputError as e:
            notes.append(Note("unreadable_file", 1, str(e)))
            continue
        if found is None:
            ignored.append(path)
        else:
            peeks.append(found)
    if not peeks:
        raise _nothing_found(paths, ignored, notes)
    if ignored:
        text = f"Not traces, ignored: {_some(ignored)}."
        notes.insert(0, Note("ignored_file", len(ignored), text))
    files, duplicates = _newest(_ranked(peeks), peeks)
    world_size, oddities = _world(files, peeks)
    return RunPlan(files, (*notes, *duplicates, *oddities), world_size)


def compact(ranks: Iterable[int]) -> str:
    """Ranks as short text.

    Examples
    --------
    >>> compact([7, 1, 2, 3])
    '1-3, 7'
    """
    spans: list[list[int]] = []
    for rank in sorted(set(ranks)):
        if spans and rank == spans[-1][1] + 1:
            spans[-1][1] = rank
        else:
            spans.append([rank, rank])
    return ", ".join(f"{a}" if a == b else f"{a}-{b}" for a, b in spans)


def _files(paths: Sequence[str | os.PathLike[str]]) -> list[Path]:
    """All files that the paths name, each once, in order of name within a folder."""
    found: dict[Path, None] = {}
    for given in map(Path, paths):
        if given.is_dir():
            found.update(dict.fromkeys(_below(given, _MAX_DEPTH)))
        elif given.exists():
            found[given] = None
        else:
            raise InputError(f"{given}: no such file or folder", hint="check the path")
    return list(found)


def _below(folder: Path, depth: int) -> list[Path]:
    try:
        entries = sorted(p for p in folder.iterdir() if not p.name.startswith("."))
    except OSError as e:
        raise InputError(f"{folder}: {e.strerror or e}") from e
    files = [p for p in entries if p.is_file()]
    if depth:
        for child in entries:
            if child.is_dir():
                files += _below(child, depth - 1)
    return files


def _ranked(peeks: list[Peek]) -> list[RankFile]:
    """Each file with its rank: recorded, named, or else the lowest one that is free."""
    ranks: list[tuple[int | None, RankSource]] = []
    for p in peeks:
        named = rank_in_name(p.path)
        source: RankSource = "distributedInfo" if p.rank is not None else "file name"
        ranks.append((named if p.rank is None else p.rank, source))
    taken = {rank for rank, _ in ranks if rank is not None}
    free = (r for r in range(len(peeks) + len(taken)) if r not in taken)
    in_order = sorted(range(len(peeks)), key=lambda i: peeks[i].path)
    by_order = {i: next(free) for i in in_order if ranks[i][0] is None}
    files = []
    for i, (p, (rank, source)) in enumerate(zip(peeks, ranks, strict=True)):
        if rank is None:
            rank, source = by_order[i], "order"
        files.append(RankFile(p.path, rank, source, p.world_size, p.bytes))
    return files


def _newest(files: list[RankFile], peeks: list[Peek]) -> tuple[tuple[RankFile, ...], list[Note]]:
    """One file a rank: the newest by its clock, then by its name."""
    clock = {p.path: p.clock_zero_ns for p in peeks}
    kept: dict[int, RankFile] = {}
    others: dict[int, list[RankFile]] = {}
    for file in sorted(files, key=lambda f: (clock[f.path], f.path.name, f.path)):
        if file.rank in kept:
            others.setdefault(file.rank, []).append(kept[file.rank])
        kept[file.rank] = file
    notes = [
        Note(
            "duplicate_rank",
            len(older),
            f"Rank {rank} has {len(older) + 1} files: {kept[rank].path} (the newest) is used, "
            f"not {_some([f.path for f in older])}.",
        )
        for rank, older in sorted(others.items())
    ]
    return tuple(kept[rank] for rank in sorted(kept)), notes


def _world(files: tuple[RankFile, ...], peeks: list[Peek]) -> tuple[int | None, list[Note]]:
    """The world size that the files agree on, and notes if they do not, or if ranks lack."""
    used = {f.path for f in files}
    notes = []
    worlds = sorted({f.world_size for f in files if f.world_size is not None})
    groups = sorted({p.group_count for p in peeks if p.path in used and p.group_count is not None})
    if len(worlds) > 1:
        sizes = ", ".join(map(str, worlds))
        text = f"The files are of different jobs: they were recorded with world sizes {sizes}."
        notes.append(Note("mixed_run", len(worlds), text))
    elif len(groups) > 1:
        counts = ", ".join(map(str, groups))
        text = f"The files may be of different jobs: they list {counts} process groups."
        notes.append(Note("mixed_run", len(groups), text))
    world = worlds[0] if len(worlds) == 1 else None
    missing = set(range(world or 0)) - {f.rank for f in files}
    if missing:
        text = f"No trace of {len(missing)} of {world} ranks: {compact(missing)}."
        notes.append(Note("missing_ranks", len(missing), text))
    return world, notes


def _some(paths: Sequence[Path]) -> str:
    """A few paths by name, and how many more."""
    names = ", ".join(str(p) for p in paths[:_NAMED])
    more = len(paths) - _NAMED
    return f"{names} and {more} more" if more > 0 else names


def _nothing_found(
    paths: Sequence[str | os.PathLike[str]], ignored: list[Path], notes: list[Note]
) -> InputError:
    where = ", ".join(os.fspath(p) for p in paths) or "no path"
    reasons = [n.text for n in notes]
    if ignored:
        reasons.append(f"JSON without traceEvents: {_some(ignored)}")
    found = "; ".join(reasons[:_NAMED]) or "there are no files"
    return InputError(
        f"no trace to read in {where}: {found}",
        hint="give the *.pt.trace.json files (or their folder) that torch.profiler wrote",
    )
