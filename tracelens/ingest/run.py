"""Which files make up a run, and whose rank each one is.

Notes of a `RunPlan`, by code:

===============  ==================================================================================
ignored_file     files that are no traces (configs, other JSON)
unreadable_file  files that look like traces or claim to be and cannot be read, one note each
duplicate_rank   several files of one rank: the newest is taken
mixed_run        files of another job (by its world size) are left out, or group counts differ
missing_ranks    ranks of the world that have no file
mixed_formats    torch.profiler traces beside Nsight Systems exports, which are left out
counted_world    no file says how large the job was: it is taken to have the ranks found
===============  ==================================================================================
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from tracelens.errors import InputError, UsageError
from tracelens.ingest.bounds import BOUNDS, Bounds
from tracelens.ingest.manifest import is_manifest
from tracelens.ingest.nsys.export import REPORT_SUFFIXES
from tracelens.ingest.peek import Peek, peek, rank_in_name
from tracelens.remote import Url, as_path, below, exists, is_folder
from tracelens.trace import Note

RankSource = Literal["distributedInfo", "NCCL payload", "file name", "order", "process order"]

#: How deep to look below a given folder: run/rank3/trace.json.
_MAX_DEPTH = 2
#: How many names a note spells out.
_NAMED = 5


@dataclass(frozen=True, slots=True)
class RankFile:
    """One rank's trace file.

    `rank_source` tells how the rank is known; `world_size` is what the file says, None if nothing;
    `bytes` is its size on disk. A file that holds several ranks is there once for each, with a
    `part` for `open_trace` and its share of the bytes.
    """

    path: Path
    rank: int
    rank_source: RankSource
    world_size: int | None
    bytes: int
    part: str | None = None


@dataclass(frozen=True, slots=True)
class RunPlan:
    """The files of a run, by rank, and what is odd about them; manifests as they were found."""

    files: tuple[RankFile, ...]
    notes: tuple[Note, ...]
    world_size: int | None
    manifests: tuple[Path, ...] = ()
    bounds: Bounds = BOUNDS

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


def discover(paths: Sequence[str | os.PathLike[str]], bounds: Bounds = BOUNDS) -> RunPlan:
    """Find the trace files of a run.

    Parameters
    ----------
    paths : sequence of path
        Files, and folders that are looked through two levels deep. Files are recognised by content.
    bounds : Bounds, optional
        What packed files may unpack to.

    Returns
    -------
    RunPlan
        Files in order of rank. A rank comes from the file's ``distributedInfo`` (in an Nsight
        Systems export: from NCCL's payloads), else from its name, else from its place among the
        names, and within a file of several ranks from the order of devices and processes.

    Raises
    ------
    InputError
        If a path does not exist, or no trace can be read.
    """
    peeks: list[Peek] = []
    ignored: list[Path] = []
    manifests: list[Path] = []
    notes: list[Note] = []
    for path in _files(paths):
        try:
            found = peek(path, bounds)
        except InputError as e:
            notes.append(Note("unreadable_file", 1, str(e)))
            continue
        if not found:
            (manifests if is_manifest(path) else ignored).append(path)
        peeks += found
    if not peeks:
        raise _nothing_found(paths, [*ignored, *manifests], notes)
    if ignored:
        text = f"Not traces, ignored: {_some(ignored)}."
        notes.insert(0, Note("ignored_file", len(ignored), text))
    for choose in (_one_format, _one_job):
        peeks, left_out = choose(peeks)
        notes += left_out
    files, duplicates = _newest(_ranked(peeks), peeks)
    world_size, oddities = _world(files, peeks)
    told = (*notes, *duplicates, *oddities)
    return RunPlan(files, told, world_size, tuple(manifests), bounds)


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
    for given in map(as_path, paths):
        if is_folder(given):
            found.update(dict.fromkeys(_below(given, _MAX_DEPTH)))
        elif exists(given):
            found[given] = None
        else:
            raise InputError(f"{given}: no such file or folder", hint="check the path")
    return [path for path in found if not _exported(path, found)]


def _exported(path: Path, found: Iterable[Path]) -> bool:
    """Whether a report lies beside its own export."""
    return path.suffix in REPORT_SUFFIXES and path.with_suffix(".sqlite") in set(found)


def _one_format(peeks: list[Peek]) -> tuple[list[Peek], list[Note]]:
    """The torch.profiler traces where there are any: two recordings are not one run."""
    traces = [p for p in peeks if p.source == "torch.profiler"]
    others = sorted({p.path for p in peeks if p.source != "torch.profiler"})
    if not traces or not others:
        return peeks, []
    text = f"Beside torch.profiler traces, Nsight Systems exports are left out: {_some(others)}."
    return traces, [Note("mixed_formats", len(others), text)]


def _one_job(peeks: list[Peek]) -> tuple[list[Peek], list[Note]]:
    """The files of the job that has most of them, of equal ones the newest.

    Jobs are told apart by their world sizes; a file that does not tell its own stays.
    """
    jobs: dict[int, list[Peek]] = {}
    for p in peeks:
        if p.world_size is not None:
            jobs.setdefault(p.world_size, []).append(p)
    if len(jobs) < 2:
        return peeks, []
    size = max(jobs, key=lambda w: (len(jobs[w]), max(p.clock_zero_ns for p in jobs[w]), w))
    others = [p.path for p in peeks if p.world_size not in (None, size)]
    sizes = ", ".join(map(str, sorted(jobs)))
    text = (
        f"The files are of different jobs: they were recorded with world sizes {sizes}. That of "
        f"{size} is read, which has most files; left out: {_some(others)}."
    )
    return [p for p in peeks if p.world_size in (None, size)], [
        Note("mixed_run", len(others), text)
    ]


def _below(folder: Path, depth: int) -> list[Path]:
    if isinstance(folder, Url):
        return list(below(folder, depth))
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
    ranks = [_known_rank(p) for p in peeks]
    if peeks[0].source == "nsys" and len({r for r, _ in ranks if r is not None}) < len(peeks):
        # reports of one job never hold a rank twice: what is recorded counts within each node
        ranks = [(None, "process order") for _ in peeks]
    taken = {rank for rank, _ in ranks if rank is not None}
    free = (r for r in range(len(peeks) + len(taken)) if r not in taken)
    in_order = sorted(range(len(peeks)), key=lambda i: (peeks[i].path, i))
    by_order = {i: next(free) for i in in_order if ranks[i][0] is None}
    files = []
    for i, (p, (rank, source)) in enumerate(zip(peeks, ranks, strict=True)):
        rank = by_order[i] if rank is None else rank
        files.append(RankFile(p.path, rank, source, p.world_size, p.bytes, p.part))
    return files


def _known_rank(p: Peek) -> tuple[int | None, RankSource]:
    """The rank that a file tells, if any, and how."""
    in_export = p.source == "nsys"
    if p.rank is not None:
        return p.rank, "NCCL payload" if in_export else "distributedInfo"
    named = rank_in_name(p.path) if p.parts == 1 else None
    if named is not None:
        return named, "file name"
    return None, "process order" if in_export else "order"


def _newest(files: list[RankFile], peeks: list[Peek]) -> tuple[tuple[RankFile, ...], list[Note]]:
    """One file a rank: a whole one rather than a part, the newest by its clock, then its name."""
    clock = {p.path: p.clock_zero_ns for p in peeks}
    kept: dict[int, RankFile] = {}
    others: dict[int, list[RankFile]] = {}
    for file in sorted(files, key=lambda f: (_whole(f.path), clock[f.path], f.path.name, f.path)):
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


def _whole(path: Path) -> bool:
    """Whether a name is that of a finished file: writers rename ``.tmp`` when they are done."""
    return path.suffix != ".tmp"


def _world(files: tuple[RankFile, ...], peeks: list[Peek]) -> tuple[int | None, list[Note]]:
    """The world size that the files agree on, and notes if they do not, or if ranks lack."""
    used = {f.path for f in files}
    notes = []
    world = next((f.world_size for f in files if f.world_size is not None), None)
    groups = sorted({p.group_count for p in peeks if p.path in used and p.group_count is not None})
    if len(groups) > 1:
        counts = ", ".join(map(str, groups))
        text = f"The files may be of different jobs: they list {counts} process groups."
        notes.append(Note("mixed_run", len(groups), text))
    if world is None and len(files) > 1 and peeks[0].source == "nsys":
        world = len(files)
        text = (
            f"No file says how large the job was: it is taken to have the {world} ranks found here."
        )
        notes.append(Note("counted_world", world, text))
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
    hint = (
        "give the *.pt.trace.json files that torch.profiler wrote, Nsight Systems exports "
        "(.sqlite), or their folder"
    )
    if [os.fspath(p) for p in paths] == [os.fspath(p) for p in ignored]:
        return InputError(f"{where}: JSON without traceEvents", hint=hint)
    if ignored:
        reasons.append(f"JSON without traceEvents: {_some(ignored)}")
    found = "; ".join(reasons[:_NAMED]) or "there are no files"
    return InputError(
        f"no trace to read in {where}: {found}",
        hint=hint,
    )
