"""What the host did while the GPU had nothing to do: idle time by cause, launches, pauses.

Idle time before the next piece of GPU work is split at the call that launched it: until then the
host is the cause, after it the device (launch latency, an event, another process). The host's part
is attributed to what its threads were doing: loading data, allocating, updating on the CPU,
nothing at all (a pause), or just not being fast enough.
"""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass

import numpy as np

from tracelens.classify import Op, is_comm, is_compute
from tracelens.intervals import Spans, clip_lengths, contains, intersect, subtract, union
from tracelens.links import OPTIMIZER_STEP, GpuWork
from tracelens.steps import ACCUMULATE, DATA_LOADER, EVALUATE, StepMap, Steps
from tracelens.thresholds import HOOK_BASELINE, PAUSE_NS, STALL_NS
from tracelens.trace import Bools, Int64s, Kind, Trace, _freeze


class Cause(enum.IntEnum):
    """Why the GPU was idle."""

    CPU_OPTIMIZER = 0  #: the optimizer runs on the host: from the backward pass to the step's end
    LOADER = 1  #: the data loader's range
    ALLOCATOR = 2  #: cudaMalloc, cudaFree and the like
    PAUSE = 3  #: no thread of the step shows any event
    SYNC = 4  #: the host was waiting for the GPU when it ran dry, and launches again only then
    LAUNCH = 5  #: the host has not launched the next work yet
    DEVICE = 6  #: launched, and not started


_ALLOCATOR = re.compile(r"^(cuda|hip)(Malloc|Free|HostAlloc|HostRegister)|^cuMem(Create|Map|Unmap)")
_SYNC = re.compile(r"^(cuda|hip)\w*Synchronize$|^(cuda|hip)Memcpy$")
_CPU_OPTIMIZER = re.compile(re.escape(OPTIMIZER_STEP) + r"DeepSpeedCPU")


@dataclass(frozen=True, slots=True)
class Pause:
    """A stretch without any host event: step row, start and length in ns, events around it."""

    step: int
    start_ns: int
    dur_ns: int
    after: str
    before: str


@dataclass(frozen=True, slots=True)
class Host:
    """The host's side of one rank's steps.

    Attributes
    ----------
    idle_ns : int64 (k, number of `Cause`)
        Idle GPU time of each step by cause; rows add up to the breakdown's idle.
    save_ns, save_bytes : int64 (k,)
        Exposed copies to pageable host memory, and their bytes.
    input_ns, input_bytes : int64 (k,)
        The same from pageable host memory.
    host_copy_ns : int64 (k,)
        Exposed copies between host and GPU in either direction, pinned memory or not.
    syncs : mapping of synchronising call to count per step, in forward and backward
    allocator_calls : int64 (k,)
        Allocating and freeing runtime calls of each step.
    stalls, stall_ns : int64 (k,)
        Launched work that an idle device started late by more than `STALL_NS`: how often, and
        how much later in all.
    pauses : tuple of Pause
    launch_delay_ns, kernel_ns, call_ns : float
        Medians over compute kernels: end of launch to start, length, length of the launch call.
    n_kernels : float
        Compute kernels a step.
    hook_reductions : int
        Gradient hooks that launch a reduction, in all steps.
    hook_extra_ns : float
        How much longer such a hook takes on its thread than one without, median.
    kernel_sums : mapping of kernel name to (count, ns) per whole step
    """

    idle_ns: Int64s
    save_ns: Int64s
    save_bytes: Int64s
    input_ns: Int64s
    input_bytes: Int64s
    host_copy_ns: Int64s
    syncs: dict[str, float]
    allocator_calls: Int64s
    stalls: Int64s
    stall_ns: Int64s
    pauses: tuple[Pause, ...]
    launch_delay_ns: float
    kernel_ns: float
    call_ns: float
    n_kernels: float
    hook_reductions: int
    hook_extra_ns: float
    kernel_sums: dict[str, tuple[float, float]]

    def __post_init__(self) -> None:
        _freeze(self)


def look_at_host(
    trace: Trace, work: GpuWork, found: StepMap, backward_end_ns: Int64s, whole: Bools
) -> Host:
    """Measure the host's side of a rank.

    Parameters
    ----------
    trace : Trace
    work : GpuWork
    found : StepMap
    backward_end_ns : int64 (k,)
        Host time at which the last backward pass of each step ends; -1 without one.
    whole : bool (k,)
        Steps that medians are taken over.
    """
    steps = found.steps
    host, device, late = _idle(work, steps)
    gaps, pauses = _pauses(trace, work, found)
    syncs = _sync_rows(trace, work, steps, backward_end_ns)
    update = _cpu_update(trace, steps, backward_end_ns)
    causes = _causes(trace, host, (update, gaps, _after_sync(trace, work, syncs)))
    parts = [*causes, device]
    idle = np.stack([clip_lengths(p, steps.start_ns, steps.end_ns) for p in parts], axis=1)
    _tail(idle, causes, work, steps)
    save, size = _pageable(trace, work, found, Op.COPY_D2H)
    read, read_size = _pageable(trace, work, found, Op.COPY_H2D)
    hooks, extra = _hooks(trace)
    delay, kernel, call, count = _launches(trace, work, found, whole)
    stalls, stall_ns = np.zeros(len(steps), np.int64), np.zeros(len(steps), np.int64)
    at = np.searchsorted(steps.start_ns, late[0], "right") - 1
    np.add.at(stalls, at[at >= 0], 1)
    np.add.at(stall_ns, at[at >= 0], (late[1] - late[0])[at >= 0])
    return Host(
        idle_ns=idle,
        save_ns=save,
        save_bytes=size,
        input_ns=read,
        input_bytes=read_size,
        host_copy_ns=_exposed(work, np.isin(work.op, (Op.COPY_D2H, Op.COPY_H2D)), steps),
        syncs=_sync_counts(trace, syncs, len(steps)),
        allocator_calls=_count(trace, found, _ALLOCATOR),
        stalls=stalls,
        stall_ns=stall_ns,
        pauses=pauses,
        launch_delay_ns=delay,
        kernel_ns=kernel,
        call_ns=call,
        n_kernels=count,
        hook_reductions=hooks,
        hook_extra_ns=extra,
        kernel_sums=_kernel_sums(trace, work, found, whole),
    )


def _idle(work: GpuWork, steps: Steps) -> tuple[Spans, Spans, Spans]:
    """Idle time up to the launch of the next work, after it, and the stalled part of the latter.

    What follows the last work, up to the end of the last window, is the host's.
    """
    start, end = union(work.start_ns, work.end_ns)
    if not len(start):
        nothing = union(start, end)
        return union(steps.start_ns, steps.end_ns), nothing, nothing
    # (a step without work of its own may begin before all work)
    first = min(int(start[0]), int(steps.start_ns.min(initial=int(start[0]))))
    last = max(int(end[-1]), int(steps.end_ns.max(initial=0)))
    gap_start, gap_end = np.insert(end, 0, first), np.append(start, last)
    nxt = np.minimum(np.searchsorted(work.start_ns, gap_end, "left"), len(work) - 1)
    launch = np.where(gap_end == work.start_ns[nxt], work.launch_ns[nxt], -1)
    turn = np.clip(np.where(launch >= 0, launch, gap_end), gap_start, gap_end)
    stalled = (launch >= 0) & (gap_end - turn > STALL_NS)
    return union(gap_start, turn), union(turn, gap_end), (turn[stalled], gap_end[stalled])


def _tail(idle: Int64s, causes: list[Spans], work: GpuWork, steps: Steps) -> None:
    """Say what the end of the last window stands for: the way into the step that follows.

    That time was not recorded; the same way into the last step was, and its causes are taken.
    """
    if not len(steps) or not len(work):
        return
    begin, first = steps.host_start_ns[-1:], steps.start_ns[-1:]
    end = steps.end_ns[-1:]
    after = np.minimum(np.maximum(work.end_ns.max(), steps.host_end_ns[-1:]), end)
    tail = int(clip_lengths(causes[Cause.LAUNCH], after, end)[0])
    for cause, spans in zip(Cause, causes, strict=False):
        share = min(int(clip_lengths(spans, begin, first)[0]), tail)
        if cause != Cause.LAUNCH and share > 0:
            idle[-1, cause] += share
            idle[-1, Cause.LAUNCH] -= share
            tail -= share


def _cpu_update(trace: Trace, steps: Steps, backward_end_ns: Int64s) -> Spans:
    """From the backward pass to the end of steps whose optimizer runs on the host.

    Around the update itself DeepSpeed moves gradients and parameters parameter by parameter.
    """
    s = trace.slices
    names = np.array([i for i, t in enumerate(trace.strings) if _CPU_OPTIMIZER.match(t)], np.int32)
    rows = trace.rows(Kind.ANNOTATION, names)
    step = np.unique(np.searchsorted(steps.host_start_ns, s.ts_ns[rows], "right") - 1)
    step = step[step >= 0]
    step = step[backward_end_ns[step] >= 0]
    start = np.concatenate((s.ts_ns[rows], backward_end_ns[step]))
    end = np.concatenate((s.end_ns[rows], steps.host_end_ns[step]))
    return union(start, np.maximum(start, end))


def _sync_rows(trace: Trace, work: GpuWork, steps: Steps, backward_end_ns: Int64s) -> Int64s:
    """Synchronising calls in forward and backward: in the step DeepSpeed itself needs some."""
    s = trace.slices
    names = np.array([i for i, t in enumerate(trace.strings) if _SYNC.search(t)], np.int32)
    rows = trace.rows(Kind.RUNTIME, names)
    rows = rows[_active(trace, work)[s.track[rows]]]
    step = np.searchsorted(steps.host_start_ns, s.ts_ns[rows], "right") - 1
    return rows[(step >= 0) & (s.ts_ns[rows] < backward_end_ns[np.maximum(step, 0)])]


def _after_sync(trace: Trace, work: GpuWork, rows: Int64s) -> Spans:
    """Idle gaps that began while a thread of the step was blocked in one of these calls."""
    s = trace.slices
    start, end = union(work.start_ns, work.end_ns)
    drained = contains(union(s.ts_ns[rows], s.end_ns[rows]), end[:-1])
    return end[:-1][drained], start[1:][drained]


def _active(trace: Trace, work: GpuWork) -> Bools:
    """Tracks that run ops or launch work; NCCL's watchdog and its like do neither."""
    s = trace.slices
    active = np.zeros(len(trace.tracks), bool)
    active[s.track[work.launch[work.launch >= 0]]] = True
    active[s.track[s.kind == Kind.CPU_OP]] = True
    return active


def _causes(trace: Trace, host: Spans, known: tuple[Spans, Spans, Spans]) -> list[Spans]:
    """The host's idle part by cause, in order of `Cause`, each instant once.

    `known` are the spans of an update on the CPU, of pauses and of gaps after a synchronisation.
    """
    s = trace.slices
    update, gaps, synced = known

    def ranges(kind: Kind, pattern: re.Pattern[str]) -> Spans:
        names = np.array([i for i, t in enumerate(trace.strings) if pattern.match(t)], np.int32)
        rows = trace.rows(kind, names)
        return union(s.ts_ns[rows], s.end_ns[rows])

    rest, parts = host, []
    for reason in (
        update,
        ranges(Kind.ANNOTATION, re.compile(re.escape(DATA_LOADER))),
        ranges(Kind.RUNTIME, _ALLOCATOR),
        gaps,
        synced,
    ):
        parts.append(intersect(rest, reason))
        rest = subtract(rest, reason)
    return [*parts, rest]


def _pauses(trace: Trace, work: GpuWork, found: StepMap) -> tuple[Spans, tuple[Pause, ...]]:
    """Stretches longer than `PAUSE_NS` in which no thread that works for the step has an event.

    Threads that never run an op or launch work (NCCL's watchdog) do not count: their polling says
    nothing about the step.
    """
    s = trace.slices
    events = np.flatnonzero((s.kind == Kind.CPU_OP) | (s.kind == Kind.RUNTIME))
    events = events[_active(trace, work)[s.track[events]]]
    start, end = union(s.ts_ns[events], s.end_ns[events])
    gap_start, gap_end = end[:-1], start[1:]
    long = gap_end - gap_start > PAUSE_NS
    pauses = []
    for a, b in zip(gap_start[long].tolist(), gap_end[long].tolist(), strict=True):
        step = int(np.searchsorted(found.steps.host_start_ns, a, "right")) - 1
        if step < 0:
            continue
        before = events[s.ts_ns[events] < a]
        after = events[s.ts_ns[events] >= b]
        pauses.append(
            Pause(
                step,
                a,
                b - a,
                trace.strings[s.name[before[-1]]] if len(before) else "",
                trace.strings[s.name[after[0]]] if len(after) else "",
            )
        )
    return (gap_start[long], gap_end[long]), tuple(pauses)


def _pageable(trace: Trace, work: GpuWork, found: StepMap, direction: Op) -> tuple[Int64s, Int64s]:
    """Exposed copies from or to pageable memory and their bytes, per step."""
    s, steps = trace.slices, found.steps
    pageable = np.array([i for i, t in enumerate(trace.strings) if "Pageable" in t], np.int32)
    on = np.isin(s.name[work.row], pageable) & (work.op == direction)
    size = np.zeros(len(steps), np.int64)
    inside = on & (found.of_work >= 0)
    np.add.at(size, found.of_work[inside], np.maximum(s.bytes[work.row[inside]], 0))
    return _exposed(work, on, steps), size


def _exposed(work: GpuWork, on: Bools, steps: Steps) -> Int64s:
    """Time in which some rows run and no kernel, per step."""
    kernels = is_compute(work.op) | is_comm(work.op)
    alone = subtract(
        union(work.start_ns[on], work.end_ns[on]),
        union(work.start_ns[kernels], work.end_ns[kernels]),
    )
    return clip_lengths(alone, steps.start_ns, steps.end_ns)


def _sync_counts(trace: Trace, rows: Int64s, n_steps: int) -> dict[str, float]:
    codes, counts = np.unique(trace.slices.name[rows], return_counts=True)
    pairs = zip(codes.tolist(), counts.tolist(), strict=True)
    return {trace.strings[c]: count / max(n_steps, 1) for c, count in pairs}


def _count(trace: Trace, found: StepMap, pattern: re.Pattern[str]) -> Int64s:
    s, steps = trace.slices, found.steps
    names = np.array([i for i, t in enumerate(trace.strings) if pattern.match(t)], np.int32)
    at = s.ts_ns[trace.rows(Kind.RUNTIME, names)]
    step = np.searchsorted(steps.host_start_ns, at, "right") - 1
    inside = (step >= 0) & (at < steps.host_end_ns[np.maximum(step, 0)])
    return np.bincount(step[inside], minlength=len(steps)).astype(np.int64)


def _hooks(trace: Trace) -> tuple[int, float]:
    """Gradient hooks with a reduction in them, and what it adds to their length.

    The others are hooks without one, or, where nearly every hook reduces, other autograd nodes.
    """
    s = trace.slices
    nodes = trace.rows(Kind.CPU_OP, trace.names_where([EVALUATE + ACCUMULATE]))
    records = trace.rows(Kind.CPU_OP, trace.names_where(["record_param_comms"]))
    reduces = np.zeros(len(nodes), bool)
    for track in np.unique(s.track[nodes]).tolist():
        mine = np.flatnonzero(s.track[nodes] == track)
        at = s.ts_ns[records[s.track[records] == track]]
        first = np.searchsorted(at, s.ts_ns[nodes[mine]], "left")
        last = np.searchsorted(at, s.end_ns[nodes[mine]], "left")
        reduces[mine] = last > first
    if not reduces.any():
        return 0, 0.0
    others = nodes[~reduces]
    if len(others) < HOOK_BASELINE * len(nodes):
        evaluate = trace.rows(Kind.CPU_OP, trace.names_starting(EVALUATE))
        others = evaluate[~np.isin(evaluate, nodes)]
    usual = float(np.median(s.dur_ns[others])) if len(others) else 0.0
    return int(reduces.sum()), max(float(np.median(s.dur_ns[nodes[reduces]])) - usual, 0.0)


def _launches(
    trace: Trace, work: GpuWork, found: StepMap, whole: Bools
) -> tuple[float, float, float, float]:
    on = is_compute(work.op) & (work.launch >= 0) & (found.of_work >= 0)
    on &= whole[np.maximum(found.of_work, 0)]
    if not on.any():
        return 0.0, 0.0, 0.0, 0.0
    launched = trace.slices.end_ns[work.launch[on]]
    delay = np.maximum(work.start_ns[on] - launched, 0)
    call = trace.slices.dur_ns[work.launch[on]]
    length = (work.end_ns - work.start_ns)[on]
    n = float(on.sum()) / max(int(whole.sum()), 1)
    return float(np.median(delay)), float(np.median(length)), float(np.median(call)), n


def _kernel_sums(
    trace: Trace, work: GpuWork, found: StepMap, whole: Bools
) -> dict[str, tuple[float, float]]:
    on = is_compute(work.op) & (work.op != Op.OPTIMIZER) & (found.of_work >= 0)
    on &= whole[np.maximum(found.of_work, 0)]
    name = trace.slices.name[work.row[on]]
    n = max(int(whole.sum()), 1)
    count = np.bincount(name, minlength=len(trace.strings))
    spent = np.bincount(name, (work.end_ns - work.start_ns)[on], minlength=len(trace.strings))
    return {
        trace.strings[i]: (float(count[i]) / n, float(spent[i]) / n)
        for i in np.flatnonzero(count).tolist()
    }
