"""Forward, backward and step phases, and micro-steps, from the host's autograd activity."""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass

import numpy as np

from tracelens.classify import Op
from tracelens.links import OPTIMIZER_STEP, GpuWork, TrackSpans
from tracelens.ranges import autograd_passes, backward_ranges
from tracelens.steps import EVALUATE, StepMap, forward_marks, host_calls
from tracelens.thresholds import SCALAR_BYTES, SCALAR_NELEMS
from tracelens.trace import Int8s, Int32s, Int64s, Kind, Trace, _freeze

#: NCCL's reductions of half-precision sums: never a norm, a flag or a count.
_HALF_SUM = re.compile(r"^nccl\w*Reduce\w*_(bf16|f16|half|__nv_bfloat16)")


class Phase(enum.IntEnum):
    """Part of a training step."""

    FORWARD = 0
    BACKWARD = 1  #: autograd, and the gradient reduction that follows it
    STEP = 2  #: optimizer: norms, update, parameter gathering

    @property
    def label(self) -> str:
        """The name in reports."""
        return self.name.lower()


@dataclass(frozen=True, slots=True)
class Passes:
    """One row a backward pass, ascending in time.

    `start_ns`, `end_ns` int64: first to last autograd node on the host. `step` int32: step row.
    `nodes` and `accumulate` int64: autograd nodes, and gradient accumulations, that ran.
    """

    start_ns: Int64s
    end_ns: Int64s
    step: Int32s
    nodes: Int64s
    accumulate: Int64s

    def __post_init__(self) -> None:
        _freeze(self)

    def __len__(self) -> int:
        return len(self.start_ns)

    def last_ends(self, k: int) -> Int64s:
        """End of the last pass of each of `k` steps on the host, ns; -1 without one."""
        ends = np.full(k, -1, np.int64)
        inside = self.step >= 0
        np.maximum.at(ends, self.step[inside], self.end_ns[inside])
        return ends


@dataclass(frozen=True, slots=True)
class Phases:
    """Where in its step every GPU work row belongs.

    `phase` int8 (n,): `Phase`, -1 unknown; `micro` int32 (n,): micro-step within the step, -1
    unknown; `passes`: the backward passes they were read from.
    """

    phase: Int8s
    micro: Int32s
    passes: Passes


def find_phases(trace: Trace, work: GpuWork, found: StepMap) -> Phases:
    """Phase and micro-step of all GPU work, by the time of its launch.

    Without autograd nodes on the host the ranges named after the passes tell; without those the
    phases are unknown, unless host ops show that there is neither a backward pass nor an optimizer:
    then everything is forward.
    """
    marks = forward_marks(trace)
    passes = find_passes(trace, found, marks)
    if not len(passes):
        passes = _passes_without_nodes(trace, work, found)
        marks = _model_launches(work, passes)
    n = len(work)
    phase = np.full(n, -1, np.int8)
    micro = np.full(n, -1, np.int32)
    known = (work.launch_ns >= 0) & (found.of_work >= 0)
    if not len(passes):
        updated = len(trace.ranges(trace.names_starting(OPTIMIZER_STEP)))
        if (trace.slices.kind == Kind.CPU_OP).any() and not updated:
            phase[known] = Phase.FORWARD
            micro[known] = 0
        return Phases(phase, micro, passes)
    reductions = _gradient_reductions(trace, work)
    edges, label, index = _timeline(trace, found, (marks, reductions), passes)
    at = np.searchsorted(edges, work.launch_ns[known], "right") - 1
    phase[known] = np.where(at >= 0, label[np.maximum(at, 0)], Phase.FORWARD)
    micro[known] = np.where(at >= 0, index[np.maximum(at, 0)], 0)
    return Phases(phase, micro, passes)


def find_passes(trace: Trace, found: StepMap, marks: Int64s) -> Passes:
    """Backward passes: runs of autograd nodes with nothing of another micro-step between.

    That is a forward op of the main thread or, in a pipeline's cool-down, a send or receive.
    """
    s = trace.slices
    sends = host_calls(trace, Op.P2P)
    evaluate = trace.rows(Kind.CPU_OP, trace.names_starting(EVALUATE))
    # (ring attention sends inside its nodes: that is one pass)
    sends = s.ts_ns[sends[~TrackSpans(s, evaluate).contain(s.track[sends], s.ts_ns[sends])]]
    marks = np.sort(np.concatenate((marks, sends)))
    start, end = s.ts_ns[evaluate], s.end_ns[evaluate]
    is_accumulate = np.array(
        [trace.strings[i].endswith("AccumulateGrad") for i in s.name[evaluate]], bool
    )
    seen = np.searchsorted(marks, start, "left")
    head = (
        np.flatnonzero(np.concatenate(([True], seen[1:] != seen[:-1])))
        if len(evaluate)
        else evaluate
    )
    if not len(head):
        none = np.empty(0, np.int64)
        return Passes(none, none.copy(), none.astype(np.int32), none.copy(), none.copy())
    first = start[head]
    return Passes(
        start_ns=first,
        end_ns=np.maximum.reduceat(end, head),
        step=found.steps.at_host(first).astype(np.int32),
        nodes=np.diff(np.append(head, len(evaluate))),
        accumulate=np.add.reduceat(is_accumulate.astype(np.int64), head),
    )


def _passes_without_nodes(trace: Trace, work: GpuWork, found: StepMap) -> Passes:
    """Backward passes by the ranges that are named so, else by the engine's own threads."""
    start, end = backward_ranges(trace)
    if not len(start) and trace.info.source == "nsys":
        start, end = autograd_passes(trace, work)
    none = np.zeros(len(start), np.int64)
    step = found.steps.at_host(start).astype(np.int32)
    return Passes(start, end, step, none, none.copy())


def _timeline(
    trace: Trace, found: StepMap, signs: tuple[Int64s, Int64s], passes: Passes
) -> tuple[Int64s, Int8s, Int32s]:
    """Edges on the host timeline and what begins there: (edge, phase, micro-step).

    `signs` are the times of forward work, and of gradient reductions.
    """
    marks, reductions = signs
    steps = found.steps
    rows: list[tuple[int, int, int]] = []
    optimizer = trace.ranges(trace.names_starting(OPTIMIZER_STEP))
    optimizer_ns = trace.slices.ts_ns[optimizer]
    for k in range(len(steps)):
        begin, stop = int(steps.host_start_ns[k]), int(steps.host_end_ns[k])
        mine = np.flatnonzero(passes.step == k)
        rows.append((begin, Phase.FORWARD, 0))
        for i, p in enumerate(mine.tolist()):
            done = int(passes.end_ns[p])
            last = i + 1 == len(mine)
            later = optimizer_ns if last else marks
            at = int(np.searchsorted(later, done, "left"))
            limit = min(int(later[at]), stop) if at < len(later) else stop
            late = reductions[slice(*np.searchsorted(reductions, (done, limit)))]
            edge = int(late[-1]) + 1 if len(late) else done
            rows.append((int(passes.start_ns[p]), Phase.BACKWARD, i))
            rows.append((edge, Phase.STEP, i) if last else (edge, Phase.FORWARD, i + 1))
    rows.sort()
    table = np.array(rows, np.int64)
    return table[:, 0], table[:, 1].astype(np.int8), table[:, 2].astype(np.int32)


def _model_launches(work: GpuWork, passes: Passes) -> Int64s:
    """When matrix products and attention were launched outside of backward passes, ascending."""
    at = np.sort(work.launch_ns[np.isin(work.op, (Op.GEMM, Op.ATTENTION)) & (work.launch >= 0)])
    before = np.searchsorted(passes.start_ns, at, "right") - 1
    inside = (before >= 0) & (at < passes.end_ns[np.maximum(before, 0)]) if len(passes) else at < 0
    return at[~inside]


def _gradient_reductions(trace: Trace, work: GpuWork) -> Int64s:
    """End times of host calls that reduce more than a scalar, ascending, ns.

    Between the last autograd node and the optimizer these are the rest of the gradients (the
    last bucket of ZeRO-1 and 2, everything at stage 0 and at stage 1 without overlap).
    """
    reduces = (Op.ALL_REDUCE, Op.REDUCE, Op.REDUCE_SCATTER)
    called = trace.slices.end_ns[host_calls(trace, *reduces, min_nelems=SCALAR_NELEMS + 1)]
    if trace.info.source != "nsys":
        return np.sort(called)
    # host records without elements: the message's bytes tell, else the type in the kernel's name
    s = trace.slices
    size = s.bytes[work.row]
    half = np.array([i for i, t in enumerate(trace.strings) if _HALF_SUM.search(t)], np.int32)
    by_name = np.isin(s.name[work.row], half) | (work.op == Op.REDUCE_SCATTER)
    large = np.where(size >= 0, size > SCALAR_BYTES, by_name)
    on = np.isin(work.op, reduces) & (work.launch >= 0) & large
    return np.sort(np.concatenate((called, s.end_ns[work.launch[on]])))
