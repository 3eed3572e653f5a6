"""What named host ranges (NVTX) say about steps and passes, where no profiler marked them.

Read are ranges that the user pushed ("step 3", "iteration 7", "forward", "backward") and those of
DeepSpeed's engine (``deepspeed.utils.nvtx.instrument_w_nvtx`` names each after its function).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from tracelens.classify import Op, is_comm
from tracelens.links import GpuWork
from tracelens.thresholds import STEP_RANGE_WORK
from tracelens.trace import HIDDEN_GRAPH, Int32s, Int64s, Kind, Trace

#: A step by number: "step 3", "iteration_7", "train step: 12", "global_step=4", "Step #5", "iter9".
_NUMBERED = re.compile(
    r"^(?:.*[:/. ])?(?:(?:train(?:ing)?|global|optimi[sz]er)[ _-]?)?(?:step|iter(?:ation)?|it)"
    r"[ _#:=.-]*(\d{1,18})$",
    re.IGNORECASE,
)
#: A step without its number.
_BARE = re.compile(r"^train(?:ing)?[ _-]?(?:step|iter(?:ation)?|batch)$", re.IGNORECASE)

_FORWARD = re.compile(r"^(DeepSpeedEngine\.forward|forward([ _-]?pass)?|fwd)$", re.IGNORECASE)
_BACKWARD = re.compile(r"^(DeepSpeedEngine\.backward|backward([ _-]?pass)?|bwd)$", re.IGNORECASE)
#: DeepSpeed's update at stage 3; the optimizers of stages 1 and 2 have no range.
_UPDATE = re.compile(
    r"^(DeepSpeedZeroOptimizer_Stage3\.step|optimi[sz]er([ _-]?step)?)$", re.IGNORECASE
)

#: torch names the threads of its autograd engine pt_autograd_0, 1 ... (torch/csrc/autograd/
#: engine.cpp, Engine::thread_init); GPU nodes never run on another.
AUTOGRAD_THREAD = "pt_autograd_"

#: DeepSpeed's engine reduces here what no hook has reduced (runtime/engine.py, 0.19.8).
EPILOGUE = "DeepSpeedEngine.allreduce_gradients"
#: What only ZeRO-3 runs (runtime/zero/stage3.py, partitioned_param_coordinator.py, 0.19.8).
STAGE3_RANGES = ("DeepSpeedZeroOptimizer_Stage3.", "PartitionedParameterCoordinator.")


@dataclass(frozen=True, slots=True)
class StepRanges:
    """Steps that the user marked: numbers, starts and ends, ascending, and an example's name."""

    number: Int64s
    start_ns: Int64s
    end_ns: Int64s
    name: str


def _names(trace: Trace, pattern: re.Pattern[str]) -> Int32s:
    return np.array([i for i, t in enumerate(trace.strings) if pattern.match(t)], np.int32)


def _outermost(trace: Trace, rows: Int64s) -> Int64s:
    """Those of some rows (ascending) that no earlier one of them still covers."""
    end = trace.slices.end_ns[rows]
    before = np.concatenate(([-1], np.maximum.accumulate(end)[:-1])) if len(rows) else end
    return rows[trace.slices.ts_ns[rows] >= before]


def _ranges(trace: Trace, pattern: re.Pattern[str]) -> tuple[Int64s, Int64s]:
    """Start and end of the ranges of some names, ascending and apart."""
    s = trace.slices
    rows = _outermost(trace, trace.rows(Kind.ANNOTATION, _names(trace, pattern)))
    return s.ts_ns[rows], s.end_ns[rows]


def user_steps(trace: Trace, work: GpuWork) -> StepRanges | None:
    """The ranges that the user marked steps with; of several families the one that covers most.

    Most ranges of a family must launch the model's work: a range named "step" may be the
    optimizer's alone.
    """
    s = trace.slices
    best: tuple[int, StepRanges] | None = None
    families: dict[str, list[int]] = {}
    for code in np.unique(s.name[s.kind == Kind.ANNOTATION]).tolist():
        name = trace.strings[code]
        if _NUMBERED.match(name) or _BARE.match(name):
            families.setdefault(re.sub(r"\d+$", "", name), []).append(code)
    graphs = np.isin(s.name[work.row], trace.names_where([HIDDEN_GRAPH]))
    model = np.sort(work.launch_ns[np.isin(work.op, (Op.GEMM, Op.ATTENTION)) | graphs])
    for codes in families.values():
        rows = trace.rows(Kind.ANNOTATION, np.array(codes, np.int32))
        tracks, counts = np.unique(s.track[rows], return_counts=True)
        rows = _outermost(trace, rows[s.track[rows] == tracks[counts.argmax()]])
        start, end = s.ts_ns[rows], s.end_ns[rows]
        busy = np.searchsorted(model, end) > np.searchsorted(model, start)
        if busy.mean() < STEP_RANGE_WORK:
            continue
        texts = [trace.strings[i] for i in s.name[rows]]
        found = [m.group(1) if (m := _NUMBERED.match(t)) else None for t in texts]
        number = [int(n) if n is not None else i for i, n in enumerate(found)]
        covered = int((end - start).sum())
        if best is None or covered > best[0]:
            best = covered, StepRanges(np.array(number, np.int64), start, end, texts[0])
    return best[1] if best else None


def backward_ranges(trace: Trace) -> tuple[Int64s, Int64s]:
    """Start and end of the backward passes by their ranges, ascending."""
    return _ranges(trace, _BACKWARD)


def autograd_passes(trace: Trace, work: GpuWork) -> tuple[Int64s, Int64s]:
    """Start and end of the backward passes by the threads that launch: torch names its engine's.

    A pass ends where another thread launches a matrix product or attention.
    """
    s = trace.slices
    engine = np.array([n.startswith(AUTOGRAD_THREAD) for n in trace.tracks.name], bool)
    on = np.flatnonzero(work.launch >= 0)  # the engine's hooks reduce the last bucket, too
    on = on[np.argsort(work.launch_ns[on], kind="stable")]
    if not engine.any() or not len(on):
        return on[:0], on[:0]
    backward = engine[s.track[work.launch[on]]]
    model = np.isin(work.op[on], (Op.GEMM, Op.ATTENTION)) & ~backward
    before = np.cumsum(model)[backward]
    head = np.flatnonzero(np.diff(before, prepend=-1))
    launch = work.launch[on[backward]]
    if not len(head):
        return on[:0], on[:0]
    return s.ts_ns[launch[head]], np.maximum.reduceat(s.end_ns[launch], head)


def updates(trace: Trace, work: GpuWork) -> Int64s:
    """When the optimizer was at work, on the host: its range, or launches of its kernels."""
    start, _ = _ranges(trace, _UPDATE)
    launched = work.launch_ns[(work.op == Op.OPTIMIZER) & (work.launch_ns >= 0)]
    return np.sort(np.concatenate((start, launched)))


def engine_steps(trace: Trace, work: GpuWork) -> tuple[Int64s, Int64s] | None:
    """Start and end of the steps by forward ranges: a step starts with the one after an update.

    The last step ends with the last update or parameter gathering that follows its backward pass:
    what comes later (saving, evaluation) is none of it.
    """
    forward, _ = _ranges(trace, _FORWARD)
    backward, done = backward_ranges(trace)
    if not len(forward) or not len(backward):
        return None
    when = updates(trace, work)
    gathers = np.sort(work.launch_ns[(work.op == Op.ALL_GATHER) & (work.launch_ns >= 0)])
    edges = []
    for i, start in enumerate(forward.tolist()):
        before = done[done <= start]
        if i and not len(before):
            continue
        after = int(before[-1]) if len(before) else -1
        told = when if len(when) else gathers
        if not i or np.searchsorted(told, start) > np.searchsorted(told, after):
            edges.append(start)
    if len(edges) < 2:
        return None
    tail = work.launch_ns[is_comm(work.op) | (work.op == Op.OPTIMIZER)]
    usual = int(np.median(np.diff(edges)))
    tail = tail[(tail >= edges[-1]) & (tail < edges[-1] + 2 * usual)]
    final = max(int(tail.max(initial=0)), int(done[-1])) + 1
    table = np.array([*edges, max(final, edges[-1] + 1)], np.int64)
    return table[:-1], table[1:]
