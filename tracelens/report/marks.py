"""What the timeline of one step shows: lanes of marks, few enough for a browser, none dropped.

Short events that fall on the same two pixels become one mark, which says how many they are, of
which kinds, and how much of its length they fill.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import numpy as np

from tracelens.classify import Op, is_comm, is_compute
from tracelens.intervals import Spans, intersect, subtract, union
from tracelens.phases import Phase
from tracelens.report.text import clean

if TYPE_CHECKING:
    from tracelens.analysis import RankEvents
    from tracelens.trace import Bools, Int64s

#: At most this many marks in all; resolution halves until they fit.
MAX_MARKS = 4_000
#: Width in pixels of the drawing that marks are merged for.
PIXELS = 1_400
#: Streams beyond the busiest of them share one lane.
MAX_STREAMS = 10

GPU_LANE = "GPU as a whole"
HOST_LANE = "host launches"
EXPOSED = "exposed communication"

#: GPU work as timelines name it; communication and copies are named by what they do there.
KINDS = {
    Op.GEMM: "gemm",
    Op.ATTENTION: "attention",
    Op.OPTIMIZER: "optimizer",
    Op.ELEMENTWISE: "elementwise",
    Op.COMPUTE_OTHER: "other compute",
    Op.MEMSET: "memset",
}
_PHASE_WORDS = {
    Phase.FORWARD: "forward",
    Phase.BACKWARD: "backward",
    Phase.STEP: "optimizer step",
}


@dataclass(frozen=True, slots=True)
class Mark:
    """One rectangle on a lane: a piece of an event, or several short ones.

    `kind` is what most of its busy time is; `parts` has the busy ns of every kind in it, most
    first; `name` is the longest event's.
    """

    lane: str
    kind: str
    start_ns: int
    end_ns: int
    name: str
    count: int
    parts: tuple[tuple[str, int], ...]

    @property
    def busy_ns(self) -> int:
        """Length of its events together."""
        return sum(ns for _, ns in self.parts)


@dataclass(frozen=True, slots=True)
class Timeline:
    """The marks of one step.

    `window_ns` is the step's window on the GPU; `resolution_ns` is what two pixels stand for;
    `lanes` from top to bottom.
    """

    lanes: tuple[str, ...]
    marks: tuple[Mark, ...]
    window_ns: tuple[int, int]
    resolution_ns: int
    step: int


class Piece(NamedTuple):
    """A part of an event: ns, ns, kind and name."""

    start: int
    end: int
    kind: str
    name: str


Lanes: TypeAlias = dict[str, list[Piece]]


def step_timeline(seen: RankEvents, step_row: int, *, max_marks: int = MAX_MARKS) -> Timeline:
    """The marks of one step of one rank.

    Parameters
    ----------
    seen : RankEvents
    step_row : int
        Row of ``seen.found.steps``.
    max_marks : int

    Returns
    -------
    Timeline
        All GPU work that overlaps the step's window, cut to it, and the host's phases.
    """
    steps = seen.found.steps
    begin, end = int(steps.start_ns[step_row]), int(steps.end_ns[step_row])
    rows = np.flatnonzero((seen.work.end_ns > begin) & (seen.work.start_ns < end))
    lanes: Lanes = {GPU_LANE: _whole_gpu(seen, rows, begin, end)}
    lanes |= _on_streams(seen, rows, begin, end)
    if host := _host(seen, step_row):
        lanes[HOST_LANE] = host
    resolution = max(1, 2 * (end - begin) // PIXELS)
    marks = _all_marks(lanes, resolution)
    while len(marks) > max_marks:
        resolution *= 2
        marks = _all_marks(lanes, resolution)
    number = int(steps.number[step_row])
    return Timeline(tuple(lanes), tuple(marks), (begin, end), resolution, number)


# ---------------------------------------------------------------------------------------- lanes
def _stream_labels(seen: RankEvents, rows: Int64s) -> tuple[list[str], Int64s]:
    """Lane labels, those with compute first, then busiest first, and the lane of every row."""
    work = seen.work
    key = np.stack([work.device[rows], work.stream[rows]], axis=1)
    streams, inverse = np.unique(key, axis=0, return_inverse=True)
    inverse = inverse.reshape(-1)
    length = (work.end_ns - work.start_ns)[rows]
    busy = np.bincount(inverse, weights=length, minlength=len(streams))
    compute = np.bincount(inverse, weights=length * is_compute(work.op[rows]))
    order = np.lexsort((-busy, compute == 0))
    lane = np.empty(len(streams), np.int64)
    lane[order] = np.minimum(np.arange(len(streams)), MAX_STREAMS - 1)
    several = len(np.unique(streams[:, 0])) > 1
    labels = []
    for i in order.tolist():
        device, stream = streams[i].tolist()
        what = _what_runs(work.op[rows[inverse == i]], length[inverse == i])
        labels.append(f"{f'GPU {device} ' if several else ''}stream {stream} ({what})")
    if len(labels) > MAX_STREAMS:
        labels[MAX_STREAMS - 1 :] = [f"{len(labels) - MAX_STREAMS + 1} other streams"]
    return labels, lane[inverse]


def _what_runs(op: Int64s, length: Int64s) -> str:
    """What a stream mostly does, in a word."""
    spent = np.bincount(op, weights=length, minlength=len(Op))
    codes = np.arange(len(Op), dtype=np.int8)
    most = Op(int(spent.argmax()))
    word = most.label if is_comm(codes)[most] else "copies"
    if spent[is_compute(codes)].sum() >= spent.sum() / 2:
        return "compute"
    return f"compute, {word}" if spent[Op.GEMM] + spent[Op.ATTENTION] else word


# --------------------------------------------------------------------------------------- pieces
def _whole_gpu(seen: RankEvents, rows: Int64s, begin: int, end: int) -> list[Piece]:
    """The breakdown of the step laid along time; what stays blank is idle."""
    op = seen.work.op[rows]
    start = np.clip(seen.work.start_ns[rows], begin, end)
    stop = np.clip(seen.work.end_ns[rows], begin, end)

    def covered(on: Bools) -> Spans:
        return union(start[on], stop[on])

    compute, kernels = covered(is_compute(op)), covered(is_compute(op) | is_comm(op))
    parts = (
        ("compute", "compute", compute),
        (EXPOSED, EXPOSED, subtract(kernels, compute)),
        ("copy", "exposed copies", subtract(covered(np.ones(len(rows), bool)), kernels)),
    )
    return sorted(
        Piece(a, b, kind, name)
        for kind, name, spans in parts
        for a, b in zip(spans[0].tolist(), spans[1].tolist(), strict=True)
    )


def _on_streams(seen: RankEvents, rows: Int64s, begin: int, end: int) -> Lanes:
    """All GPU work on its stream; communication is cut into hidden and exposed."""
    work = seen.work
    labels, lane = _stream_labels(seen, rows)
    lanes: Lanes = {label: [] for label in labels}
    on = rows[is_compute(work.op[rows])]
    compute = union(work.start_ns[on], work.end_ns[on])
    code = seen.trace.slices.name[work.row[rows]]
    for i, row in enumerate(rows.tolist()):
        start, stop = max(int(work.start_ns[row]), begin), min(int(work.end_ns[row]), end)
        name = seen.trace.strings[code[i]]
        for kind, a, b in _cut(Op(int(work.op[row])), start, stop, compute):
            lanes[labels[lane[i]]].append(Piece(a, b, kind, name))
    return {label: sorted(pieces) for label, pieces in lanes.items()}


def _cut(op: Op, start: int, stop: int, compute: Spans) -> list[tuple[str, int, int]]:
    """The kind of a row; communication is split where compute runs beside it."""
    if not is_comm(np.array([op]))[0]:
        return [(KINDS.get(op, "copy"), start, stop)]
    whole = np.array([start], np.int64), np.array([stop], np.int64)
    parts = {
        "overlapped communication": intersect(whole, compute),
        EXPOSED: subtract(whole, compute),
    }
    return [
        (kind, a, b)
        for kind, (starts, stops) in parts.items()
        for a, b in zip(starts.tolist(), stops.tolist(), strict=True)
    ]


def _host(seen: RankEvents, step_row: int) -> list[Piece]:
    """What the host launches when: runs of launches of one phase and micro-step."""
    work, phases = seen.work, seen.phases
    mine = (seen.found.of_work == step_row) & (work.launch_ns >= 0) & (phases.phase >= 0)
    rows = np.flatnonzero(mine)
    rows = rows[np.argsort(work.launch_ns[rows], kind="stable")]
    if not len(rows):
        return []
    phase, micro = phases.phase[rows], phases.micro[rows]
    head = np.flatnonzero(np.append(True, (phase[1:] != phase[:-1]) | (micro[1:] != micro[:-1])))
    last = np.append(head[1:], len(rows)) - 1
    many = int(micro.max()) > 0
    pieces = []
    for a, b in zip(head.tolist(), last.tolist(), strict=True):
        kind = _PHASE_WORDS[Phase(int(phase[a]))]
        name = f"{kind}, micro-step {micro[a] + 1}" if many and micro[a] >= 0 else kind
        pieces.append(Piece(int(work.launch_ns[rows[a]]), int(work.launch_ns[rows[b]]), kind, name))
    return pieces


# -------------------------------------------------------------------------------------- merging
def _all_marks(lanes: Lanes, resolution: int) -> list[Mark]:
    return [m for lane, pieces in lanes.items() for m in _marks(lane, pieces, resolution)]


def _marks(lane: str, pieces: list[Piece], resolution: int) -> list[Mark]:
    """Long pieces as they are; short ones that start on the same two pixels as one mark.

    Exposed communication is never merged into anything else.
    """
    groups: dict[tuple[int, bool], list[Piece]] = {}
    marks = []
    for p in pieces:
        if p.end - p.start >= resolution:
            marks.append(_mark(lane, [p]))
        else:
            groups.setdefault((p.start // resolution, p.kind == EXPOSED), []).append(p)
    return marks + [_mark(lane, group) for group in groups.values()]


def _mark(lane: str, pieces: list[Piece]) -> Mark:
    busy: dict[str, int] = {}
    for p in pieces:
        busy[p.kind] = busy.get(p.kind, 0) + p.end - p.start
    parts = tuple(sorted(busy.items(), key=lambda item: -item[1]))
    longest = max(pieces, key=lambda p: p.end - p.start)
    return Mark(
        lane=lane,
        kind=parts[0][0],
        start_ns=pieces[0].start,
        end_ns=max(p.end for p in pieces),
        name=clean(longest.name),
        count=len(pieces),
        parts=parts,
    )
