"""One rank of an export as a `Trace`."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from tracelens.errors import CorruptTrace, UsageError
from tracelens.ingest.bounds import BOUNDS, Bounds
from tracelens.ingest.nsys import gpu
from tracelens.ingest.nsys.calls import NcclCalls, nccl_calls
from tracelens.ingest.nsys.database import Database
from tracelens.ingest.nsys.export import plain
from tracelens.ingest.nsys.gpu import Piece
from tracelens.ingest.nsys.notes import notes_of
from tracelens.ingest.nsys.nvtx import Ranges, innermost, read_ranges
from tracelens.ingest.nsys.ranks import Part, find_parts, pid_of
from tracelens.ingest.values import MAX_SPAN_NS, as_rank
from tracelens.trace import (
    Collectives,
    ImportStats,
    Int32s,
    Int64s,
    Kind,
    Memory,
    Shapes,
    Slices,
    Trace,
    TraceInfo,
    Tracks,
)

Progress = Callable[[int, int], None]

#: Times after 2001 in ns since 1970; no recording is 30 years long.
_UNIX_TIMES = 10**18

#: Share of the work of reading by the time that kernels and that API calls are in.
_KERNELS_DONE, _CALLS_DONE = 0.4, 0.8


def read(
    path: str | os.PathLike[str],
    *,
    progress: Progress | None = None,
    part: str | None = None,
    bounds: Bounds = BOUNDS,
) -> Trace:
    """Read one rank of an export.

    Parameters
    ----------
    path : path
        SQLite file that ``nsys export --type sqlite`` wrote.
    progress : callable, optional
        Called now and then with (bytes of the file done, bytes of the file).
    part : str, optional
        Which rank, by `Part.key`; the first if it is left out.
    bounds : Bounds, optional
        What a packed export may unpack to.

    Raises
    ------
    UnsupportedFormat
        If it is an SQLite file of something else.
    CorruptTrace
        If nothing of it can be read.
    UsageError
        If it has no such part.
    """
    file = plain(path, bounds)
    with Database(file) as db:
        parts = find_parts(db)
        mine = parts[0] if part is None else next((p for p in parts if p.key == part), None)
        if mine is None:
            raise UsageError(f"{os.fspath(path)}: no process and device {part}")
        size = os.path.getsize(file) // (1 if part is None else len(parts))

        def tick(begin: float, end: float) -> Progress | None:
            if progress is None:
                return None
            return lambda done, of: progress(int(size * (begin + (end - begin) * done / of)), size)

        pieces = [
            gpu.read_kernels(db, mine, tick(0.0, _KERNELS_DONE)),
            gpu.read_graphs(db, mine),
            gpu.read_copies(db, mine),
            gpu.read_memsets(db, mine),
            gpu.read_syncs(db, mine),
            gpu.read_calls(db, mine, tick(_KERNELS_DONE, _CALLS_DONE)),
            gpu.read_overhead(db, mine),
        ]
        ranges = read_ranges(db, mine.global_pid)
        calls = nccl_calls(db, ranges, mine.global_pid)
        trace = _assemble(db, mine, pieces, ranges, calls)
        notes = notes_of(db, mine, parts if part is None else (mine,), pieces, ranges, calls)
    if progress is not None:
        progress(size, size)
    stats = ImportStats(
        events_read=gpu.events(pieces) + len(ranges) + ranges.open,
        events_dropped=sum(p.dropped for p in pieces) + ranges.open,
        notes=notes,
    )
    return replace(trace, info=replace(trace.info, path=os.fspath(path)), stats=stats)


@dataclass
class _Table:
    """Slice columns while they are put together."""

    columns: dict[str, list[Int64s]]
    strings: dict[str, int]

    def add(self, n: int, **given: Int64s | int) -> None:
        for name, parts in self.columns.items():
            value = given.get(name, -1)
            parts.append(value if isinstance(value, np.ndarray) else np.full(n, value, np.int64))

    def codes(self, name: Int64s, names: tuple[str, ...]) -> Int64s:
        code = [self.strings.setdefault(n, len(self.strings)) for n in names]
        return np.array(code, np.int64)[name] if len(name) else name

    def code(self, text: str) -> int:
        return self.strings.setdefault(text, len(self.strings))


def _assemble(
    db: Database, part: Part, pieces: list[Piece], ranges: Ranges, calls: NcclCalls
) -> Trace:
    table = _Table({f: [] for f in Slices.__dataclass_fields__}, {})
    tracks: dict[tuple[int, int], int] = {}  # (globalPid or -1, thread or stream) -> row

    def host(tid: Int64s) -> Int64s:
        return _rows_of(tracks, [(part.global_pid, 0)], tid, on_gpu=False)

    launched: list[tuple[Int64s, Int64s]] = []
    for piece in pieces:
        n = len(piece)
        on_gpu = piece.tid is None
        track = (
            _rows_of(tracks, [(-1, part.device)], piece.stream, on_gpu=True)
            if piece.tid is None
            else host(piece.tid)
        )
        external: Int64s | int = -1
        if piece.kind == Kind.RUNTIME and piece.tid is not None:
            external = innermost(ranges, piece.tid, piece.start_ns) + 1
            external[external == 0] = -1
            if piece.correlation is not None:
                launched.append((piece.correlation, external))
        table.add(
            n,
            ts_ns=piece.start_ns,
            dur_ns=piece.end_ns - piece.start_ns,
            name=table.codes(piece.name, piece.names),
            kind=int(piece.kind),
            track=track,
            correlation=-1 if piece.correlation is None else piece.correlation,
            external_id=external,
            stream=-1 if piece.stream is None else piece.stream,
            device=part.device if on_gpu else -1,
            bytes=-1 if piece.bytes is None else piece.bytes,
        )
    _message_bytes(table, pieces, launched, calls)
    n = len(ranges)
    table.add(
        n,
        ts_ns=ranges.start_ns,
        dur_ns=ranges.end_ns - ranges.start_ns,
        name=table.codes(ranges.name, ranges.names),
        kind=ranges.kind,
        track=host(ranges.global_tid),
        external_id=np.arange(1, n + 1),
        sequence=ranges.sequence,
    )
    return _finish(db, part, table, tracks, calls, n)


def _message_bytes(
    table: _Table,
    pieces: list[Piece],
    launched: list[tuple[Int64s, Int64s]],
    calls: NcclCalls,
) -> None:
    """Give kernels the size of the NCCL message that their launch served."""
    if not len(calls.row) or not launched:
        return
    correlation, external = launched[0]
    known = np.flatnonzero((external > 0) & (correlation > 0))
    known = known[np.argsort(correlation[known], kind="stable")]
    keys = correlation[known]
    size = np.full(int(external.max(initial=0)) + 1, -1, np.int64)
    on = calls.row + 1 < len(size)
    size[calls.row[on] + 1] = calls.bytes[on]
    for i, piece in enumerate(pieces):
        if piece.kind != Kind.KERNEL or piece.correlation is None or not len(keys):
            continue
        at = np.minimum(np.searchsorted(keys, piece.correlation), len(keys) - 1)
        hit = keys[at] == piece.correlation
        table.columns["bytes"][i] = np.where(hit, size[external[known[at]]], -1)


def _rows_of(
    tracks: dict[tuple[int, int], int],
    key: list[tuple[int, int]],
    number: Int64s | None,
    *,
    on_gpu: bool,
) -> Int64s:
    """Track row of each stream or thread; asking for a new one adds it."""
    owner = key[0][1] - 1024 if on_gpu else key[0][0]
    if number is None:
        number = np.empty(0, np.int64)
    distinct, inverse = np.unique(number, return_inverse=True)
    rows = [tracks.setdefault((owner, int(t)), len(tracks)) for t in distinct]
    return np.array(rows, np.int64)[inverse] if len(number) else number


def _finish(
    db: Database,
    part: Part,
    table: _Table,
    tracks: dict[tuple[int, int], int],
    calls: NcclCalls,
    n_ranges: int,
) -> Trace:
    columns = {name: np.concatenate(parts) for name, parts in table.columns.items()}
    start = columns["ts_ns"]
    if len(start) and int(start.max()) - int(start.min()) > MAX_SPAN_NS:
        raise CorruptTrace(
            f"{db.path}: its tables tell times that lie months apart",
            hint="export the report again",
        )
    zero = _rebase(clock_zero_ns(db), start)
    columns["ts_ns"] -= zero[1]
    order = np.lexsort((-columns["dur_ns"], columns["ts_ns"]))
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    first_range = len(order) - n_ranges
    collectives = _collectives(table, calls, place[first_range + calls.row])
    dtypes = {"name": np.int32, "kind": np.int8, "track": np.int32, "stream": np.int32,
              "device": np.int32}  # fmt: skip
    slices = Slices(**{c: v[order].astype(dtypes.get(c, np.int64)) for c, v in columns.items()})
    return Trace(
        info=TraceInfo(
            path=db.path,
            source="nsys",
            clock_zero_ns=zero[0],
            rank=as_rank(part.rank),
            world_size=as_rank(part.world),
            backend="nccl" if len(calls.row) else None,
            devices=gpu.device_names(db, part),
            groups=calls.groups,
            record_shapes=False,
            with_stack=False,
            profile_memory=False,
            truncated=bool(db.damaged),
        ),
        strings=tuple(table.strings),
        tracks=_track_table(db, tracks),
        slices=slices,
        collectives=collectives,
        shapes=Shapes(_no64(), _no32(), _no32(), _no32()),
        memory=Memory(_no64(), _no64(), _no64(), _no64(), _no32(), _no32()),
        stats=ImportStats(0, 0),
    )  # fmt: skip


def _no64() -> Int64s:
    return np.empty(0, np.int64)


def _no32() -> Int32s:
    return np.empty(0, np.int32)


def clock_zero_ns(db: Database) -> int:
    """Unix time, ns, of an export's time 0; 0 where it is not known, or where times are unix times.

    Times count from the start of the collection, whose wall clock time is in
    ``TARGET_INFO_SESSION_START_TIME``; with ``--ts-normalize`` they are wall clock times.
    """
    settings = db.settings()
    if settings.get("EXPORT_PARAM_TIME_NORMALIZE", "").lower() in ("true", "1"):
        return 0
    rows = db.rows("TARGET_INFO_SESSION_START_TIME", ("utcEpochNs",))
    began = rows[0][0] if rows else None
    if not isinstance(began, int):
        return 0
    shift = settings.get("EXPORT_PARAM_TIME_SHIFT", "0")
    return began - int(shift) if shift.lstrip("-").isdigit() else began


def _rebase(zero: int, start: Int64s) -> tuple[int, int]:
    """Unix time of ts 0, and what to take from all times: unix times start at the first event."""
    first = int(start.min()) if len(start) else 0
    return (first, first) if not zero and first > _UNIX_TIMES else (zero, 0)


def _collectives(table: _Table, calls: NcclCalls, row: Int64s) -> Collectives:
    order = np.argsort(row, kind="stable")
    n = len(row)
    none32 = np.full(n, -1, np.int32)
    group = [table.code(g) if g else -1 for g in calls.group]
    call = [table.code(c) for c in calls.call]
    none64 = np.full(n, -1, np.int64)
    return Collectives(
        row=row[order],
        call=np.array(call, np.int32)[order],
        in_nelems=none64,
        out_nelems=none64.copy(),
        group_size=calls.size[order].astype(np.int32),
        dtype=none32,
        group=np.array(group, np.int32)[order],
        group_desc=none32.copy(),
        ranks=none32.copy(),
        in_split=none32.copy(),
        out_split=none32.copy(),
        src_rank=none32.copy(),
        dst_rank=calls.peer[order].astype(np.int32),
        seq=none64.copy(),
    )


def _track_table(db: Database, tracks: dict[tuple[int, int], int]) -> Tracks:
    threads = {t for owner, t in tracks if owner >= 0}
    named = [
        (t, n)
        for t, n in db.rows("ThreadNames", ("globalTid", "nameId"))
        if t in threads and isinstance(t, int) and isinstance(n, int)
    ]
    words = db.strings(n for _, n in named)
    thread = {t: words.get(n, "") for t, n in named}
    owners = {owner for owner, _ in tracks if owner >= 0}
    process = {p: str(n) for p, n in db.rows("PROCESSES", ("globalPid", "name")) if p in owners}
    on_gpu = [owner < 0 for owner, _ in tracks]
    keys = list(zip(tracks, on_gpu, strict=True))
    return Tracks(
        pid=tuple(o + 1024 if g else pid_of(t) for (o, t), g in keys),
        tid=tuple(t if g else t & 0xFFFFFF for (o, t), g in keys),
        name=tuple(f"stream {t}" if g else thread.get(t, "") for (o, t), g in keys),
        process=tuple(
            f"GPU {o + 1024}" if g else os.path.basename(process.get(o, "")) for (o, t), g in keys
        ),
    )
