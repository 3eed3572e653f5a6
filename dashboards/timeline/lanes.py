"""A rank's events as lanes: steps, phases, the GPU as a whole, its streams, the host's threads."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Literal, TypeAlias

import numpy as np

from tracelens.analysis import RankEvents
from tracelens.classify import Op, is_comm, is_compute
from tracelens.intervals import Spans, empty, subtract, union
from tracelens.phases import Phase
from tracelens.report.palette import PHASES
from tracelens.report.text import clean
from tracelens.trace import GPU_WORK, Kind

from ..jobs import Tick
from .classes import CODE, OF_KIND, OF_OP, OF_PHASE
from .depths import nesting, packed
from .lod import Int32s, Int64s, Row

LaneKind: TypeAlias = Literal["band", "whole", "stream", "range", "thread"]
_SHOWN_FIRST = frozenset({"band", "whole", "stream"})


@dataclass(frozen=True, slots=True)
class Lane:
    """A line of the timeline; nested events lie on several `rows`, the outermost first."""

    label: str
    kind: LaneKind
    rows: tuple[Row, ...]

    @property
    def on_demand(self) -> bool:
        """Whether it is shown only when asked for."""
        return self.kind not in _SHOWN_FIRST


@dataclass(frozen=True, slots=True)
class RankLanes:
    """One rank, ready to be looked at.

    Attributes
    ----------
    rank : int
    seen : RankEvents
    lanes : tuple of Lane
        From top to bottom.
    strings : tuple of str
        What `Row.name` are indices into: the trace's, then names of steps and phases.
    lane, depth : int32 (n,)
        Where each row of `Slices` lies: index into `lanes`, and into the lane's rows; -1 nowhere.
    start_ns, end_ns : int
        First start and last end.
    """

    rank: int
    seen: RankEvents
    lanes: tuple[Lane, ...]
    strings: tuple[str, ...]
    lane: Int32s
    depth: Int32s
    start_ns: int
    end_ns: int


def _quiet(*_: object) -> None:
    """Nobody watches."""


class _Names:
    """The trace's strings, and more."""

    def __init__(self, strings: tuple[str, ...]) -> None:
        self._known = len(strings)
        self._strings = strings
        self._more: dict[str, int] = {}

    def __call__(self, text: str) -> int:
        return self._more.setdefault(text, self._known + len(self._more))

    @property
    def all(self) -> tuple[str, ...]:
        return (*self._strings, *self._more)


def build(rank: int, seen: RankEvents, tick: Tick = _quiet) -> RankLanes:
    """The lanes of one rank; `tick` is called between them and may raise."""
    names = _Names(seen.trace.strings)
    s = seen.trace.slices
    lanes: list[Lane] = []
    parts = (_bands(seen, names), _whole(seen, names), _streams(seen))
    for lane in chain(*parts, _gpu_ranges(seen), _threads(seen)):
        tick("laying out lanes", 0, 0)
        if lane.rows:
            lanes.append(lane)
    lane_of = np.full(len(s), -1, np.int32)
    depth_of = np.full(len(s), -1, np.int32)
    for i, lane in enumerate(lanes):
        for d, row in enumerate(lane.rows):
            mine = row.event[row.event >= 0]
            lane_of[mine], depth_of[mine] = i, d
    end = int(s.end_ns.max()) if len(s) else 0
    start = int(s.ts_ns[0]) if len(s) else 0
    return RankLanes(rank, seen, tuple(lanes), names.all, lane_of, depth_of, start, end)


# ---------------------------------------------------------------------------------------- bands
def _band(start: Int64s, end: Int64s, name: list[int], cls: list[int]) -> tuple[Row, ...]:
    if not len(start):
        return ()
    none = np.full(len(start), -1, np.int32)
    return (Row(start, end, none, np.array(name, np.int32), np.array(cls, np.uint8)),)


def _bands(seen: RankEvents, names: _Names) -> Iterator[Lane]:
    """Windows of steps on the GPU, and of phases by when their compute runs."""
    steps = seen.found.steps
    labels = [names(f"step {k}") for k in steps.number.tolist()]
    start, end = steps.start_ns.copy(), np.maximum(steps.end_ns, steps.start_ns)
    yield Lane("steps", "band", _band(start, end, labels, [CODE["step"]] * len(start)))
    on = np.flatnonzero((seen.phases.phase >= 0) & is_compute(seen.work.op))
    phase, step = seen.phases.phase[on].astype(np.int64), seen.found.of_work[on].astype(np.int64)
    key = step * len(Phase) + phase
    first = np.flatnonzero(np.concatenate((np.ones(min(len(on), 1), bool), key[1:] != key[:-1])))
    last = np.append(first[1:], len(on))[: len(first)] - 1
    begin = seen.work.start_ns[on[first]]
    stop = np.maximum.accumulate(seen.work.end_ns[on])[last] if len(on) else begin
    stop = np.minimum(stop, np.append(begin[1:], stop[-1:])) if len(on) else stop
    words = [names(word) for word in PHASES]
    kinds = phase[first].tolist()
    row = _band(begin, stop, [words[k] for k in kinds], OF_PHASE[kinds].tolist())
    yield Lane("phases", "band", row)


def _whole(seen: RankEvents, names: _Names) -> Iterator[Lane]:
    """What the GPU as a whole does; blank is idle."""
    work = seen.work

    def covered(on: np.ndarray) -> Spans:
        return union(work.start_ns[on], work.end_ns[on])

    compute = covered(is_compute(work.op))
    kernels = covered(is_compute(work.op) | is_comm(work.op))
    everything = covered(np.ones(len(work), bool))
    parts = (
        ("compute", "compute", compute),
        ("exposed communication", "exposed communication", subtract(kernels, compute)),
        ("exposed copies", "copy", subtract(everything, kernels)),
    )
    start = np.concatenate([spans[0] for _, _, spans in parts])
    order = np.argsort(start, kind="stable")
    end = np.concatenate([spans[1] for _, _, spans in parts])
    size = [len(spans[0]) for _, _, spans in parts]
    name = np.repeat([names(text) for text, _, _ in parts], size)[order]
    cls = np.repeat([CODE[c] for _, c, _ in parts], size)[order]
    exposed = parts[1][2]
    if not len(start):
        return
    none = np.full(len(start), -1, np.int32)
    row = Row(start[order], end[order], none, name.astype(np.int32), cls.astype(np.uint8), exposed)
    yield Lane("GPU", "whole", (row,))


# -------------------------------------------------------------------------------- GPU and host
def _streams(seen: RankEvents) -> list[Lane]:
    """One lane a GPU stream: those that compute most first, then the busiest."""
    work = seen.work
    compute = union(work.start_ns[is_compute(work.op)], work.end_ns[is_compute(work.op)])
    found = []
    several = len(np.unique(work.device)) > 1
    for rows in _groups(_stream_key(work.device, work.stream)):
        length = (work.end_ns - work.start_ns)[rows]
        spent = np.bincount(work.op[rows], weights=length, minlength=len(Op))
        computes = float(spent[is_compute(np.arange(len(Op), dtype=np.int8))].sum())
        where = f"GPU {work.device[rows[0]]} " if several else ""
        label = f"{where}stream {work.stream[rows[0]]} · {_what_runs(spent)}"
        lines = _rows(seen, work.row[rows], packed, OF_OP[work.op[rows]])
        comm = is_comm(work.op)
        marked = tuple(_with_exposed(seen, row, comm, compute) for row in lines)
        found.append((-computes, -float(spent.sum()), label, marked))
    return [Lane(label, "stream", rows) for *_, label, rows in sorted(found, key=lambda f: f[:3])]


def _what_runs(spent: np.ndarray) -> str:
    """What a stream mostly does, in a word or two."""
    codes = np.arange(len(Op), dtype=np.int8)
    most = Op(int(spent.argmax()))
    comm = most.label.replace("_", "-") if is_comm(codes)[most] else "copies"
    if spent[is_compute(codes)].sum() >= spent.sum() / 2:
        return "compute"
    return f"compute, {comm}" if spent[Op.GEMM] + spent[Op.ATTENTION] else comm


def _with_exposed(seen: RankEvents, row: Row, comm: np.ndarray, compute: Spans) -> Row:
    """The row with the parts of its communication that have no compute beside them."""
    at = np.searchsorted(seen.work.row, row.event)
    on = comm[at] & (row.end_ns > row.start_ns)
    spans = (row.start_ns[on], row.end_ns[on])
    exposed = subtract(spans, compute) if on.any() else empty()
    return Row(row.start_ns, row.end_ns, row.event, row.name, row.cls, exposed)


def _gpu_ranges(seen: RankEvents) -> list[Lane]:
    """Ranges and synchronisation that were recorded on GPU streams."""
    s = seen.trace.slices
    on = np.flatnonzero((s.kind == Kind.GPU_ANNOTATION) | (s.kind == Kind.SYNC))
    groups = _groups(_stream_key(s.device[on], s.stream[on]))
    return [
        Lane(f"stream {s.stream[on[g[0]]]} · ranges", "range", _rows(seen, on[g], nesting))
        for g in groups
    ]


def _threads(seen: RankEvents) -> Iterator[Lane]:
    """One lane a host thread, those with most events first."""
    s, tracks = seen.trace.slices, seen.trace.tracks
    gpu = np.array([*GPU_WORK, Kind.GPU_ANNOTATION, Kind.SYNC], np.int8)
    on = np.flatnonzero(~np.isin(s.kind, gpu))
    groups = sorted(_groups(s.track[on].astype(np.int64)), key=lambda g: -len(g))
    for g in groups:
        track = int(s.track[on[g[0]]])
        name = clean(tracks.name[track] or f"thread {tracks.tid[track]}")
        yield Lane(name, "thread", _rows(seen, on[g], nesting))


def _stream_key(device: Int32s, stream: Int32s) -> Int64s:
    """One number a GPU stream."""
    return device.astype(np.int64) << 32 | (stream.astype(np.int64) & 0xFFFFFFFF)


def _groups(key: Int64s) -> list[Int64s]:
    """Indices of equal keys, each ascending."""
    if not len(key):
        return []
    order = np.argsort(key, kind="stable")
    cut = np.flatnonzero(np.diff(key[order])) + 1
    return np.split(order, cut)


def _rows(
    seen: RankEvents,
    events: Int64s,
    layout: Callable[[Int64s, Int64s], Int32s],
    cls: np.ndarray | None = None,
) -> tuple[Row, ...]:
    """Events of one lane, ascending, on as many rows as they need."""
    s = seen.trace.slices
    start, end = s.ts_ns[events], s.end_ns[events]
    line = layout(start, end)
    cls = OF_KIND[s.kind[events]] if cls is None else cls
    rows = []
    for mine in _groups(line.astype(np.int64)):
        at = events[mine]
        rows.append(Row(start[mine], end[mine], at.astype(np.int32), s.name[at].copy(), cls[mine]))
    return tuple(rows)
