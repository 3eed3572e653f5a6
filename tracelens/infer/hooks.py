"""What gradient hooks do: allocate a bucket, copy gradients into it.

DeepSpeed's hooks run inside ``torch::autograd::AccumulateGrad`` (post-accumulate-grad hooks, 0.16.6
and later) or beside it in the engine's evaluation of that node (hooks on the node, before).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from tracelens.links import TrackSpans
from tracelens.phases import Passes
from tracelens.steps import ACCUMULATE, EVALUATE, forward_marks
from tracelens.thresholds import MIN_BUCKET_NELEMS
from tracelens.trace import Int64s, Kind, Trace

_SIZE = re.compile(r'^\s*\[\s*"\[(\d{1,18})\]"\s*,\s*"(\d{0,18})"')


@dataclass(frozen=True, slots=True)
class Allocation:
    """A flat buffer allocated inside a gradient hook: backward pass, elements, type code, time."""

    backward: int
    nelems: int
    dtype: str
    ts_ns: int


def _inside(trace: Trace, rows: Int64s, within: Int64s) -> Int64s:
    s = trace.slices
    return rows[TrackSpans(s, within).contain(s.track[rows], s.ts_ns[rows])]


def _copies(trace: Trace) -> Int64s:
    """Rows of copies inside hooks; a gradient that autograd itself clones does not count."""
    s = trace.slices
    hook = trace.rows(Kind.CPU_OP, trace.names_where([EVALUATE + ACCUMULATE]))
    copies = _inside(trace, trace.rows(Kind.CPU_OP, trace.names_where(["aten::copy_"])), hook)
    clones = trace.rows(Kind.CPU_OP, trace.names_where(["aten::clone", "aten::contiguous"]))
    own = TrackSpans(s, clones).contain(s.track[copies], s.ts_ns[copies])
    return copies[~own]


def hook_work(trace: Trace, passes: Passes) -> tuple[tuple[Allocation, ...], int]:
    """Flat buffers that hooks allocate before they copy anything, and how many copies they make."""
    copied = _copies(trace)
    return _bucket_allocations(trace, passes, trace.slices.ts_ns[copied]), len(copied)


def _bucket_allocations(trace: Trace, passes: Passes, copied_ns: Int64s) -> tuple[Allocation, ...]:
    """Flat buffers that hooks allocate before they copy anything, by backward pass.

    That is DeepSpeed's setup_buckets (runtime/zero/stage_1_and_2.py, 0.18.3 and later). What a hook
    allocates later in a pass is the partition of the gradients; a pass whose beginning the window
    lacks shows only that.
    """
    s, shapes = trace.slices, trace.shapes
    hook = trace.rows(Kind.CPU_OP, trace.names_where([EVALUATE + ACCUMULATE]))
    empty = np.isin(s.name[shapes.row], trace.names_where(["aten::empty"]))
    on = np.flatnonzero(empty & (shapes.concrete >= 0))
    row = shapes.row[on]
    on = on[TrackSpans(s, hook).contain(s.track[row], s.ts_ns[row])]
    marks = forward_marks(trace) if len(on) else on
    result = []
    for k in on.tolist():
        size = _SIZE.match(trace.strings[shapes.concrete[k]])
        at = int(s.ts_ns[shapes.row[k]])
        p = int(np.searchsorted(passes.start_ns, at, "right")) - 1
        if size is None or p < 0 or int(size.group(1)) < MIN_BUCKET_NELEMS:
            continue
        begin = int(passes.start_ns[p])
        since = int(passes.end_ns[p - 1]) if p else -1
        forward = np.searchsorted(marks, begin) > np.searchsorted(marks, since)
        filled = np.searchsorted(copied_ns, at) > np.searchsorted(copied_ns, begin)
        if forward and not filled:
            result.append(Allocation(p, int(size.group(1)), size.group(2), at))
    return tuple(result)
