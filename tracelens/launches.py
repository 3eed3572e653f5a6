"""What launching costs a rank's host, and the kernels that it launches."""

from __future__ import annotations

import re

import numpy as np

from tracelens.classify import Op, is_compute
from tracelens.links import GpuWork, TrackSpans
from tracelens.moments import Moment
from tracelens.steps import ACCUMULATE, EVALUATE, StepMap
from tracelens.thresholds import HOOK_BASELINE
from tracelens.trace import Bools, Int64s, Kind, Trace

#: Calls of CUDA's and HIP's runtime and driver that launch one kernel.
_KERNEL_LAUNCH = re.compile(r"^(cuda|cu|hip)(Ext)?(Module)?LaunchKernel")
#: Autograd's own rows: nodes of the graph and what evaluates them.
_BACKWARD = re.compile(r"Backward\d*$|^autograd::|^torch::autograd::")


def hooks(trace: Trace) -> tuple[Int64s, float, float]:
    """Rows of gradient hooks with a reduction in them, their median length, what it adds to that.

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
        return nodes[:0], 0.0, 0.0
    others = nodes[~reduces]
    if len(others) < HOOK_BASELINE * len(nodes):
        evaluate = trace.rows(Kind.CPU_OP, trace.names_starting(EVALUATE))
        others = evaluate[~np.isin(evaluate, nodes)]
    usual = float(np.median(s.dur_ns[others])) if len(others) else 0.0
    hooked = nodes[reduces]
    length = float(np.median(s.dur_ns[hooked]))
    return hooked, length, max(length - usual, 0.0)


def launches(
    trace: Trace, work: GpuWork, found: StepMap, whole: Bools
) -> tuple[float, float, float, float]:
    """Medians over compute kernels, ns: end of launch to start, length, launch call; and how many
    kernels a step has.
    """
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


def unrun_launches(trace: Trace, work: GpuWork) -> tuple[int, int]:
    """How many kernel launches have no work on the GPU, and how many there are.

    While a graph is captured launches are recorded, but nothing runs (CUDA C++ Programming Guide,
    stream capture); buffers of GPU activity may be lost, too.
    """
    rows = trace.rows(Kind.RUNTIME, trace.names_matching(_KERNEL_LAUNCH))
    return int((~np.isin(rows, work.launch)).sum()), len(rows)


def kernel_sums(
    trace: Trace, work: GpuWork, found: StepMap, whole: Bools
) -> dict[str, tuple[float, float]]:
    """Compute kernels but the optimizer's by name: (count, ns) per whole step."""
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


def longest_kernels(trace: Trace, work: GpuWork, found: StepMap, whole: Bools) -> dict[str, Moment]:
    """The longest instance of each of these kernels."""
    on = is_compute(work.op) & (work.op != Op.OPTIMIZER) & (found.of_work >= 0)
    on &= whole[np.maximum(found.of_work, 0)]
    rows, s = work.row[on], trace.slices
    order = np.lexsort((-s.dur_ns[rows], s.name[rows]))
    _, first = np.unique(s.name[rows][order], return_index=True)
    rows = rows[order[first]]
    step = found.of_work[on][order[first]].tolist()
    return {
        trace.strings[s.name[r]]: Moment(
            k, int(s.ts_ns[r]), int(s.end_ns[r]), trace.strings[s.name[r]], r
        )
        for k, r in zip(step, rows.tolist(), strict=True)
    }


def recomputed_ns(trace: Trace, work: GpuWork, found: StepMap) -> Int64s:
    """Summed length per step of compute kernels that recompute activations.

    A backward node runs without gradients, and its operators get no sequence number. Operators that
    have one there build a graph again: a checkpointed forward pass.
    """
    s = trace.slices
    nodes = trace.rows(Kind.CPU_OP, trace.names_starting(EVALUATE))
    forward = [i for i, t in enumerate(trace.strings) if not _BACKWARD.search(t)]
    ops = trace.rows(Kind.CPU_OP, np.array(forward, np.int32))
    ops = ops[s.sequence[ops] >= 0]
    again = ops[TrackSpans(s, nodes).contain(s.track[ops], s.ts_ns[ops])]
    spent = np.zeros(len(found.steps), np.int64)
    if not len(again):
        return spent
    on = np.flatnonzero(is_compute(work.op) & (work.launch >= 0) & (found.of_work >= 0))
    inside = TrackSpans(s, again).contain(s.track[work.launch[on]], work.launch_ns[on])
    on = on[inside]
    np.add.at(spent, found.of_work[on], work.end_ns[on] - work.start_ns[on])
    return spent
