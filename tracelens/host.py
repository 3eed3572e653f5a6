"""What the host did while the GPU had nothing to do: idle time by cause, launches, pauses.

Idle time before the next piece of GPU work is split where it was submitted: until then the host is
the cause, after it the device (launch latency, an event, another process). The host's part
is attributed to what its threads were doing: loading data, allocating, updating on the CPU,
nothing at all (a pause), or just not being fast enough.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tracelens.classify import Op
from tracelens.copies import exposed_of, is_pageable, pageable_of
from tracelens.host_work import host_work
from tracelens.intervals import Spans, clip_lengths, intersect, subtract, union
from tracelens.late_starts import LateStarts, late_starts, submitted_ns
from tracelens.launches import hooks, kernel_sums, launches, longest_kernels, recomputed_ns
from tracelens.lengths import KernelLengths, kernel_lengths
from tracelens.links import OPTIMIZER_STEP, GpuWork
from tracelens.moments import Moment, before_end, of_events, until_work
from tracelens.pauses import Pause, Stops, find_pauses, find_stops
from tracelens.peculiar import Peculiar, find_peculiar, operand_nelems
from tracelens.phases import Passes
from tracelens.steps import DATA_LOADER, StepMap, Steps
from tracelens.syncs import (
    after_events,
    after_sync,
    at_step_ends,
    blocked,
    sync_counts,
    sync_rows,
    works_for_steps,
)
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
#: Collections that the profiler (torch 2.9, record_python_gc_info) or stacks show, or NVTX ranges.
_GC = re.compile(r"^Python GC$|^<built-in function collect>$|(^|/)gc\.py\(\d+\): collect$")
_CPU_OPTIMIZER = re.compile("^" + re.escape(OPTIMIZER_STEP) + r"DeepSpeedCPU")
_LOADER = re.compile("^" + re.escape(DATA_LOADER))


@dataclass(frozen=True, slots=True)
class Host:
    """The host's side of one rank's steps.

    Attributes
    ----------
    idle_ns : int64 (k, number of `Cause`)
        Idle GPU time of each step by cause; rows add up to the breakdown's idle.
    work_ns : int64 (k, number of `Cause` - 1)
        How long the host worked up to idle time of each cause but the last, the device's
        (`tracelens.host_work`).
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
    late : LateStarts
        The same one by one.
    pauses : tuple of Pause
    stops : Stops
        Whether the host was stopped, whatever it did.
    stopped_ns : int64 (k,)
        Idle time in pauses that are such stops by their length (`Stops.most_ns`).
    launch_delay_ns, kernel_ns, call_ns : float
        Medians over compute kernels: end of launch to start, length, length of the launch call.
    n_kernels : float
        Compute kernels a step.
    hook_ns, hook_extra_ns : float
        Median length of gradient hooks that launch a reduction; how much longer than others' it is.
    backward_launch_ns : int64 (k,)
        Idle time of each step in which the host has not launched the next work of a backward pass.
    kernel_sums : mapping of kernel name to (count, ns) per whole step
    gc_ns : int64 (k,)
        Idle time in pauses while Python collected garbage, where the recording shows that.
    event_sync_ns : int64 (k,)
        Idle time in gaps that began while the host waited for an event (cudaEventSynchronize).
    shows_python : bool
        Whether Python frames or garbage collections were recorded.
    step_sync_ns : int64 (k,)
        What synchronising the device after the backward pass costs (`at_step_ends`).
    recomputed_ns : int64 (k,)
        Summed compute kernels that forward operators launched in the backward pass.
    peculiar : tuple of Peculiar
        Host events that some steps have, or have more of, than others.
    operand_nelems : int64 (k,)
        Elements of the operands of matrix products (record_shapes): how much work a step has.
    moments : mapping
        The longest moments of idle time by cause (``launch``, ``pause`` ...), of exposed copies
        (``save``, ``input``, ``copy``), of ``stall`` and of reducing gradient hooks (``hook``).
    kernel_moments : mapping of kernel name to its longest instance
    kernel_lengths : KernelLengths
    """

    idle_ns: Int64s
    work_ns: Int64s
    save_ns: Int64s
    save_bytes: Int64s
    input_ns: Int64s
    input_bytes: Int64s
    host_copy_ns: Int64s
    syncs: dict[str, float]
    allocator_calls: Int64s
    stalls: Int64s
    stall_ns: Int64s
    late: LateStarts
    pauses: tuple[Pause, ...]
    stops: Stops
    stopped_ns: Int64s
    launch_delay_ns: float
    kernel_ns: float
    call_ns: float
    n_kernels: float
    hook_ns: float
    hook_extra_ns: float
    backward_launch_ns: Int64s
    kernel_sums: dict[str, tuple[float, float]]
    gc_ns: Int64s
    event_sync_ns: Int64s
    shows_python: bool
    step_sync_ns: Int64s
    recomputed_ns: Int64s
    peculiar: tuple[Peculiar, ...]
    operand_nelems: Int64s
    moments: dict[str, tuple[Moment, ...]]
    kernel_moments: dict[str, Moment]
    kernel_lengths: KernelLengths

    def __post_init__(self) -> None:
        _freeze(self)


def look_at_host(trace: Trace, work: GpuWork, found: StepMap, passes: Passes, whole: Bools) -> Host:
    """Measure the host's side of a rank.

    Parameters
    ----------
    trace : Trace
    work : GpuWork
    found : StepMap
    passes : Passes
    whole : bool (k,)
        Steps that medians are taken over.
    """
    steps, backward_end_ns = found.steps, passes.last_ends(len(found.steps))
    host, device, late = _idle(trace, work, steps)
    gaps, pauses = find_pauses(trace, work, steps)
    syncs = sync_rows(trace, work, steps, backward_end_ns)
    known = _cpu_update(trace, steps, backward_end_ns), gaps, after_sync(trace, work, syncs)
    parts = [*_causes(trace, host, known), device]
    idle, tail = _by_step(parts, work, steps)
    save, size = pageable_of(trace, work, found, Op.COPY_D2H)
    read, read_size = pageable_of(trace, work, found, Op.COPY_H2D)
    (hooked, hook_ns, extra), stops = hooks(trace), find_stops(trace, work)
    delay, kernel, call, count = launches(trace, work, found, whole)

    def within(cause: Cause, spans: Spans) -> Int64s:
        return _within(parts[cause], spans, steps, tail.get(cause, 0))

    return Host(
        idle_ns=idle,
        work_ns=_work(trace, work, steps, (host, gaps, parts[:-1])),
        save_ns=save,
        save_bytes=size,
        input_ns=read,
        input_bytes=read_size,
        host_copy_ns=exposed_of(work, np.isin(work.op, (Op.COPY_D2H, Op.COPY_H2D)), steps),
        syncs=sync_counts(trace, syncs, len(steps)),
        allocator_calls=_count(trace, found, _ALLOCATOR),
        stalls=late.count(steps),
        stall_ns=late.length_ns(steps),
        late=late,
        pauses=pauses,
        stops=stops,
        stopped_ns=within(Cause.PAUSE, _no_longer(gaps, stops.most_ns)),
        launch_delay_ns=delay,
        kernel_ns=kernel,
        call_ns=call,
        n_kernels=count,
        hook_ns=hook_ns,
        hook_extra_ns=extra,
        backward_launch_ns=within(Cause.LAUNCH, union(passes.start_ns, passes.end_ns)),
        kernel_sums=kernel_sums(trace, work, found, whole),
        gc_ns=within(Cause.PAUSE, _ranges(trace, (Kind.PYTHON, Kind.ANNOTATION), _GC)),
        event_sync_ns=within(Cause.SYNC, after_events(trace, work, syncs)),
        shows_python=_shows_python(trace),
        step_sync_ns=at_step_ends(trace, work, steps, backward_end_ns),
        recomputed_ns=recomputed_ns(trace, work, found),
        peculiar=find_peculiar(trace, steps, whole),
        operand_nelems=operand_nelems(trace, steps),
        moments=_moments(trace, work, steps, (parts, late.spans, syncs, hooked)),
        kernel_moments=longest_kernels(trace, work, found, whole),
        kernel_lengths=kernel_lengths(trace, work, found, whole, each=len(late.row) > 0),
    )


def _no_longer(spans: Spans, most_ns: int) -> Spans:
    short = spans[1] - spans[0] <= most_ns
    return spans[0][short], spans[1][short]


def _work(
    trace: Trace, work: GpuWork, steps: Steps, of: tuple[Spans, Spans, Sequence[Spans]]
) -> Int64s:
    """`host_work` of idle time, pauses and idle time by cause."""
    idle, gaps, parts = of
    still = gaps, _ranges(trace, Kind.RUNTIME, _ALLOCATOR)
    launched = work.launch_ns[work.launch_ns >= 0]
    first = int(launched.min()) if len(launched) else None
    return host_work(idle, parts, still, blocked(trace, work), steps, first)


def _shows_python(trace: Trace) -> bool:
    return bool((trace.slices.kind == Kind.PYTHON).any()) or len(trace.names_matching(_GC)) > 0


def _moments(
    trace: Trace, work: GpuWork, steps: Steps, of: tuple[list[Spans], Spans, Int64s, Int64s]
) -> dict[str, tuple[Moment, ...]]:
    """The longest moments of each cause of idle time, of copies, late starts and hooks."""
    parts, late, syncs, hooked = of
    s = trace.slices
    events = np.flatnonzero((s.kind == Kind.CPU_OP) | (s.kind == Kind.RUNTIME))
    beside = {
        Cause.CPU_OPTIMIZER: trace.rows(Kind.ANNOTATION, trace.names_matching(_CPU_OPTIMIZER)),
        Cause.LOADER: trace.rows(Kind.ANNOTATION, trace.names_matching(_LOADER)),
        Cause.ALLOCATOR: trace.rows(Kind.RUNTIME, trace.names_matching(_ALLOCATOR)),
        Cause.PAUSE: events[works_for_steps(trace, work)[s.track[events]]],
        Cause.SYNC: syncs,
    }
    found = {
        cause.name.lower(): before_end(trace, steps, spans, beside[cause])
        if cause in beside
        else until_work(trace, steps, spans, work)
        for cause, spans in zip(Cause, parts, strict=True)
    }
    pageable = is_pageable(trace, work)
    for name, on in (
        ("save", pageable & (work.op == Op.COPY_D2H)),
        ("input", pageable & (work.op == Op.COPY_H2D)),
        ("copy", ~pageable & np.isin(work.op, (Op.COPY_D2H, Op.COPY_H2D))),
    ):
        found[name] = of_events(trace, steps, work.row[on])
    found["hook"] = of_events(trace, steps, hooked)
    return found | {"stall": until_work(trace, steps, late, work)}


def _idle(trace: Trace, work: GpuWork, steps: Steps) -> tuple[Spans, Spans, LateStarts]:
    """Idle time up to the launch of the next work, and after it, and which work starts late.

    What follows the last work, up to the end of the last window, is the host's.
    """
    start, end = union(work.start_ns, work.end_ns)
    if not len(start):
        nothing = union(start, end)
        none = late_starts(trace, work, nothing, nothing[0], nothing[0])
        return union(steps.start_ns, steps.end_ns), nothing, none
    # (a step without work of its own may begin before all work)
    first = min(int(start[0]), int(steps.start_ns.min(initial=int(start[0]))))
    last = max(int(end[-1]), int(steps.end_ns.max(initial=0)))
    gap_start, gap_end = np.insert(end, 0, first), np.append(start, last)
    nxt = np.minimum(np.searchsorted(work.start_ns, gap_end, "left"), len(work) - 1)
    launch = np.where(gap_end == work.start_ns[nxt], submitted_ns(trace, work)[nxt], -1)
    turn = np.clip(np.where(launch >= 0, launch, gap_end), gap_start, gap_end)
    ends = np.flatnonzero(launch >= 0)
    gaps = (gap_start[ends], gap_end[ends])
    late = late_starts(trace, work, gaps, turn[ends], nxt[ends])
    return union(gap_start, turn), union(turn, gap_end), late


def _by_step(parts: list[Spans], work: GpuWork, steps: Steps) -> tuple[Int64s, dict[Cause, int]]:
    """Idle time of each step by cause, and what `_tail` added to causes of the last."""
    idle = np.stack([clip_lengths(p, steps.start_ns, steps.end_ns) for p in parts], axis=1)
    return idle, _tail(idle, parts[:-1], work, steps)


def _tail(idle: Int64s, causes: list[Spans], work: GpuWork, steps: Steps) -> dict[Cause, int]:
    """Say what the end of the last window stands for: the way into the step that follows.

    That time was not recorded; the same way into the last step was, and its causes are taken. What
    was added to each of them.
    """
    added: dict[Cause, int] = {}
    if not len(steps) or not len(work):
        return added
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
            added[cause] = share
    return added


def _cpu_update(trace: Trace, steps: Steps, backward_end_ns: Int64s) -> Spans:
    """From the backward pass to the end of steps whose optimizer runs on the host.

    Around the update itself DeepSpeed moves gradients and parameters parameter by parameter.
    """
    s = trace.slices
    rows = trace.rows(Kind.ANNOTATION, trace.names_matching(_CPU_OPTIMIZER))
    step = np.unique(np.searchsorted(steps.host_start_ns, s.ts_ns[rows], "right") - 1)
    step = step[step >= 0]
    step = step[backward_end_ns[step] >= 0]
    start = np.concatenate((s.ts_ns[rows], backward_end_ns[step]))
    end = np.concatenate((s.end_ns[rows], steps.host_end_ns[step]))
    return union(start, np.maximum(start, end))


def _causes(trace: Trace, host: Spans, known: tuple[Spans, Spans, Spans]) -> list[Spans]:
    """The host's idle part by cause, in order of `Cause`, each instant once.

    `known` are the spans of an update on the CPU, of pauses and of gaps after a synchronisation.
    """
    update, gaps, synced = known
    rest, parts = host, []
    for reason in (
        update,
        _ranges(trace, Kind.ANNOTATION, _LOADER),
        _ranges(trace, Kind.RUNTIME, _ALLOCATOR),
        gaps,
        synced,
    ):
        parts.append(intersect(rest, reason))
        rest = subtract(rest, reason)
    return [*parts, rest]


def _within(spans: Spans, others: Spans, steps: Steps, tail: int) -> Int64s:
    """What a cause's spans share with others, per step; `tail` as `_tail` added to the cause."""
    both = intersect(spans, others)
    shared = clip_lengths(both, steps.start_ns, steps.end_ns)
    if tail:
        way = clip_lengths(both, steps.host_start_ns[-1:], steps.start_ns[-1:])
        shared[-1] += min(int(way[0]), tail)
    return shared


def _ranges(trace: Trace, kind: Kind | tuple[Kind, ...], pattern: re.Pattern[str]) -> Spans:
    rows = trace.rows(kind, trace.names_matching(pattern))
    return union(trace.slices.ts_ns[rows], trace.slices.end_ns[rows])


def _count(trace: Trace, found: StepMap, pattern: re.Pattern[str]) -> Int64s:
    steps = found.steps
    at = trace.slices.ts_ns[trace.rows(Kind.RUNTIME, trace.names_matching(pattern))]
    step = steps.at_host(at)
    return np.bincount(step[step >= 0], minlength=len(steps)).astype(np.int64)
