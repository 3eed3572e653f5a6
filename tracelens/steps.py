"""Where one training step ends and the next begins, on the host and on the GPU.

A piece of GPU work belongs to the step whose host range launched it. A step's *window* on the GPU
runs from its first GPU work to the next step's first GPU work, so windows tile the timeline and a
host that runs ahead leaks nothing into the neighbour.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from tracelens.classify import Op, classify_call, is_comm
from tracelens.links import OPTIMIZER_STEP, GpuWork, TrackSpans, comm_spans
from tracelens.operands import first_nelems
from tracelens.ranges import engine_steps, user_steps
from tracelens.thresholds import STEP_GAP, STEP_WORK_TOLERANCE, STUB_SHARE, WARM_UP_RATIO
from tracelens.trace import Bools, Int32s, Int64s, Kind, Note, Trace, _freeze

MARKER = "ProfilerStep#"
EVALUATE = "autograd::engine::evaluate_function: "
ACCUMULATE = "torch::autograd::AccumulateGrad"
DATA_LOADER = "enumerate(DataLoader)#"


@dataclass(frozen=True, slots=True)
class Steps:
    """One row a step, ascending in time.

    Attributes
    ----------
    number : int64 (k,)
        The profiler's own number, else 0, 1, 2 ...
    host_start_ns, host_end_ns : int64 (k,)
        The range whose launches belong to the step.
    start_ns, end_ns : int64 (k,)
        The window on the GPU.
    complete : bool (k,)
        False for a step that the recording cut, or that has no GPU work.
    """

    number: Int64s
    host_start_ns: Int64s
    host_end_ns: Int64s
    start_ns: Int64s
    end_ns: Int64s
    complete: Bools

    def __post_init__(self) -> None:
        _freeze(self)

    def __len__(self) -> int:
        return len(self.number)

    @property
    def counted(self) -> Bools:
        """The steps that means are taken over: the whole ones, or all where none is whole."""
        return self.complete if self.complete.any() else np.ones(len(self), bool)

    def at_host(self, at_ns: Int64s) -> Int64s:
        """Row of the step in whose range on the host each instant lies; -1 outside all."""
        step = np.searchsorted(self.host_start_ns, at_ns, "right") - 1
        inside = (step >= 0) & (at_ns < self.host_end_ns[np.maximum(step, 0)])
        return np.where(inside, step, -1)


@dataclass(frozen=True, slots=True)
class StepMap:
    """Steps, the step of every GPU work row (int32 (n,), -1 none) and how they were found."""

    steps: Steps
    of_work: Int32s
    source: str  #: one of `SOURCES`
    notes: tuple[Note, ...] = ()  #: what was left out


def find_steps(trace: Trace, work: GpuWork) -> StepMap:
    """Find the steps of a trace from the best source it has.

    Profiler markers; else the user's own ranges; else the optimizer's ranges and the forward ops
    that follow them; else the ranges of DeepSpeed's engine; else, on a trace without any, the
    optimizer's kernels; else the whole trace is one step.
    """
    makers: tuple[Callable[[], Edges | None], ...] = (
        lambda: _from_markers(trace),
        lambda: _from_user_ranges(trace, work),
        lambda: _from_optimizer_ranges(trace),
        lambda: _from_engine_ranges(trace, work),
        lambda: _from_optimizer_kernels(work),
        lambda: _whole(trace, work),
    )
    source, edges = next((s, e) for s, m in zip(SOURCES, makers, strict=True) if (e := m()))
    number, start, end = edges
    of_work = _assign(work, start, end) if source != WHOLE else np.zeros(len(work), np.int32)
    complete = _complete(trace, source, np.bincount(of_work[of_work >= 0], minlength=len(start)))
    window_start, window_end = _windows(work, of_work, (start, end), source in MARKED)
    steps = Steps(number, start, end, window_start, window_end, complete)
    found = _without_empty_tail(StepMap(steps, of_work, source))
    return _without_warm_up(trace, found)


Edges = tuple[Int64s, Int64s, Int64s]

#: How steps may be found, best first.
WHOLE = "whole trace"
SOURCES = (
    "ProfilerStep", "NVTX ranges", "optimizer ranges", "forward ranges", "optimizer kernels",
    WHOLE,
)  # fmt: skip
MARKED = ("ProfilerStep", "NVTX ranges")


def _from_markers(trace: Trace) -> Edges | None:
    s = trace.slices
    rows = trace.ranges(trace.names_starting(MARKER))
    if not len(rows):
        return None
    text = (trace.strings[i][len(MARKER) :] for i in s.name[rows])
    number = [int(m.group()) if (m := re.match(r"\d{1,18}", t)) else -1 for t in text]
    return np.array(number, np.int64), s.ts_ns[rows], s.end_ns[rows]


def forward_marks(trace: Trace) -> Int64s:
    """Start times of the host ops that built the autograd graph, ascending, ns.

    An op shows the autograd sequence number that the next node will get; only the last op to show
    a number created that node, and only a number that a backward node shows again was used. Ops
    inside a backward node (recomputed activations) do not count, nor do other threads than the one
    with most such ops (loaders).
    """
    s = trace.slices
    evaluate = trace.rows(Kind.CPU_OP, trace.names_starting(EVALUATE))
    rows = np.flatnonzero((s.kind == Kind.CPU_OP) & (s.sequence >= 0))
    if len(evaluate):
        rows = rows[~TrackSpans(s, evaluate).contain(s.track[rows], s.ts_ns[rows])]
        rows = rows[np.isin(s.sequence[rows], s.sequence[evaluate])]
    if not len(rows):
        return np.empty(0, np.int64)
    rows = rows[s.track[rows] == np.bincount(s.track[rows]).argmax()]
    _, last = np.unique(s.sequence[rows][::-1], return_index=True)
    return np.sort(s.ts_ns[rows[::-1][last]])


def _from_optimizer_ranges(trace: Trace) -> Edges | None:
    """Steps end after a group of optimizer ranges that a forward pass follows.

    What comes between still belongs to the step, up to the loader or the first forward op; but
    where reduce-scatters show that parameters are sharded, an all-gather after the optimizer is
    mostly the next forward's fetching, and the step ends before it.
    """
    s = trace.slices
    ranges = trace.ranges(trace.names_starting(OPTIMIZER_STEP))
    if not len(ranges):
        return None
    marks = forward_marks(trace)
    # ranges with no forward op between them (one a parameter group) are one optimizer step
    ahead = np.searchsorted(marks, s.end_ns[ranges], "left")
    last = np.append(ahead[1:] != ahead[:-1], True)
    ends, following = s.end_ns[ranges[last]], ahead[last]
    ends, following = ends[following < len(marks)], following[following < len(marks)]
    loader = s.ts_ns[trace.ranges(trace.names_starting(DATA_LOADER))]
    edge = _first_between(loader, ends, marks[following])
    if len(host_calls(trace, Op.REDUCE_SCATTER)):
        edge = _first_between(s.ts_ns[host_calls(trace, Op.ALL_GATHER)], ends, edge)
    first, final = int(s.ts_ns[0]), int(s.end_ns.max()) + 1
    edges = np.unique(np.concatenate(([first], edge, [final])))
    return np.arange(len(edges) - 1, dtype=np.int64), edges[:-1], edges[1:]


def host_calls(trace: Trace, *ops: Op, min_nelems: int = -1) -> Int64s:
    """Rows of the host's records of some kinds of collectives, ascending.

    The records with arguments, or, before torch 2.3, the ranges around the launches with the
    sizes that record_shapes gives them.
    """
    s, c = trace.slices, trace.collectives
    rows, code, nelems = c.row, c.call, c.in_nelems
    if not len(c):
        rows = comm_spans(trace)
        code, nelems = s.name[rows], first_nelems(trace, rows)
    kind = {i: classify_call(trace.strings[i]) for i in np.unique(code).tolist() if i >= 0}
    wanted = np.array(sorted(i for i, op in kind.items() if op in ops), np.int32)
    rows = rows[np.isin(code, wanted) & (nelems >= min_nelems)]
    return np.asarray(rows[s.kind[rows] <= Kind.ANNOTATION], np.int64)


def _first_between(at: Int64s, after: Int64s, before: Int64s) -> Int64s:
    """The first of `at` (ascending) in each ``[after, before)``; `before` where there is none."""
    if not len(at):
        return before
    found = at[np.minimum(np.searchsorted(at, after, "left"), len(at) - 1)]
    return np.asarray(np.where((found >= after) & (found < before), found, before), np.int64)


def _from_user_ranges(trace: Trace, work: GpuWork) -> Edges | None:
    if trace.info.source != "nsys":
        return None
    found = user_steps(trace, work)
    return (found.number, found.start_ns, found.end_ns) if found else None


def _from_engine_ranges(trace: Trace, work: GpuWork) -> Edges | None:
    found = engine_steps(trace, work)
    return (np.arange(len(found[0]), dtype=np.int64), *found) if found else None


def _from_optimizer_kernels(work: GpuWork) -> Edges | None:
    """Steps from GPU work alone: model work resumes after a run of optimizer kernels.

    Communication right after the optimizer (ZeRO-1 and 2 gather the parameters there) belongs to
    the step that ends; where reduce-scatters are about (ZeRO-3, FSDP) an all-gather after the
    optimizer is mostly the next forward's, and the edge is put before it.
    """
    at = np.where(work.launch_ns >= 0, work.launch_ns, work.start_ns)
    order = np.argsort(at, kind="stable")
    op, at = work.op[order], at[order]
    optimizer = np.flatnonzero(op == Op.OPTIMIZER)
    model = np.flatnonzero((op == Op.GEMM) | (op == Op.ATTENTION))
    if not len(optimizer) or not len(model):
        return None
    following = np.searchsorted(model, optimizer)
    last = np.append(following[1:] != following[:-1], True)
    tails = optimizer[last]
    stops = np.append(model, len(op))[following[last]]
    sharded = bool((op == Op.REDUCE_SCATTER).any())
    edges = []
    for tail, stop in zip(tails.tolist(), stops.tolist(), strict=True):
        if stop == len(op):
            continue
        comm = np.flatnonzero(is_comm(op[tail + 1 : stop]))
        edge = tail + 1 if not len(comm) else tail + 1 + int(comm[0] if sharded else comm[-1] + 1)
        edges.append(int(at[min(edge, stop)]))
    all_edges = np.unique(np.array([int(at[0]), *edges, int(work.end_ns.max()) + 1], np.int64))
    return np.arange(len(all_edges) - 1, dtype=np.int64), all_edges[:-1], all_edges[1:]


def _whole(trace: Trace, work: GpuWork) -> Edges:
    s = trace.slices
    if len(work):
        start, end = int(work.start_ns[0]), int(work.end_ns.max())
        known = work.launch_ns[work.launch_ns >= 0]
        start = min(start, int(known.min())) if len(known) else start
    elif len(s):
        start, end = int(s.ts_ns[0]), int(s.end_ns.max())
    else:
        start = end = 0
    one = np.zeros(1, np.int64)
    return one, one + start, one + end + 1


def _assign(work: GpuWork, start: Int64s, end: Int64s) -> Int32s:
    """Step of each GPU work row by its launch; by its own start where nothing has a launch."""
    known = work.launch_ns >= 0
    at = work.launch_ns if known.any() else work.start_ns
    step = np.searchsorted(start, at, "right") - 1
    inside = (step >= 0) & (at < end[np.maximum(step, 0)])
    if known.any():
        inside &= known
    return np.where(inside, step, -1).astype(np.int32)


def _windows(
    work: GpuWork, of_work: Int32s, host: tuple[Int64s, Int64s], marked: bool
) -> tuple[Int64s, Int64s]:
    """GPU window of each step; the host range where a step has no GPU work.

    No step follows the last one. Where its end is marked, its successor is taken to reach the GPU
    as late after that as it did itself after its start, or what precedes the first GPU work would
    be missing once; elsewhere it ends with its GPU work.
    """
    start, end = host
    k = len(start)
    first = np.full(k, np.iinfo(np.int64).max)
    last = np.full(k, -1, np.int64)
    inside = of_work >= 0
    np.minimum.at(first, of_work[inside], work.start_ns[inside])
    np.maximum.at(last, of_work[inside], work.end_ns[inside])
    has = last >= 0
    window_start = np.where(has, first, start)
    follow = end + np.maximum(window_start - start, 0)
    window_end = np.where(has & ~np.bool_(marked), last, np.maximum(last, follow))
    adjacent = np.zeros(k, bool)
    if k > 1:
        adjacent[:-1] = (start[1:] - end[:-1]) <= STEP_GAP * (end[:-1] - start[:-1])
        adjacent[:-1] &= has[1:] & has[:-1]
    window_end[:-1] = np.where(adjacent[:-1], window_start[1:], window_end[:-1])
    return window_start, np.maximum(window_end, window_start)


def _complete(trace: Trace, source: str, count: Int64s) -> Bools:
    """Which steps are whole: those with GPU work, and, without markers, as much as the others."""
    complete = np.asarray(count > 0)
    if source in MARKED and not trace.info.truncated:
        # a mark that the profiler closes with is a stub
        return np.asarray(
            complete
            & (count >= STUB_SHARE * np.median(count[complete] if complete.any() else count))
        )
    if source == WHOLE or not complete.any():
        return complete
    typical = float(np.median(count[1:-1])) if len(count) > 2 else float(count.max())
    return np.asarray(complete & (np.abs(count - typical) <= STEP_WORK_TOLERANCE * typical))


def _without_empty_tail(found: StepMap) -> StepMap:
    """Drop a last segment without GPU work: what follows the last step's end is not a step."""
    s = found.steps
    if found.source in MARKED or len(s) < 2 or (found.of_work == len(s) - 1).any():
        return found
    cut = {f: getattr(s, f)[:-1].copy() for f in s.__dataclass_fields__}
    return StepMap(Steps(**cut), found.of_work, found.source)


def _without_warm_up(trace: Trace, found: StepMap) -> StepMap:
    """Mark the first steps of a whole process as partial while they are longer than what follows.

    A profiler with a schedule starts after the warm-up; a recording of a whole process holds its
    initialisation and first steps, too.
    """
    s, n = found.steps, len(found.steps)
    if trace.info.source != "nsys":
        return found
    outside = int((found.of_work < 0).sum())
    notes: list[Note] = []
    if found.source in MARKED and outside:
        text = (
            f"Steps are the program's NVTX ranges; {outside} of {len(found.of_work)} pieces of GPU "
            "work were launched outside of them (initialisation, warm-up) and are left out."
        )
        notes.append(Note("outside_steps", outside, text))
    if found.source not in MARKED and n > 3:
        wall = s.end_ns - s.start_ns
        later = s.complete & (np.arange(n) >= n // 2)
        usual = float(np.median(wall[later] if later.any() else wall))
        steady = (wall <= WARM_UP_RATIO * usual) & s.complete
        first = int(steady.argmax()) if steady.any() else 0
        if first:
            complete = s.complete.copy()
            complete[:first] = False
            found = replace(found, steps=replace(s, complete=complete))
            text = (
                f"The first {first} of {n} steps (told by {found.source}) are initialisation and "
                "warm-up: left out of means."
            )
            notes.append(Note("warm_up", first, text))
    return replace(found, notes=tuple(notes))
