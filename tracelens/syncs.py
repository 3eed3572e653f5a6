"""Calls in which a rank's host waits for its GPU, and the gaps that follow."""

from __future__ import annotations

import re

import numpy as np

from tracelens.intervals import Spans, contains, union
from tracelens.links import GpuWork
from tracelens.steps import Steps
from tracelens.trace import Bools, Int64s, Kind, Trace

_SYNC = re.compile(r"^(cuda|hip)\w*Synchronize$|^(cuda|hip)Memcpy$")


def works_for_steps(trace: Trace, work: GpuWork) -> Bools:
    """Tracks that run ops or launch work; NCCL's watchdog and its like do neither."""
    s = trace.slices
    active = np.zeros(len(trace.tracks), bool)
    active[s.track[work.launch[work.launch >= 0]]] = True
    active[s.track[s.kind == Kind.CPU_OP]] = True
    return active


def sync_rows(trace: Trace, work: GpuWork, steps: Steps, backward_end_ns: Int64s) -> Int64s:
    """Synchronising calls in forward and backward: in the step DeepSpeed itself needs some."""
    s = trace.slices
    rows = _waiting(trace, work)
    step = np.searchsorted(steps.host_start_ns, s.ts_ns[rows], "right") - 1
    return rows[(step >= 0) & (s.ts_ns[rows] < backward_end_ns[np.maximum(step, 0)])]


def blocked(trace: Trace, work: GpuWork) -> Spans:
    """When a thread of the steps waits for the GPU, anywhere in a step."""
    s, rows = trace.slices, _waiting(trace, work)
    return union(s.ts_ns[rows], s.end_ns[rows])


def _waiting(trace: Trace, work: GpuWork) -> Int64s:
    rows = trace.rows(Kind.RUNTIME, trace.names_matching(_SYNC))
    return rows[works_for_steps(trace, work)[trace.slices.track[rows]]]


def after_sync(trace: Trace, work: GpuWork, rows: Int64s) -> Spans:
    """Idle gaps that began while a thread of the step was blocked in one of these calls."""
    s = trace.slices
    start, end = union(work.start_ns, work.end_ns)
    drained = contains(union(s.ts_ns[rows], s.end_ns[rows]), end[:-1])
    return end[:-1][drained], start[1:][drained]


def after_events(trace: Trace, work: GpuWork, rows: Int64s) -> Spans:
    """Those of the gaps that began while the host waited for an event on the GPU."""
    waits = trace.names_where(["cudaEventSynchronize", "hipEventSynchronize"])
    return after_sync(trace, work, rows[np.isin(trace.slices.name[rows], waits)])


def sync_counts(trace: Trace, rows: Int64s, n_steps: int) -> dict[str, float]:
    codes, counts = np.unique(trace.slices.name[rows], return_counts=True)
    pairs = zip(codes.tolist(), counts.tolist(), strict=True)
    return {trace.strings[c]: count / max(n_steps, 1) for c, count in pairs}


def at_step_ends(trace: Trace, work: GpuWork, steps: Steps, backward_end_ns: Int64s) -> Int64s:
    """What synchronising the device after the backward pass costs, ns per step.

    Each such call that the GPU's last work ends in is followed by a gap. Had the host not been
    blocked, the gap would be shorter by as long as that.
    """
    s = trace.slices
    rows = trace.rows(
        Kind.RUNTIME, trace.names_where(["cudaDeviceSynchronize", "hipDeviceSynchronize"])
    )
    rows = rows[works_for_steps(trace, work)[s.track[rows]]]
    step = np.searchsorted(steps.host_start_ns, s.ts_ns[rows], "right") - 1
    late = (step >= 0) & (s.ts_ns[rows] >= backward_end_ns[np.maximum(step, 0)])
    late &= backward_end_ns[np.maximum(step, 0)] >= 0
    rows, step = rows[late], step[late]
    start, end = union(work.start_ns, work.end_ns)
    spent = np.zeros(len(steps), np.int64)
    at = np.searchsorted(end, s.end_ns[rows], "right") - 1
    for r, k, i in zip(rows.tolist(), step.tolist(), at.tolist(), strict=True):
        if 0 <= i < len(end) - 1 and end[i] >= s.ts_ns[r]:
            spent[k] += min(int(start[i + 1] - end[i]), int(s.dur_ns[r]))
    return spent
