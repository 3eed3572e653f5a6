"""Gradients of a rank in the order in which they became ready, and DeepSpeed's flush rule."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tracelens.intervals import clip_lengths, union
from tracelens.links import GpuWork, TrackSpans
from tracelens.operands import first_nelems
from tracelens.phases import Passes
from tracelens.steps import ACCUMULATE, EVALUATE
from tracelens.thresholds import LAUNCH_DELAY_NS
from tracelens.trace import Int32s, Int64s, Kind, Trace, _freeze


@dataclass(frozen=True, slots=True)
class Gradients:
    """One row a gradient that was accumulated, in the order of the host.

    Attributes
    ----------
    nelems : int64 (g,)
        Elements; -1 where shapes were not recorded.
    start_ns, end_ns : int64 (g,)
        The engine's evaluation of the node on the host, hooks included.
    row : int64 (g,)
        Row of `Slices`.
    """

    nelems: Int64s
    start_ns: Int64s
    end_ns: Int64s
    row: Int64s

    def __post_init__(self) -> None:
        _freeze(self)

    def __len__(self) -> int:
        return len(self.nelems)

    def of(self, ts_ns: Int64s) -> Int32s:
        """Which gradient's hook each instant lies in; -1 none. int32 (m,)."""
        k = np.searchsorted(self.start_ns, ts_ns, "right") - 1
        inside = (k >= 0) & (ts_ns < self.end_ns[np.maximum(k, 0)]) if len(self) else ts_ns < 0
        return np.where(inside, k, -1).astype(np.int32)


def find_gradients(trace: Trace, begin_ns: int, stop_ns: int) -> Gradients:
    """The gradients accumulated in a window of the host's time."""
    s = trace.slices
    nodes = trace.rows(Kind.CPU_OP, trace.names_where([EVALUATE + ACCUMULATE]))
    ops = trace.rows(Kind.CPU_OP, trace.names_where([ACCUMULATE]))
    if not len(nodes):
        nodes = ops
    nodes = nodes[(s.ts_ns[nodes] >= begin_ns) & (s.ts_ns[nodes] < stop_ns)]
    nelems = np.full(len(nodes), -1, np.int64)
    inside = TrackSpans(s, nodes).contain(s.track[ops], s.ts_ns[ops]) if len(nodes) else ops < 0
    ops = ops[inside]
    if len(ops):
        k = np.searchsorted(s.ts_ns[nodes], s.ts_ns[ops], "right") - 1
        nelems[k] = first_nelems(trace, ops)
    return Gradients(nelems, s.ts_ns[nodes], s.end_ns[nodes], nodes)


@dataclass(frozen=True, slots=True)
class Ready:
    """When the gradients of backward passes were ready: one row each, in the order of the host.

    Attributes
    ----------
    step, micro : int32 (g,)
        Step row, and pass within the step.
    nelems : int64 (g,)
        Elements; -1 where shapes were not recorded.
    start_ns, end_ns : int64 (g,)
        Its hook on the host.
    ready_ns : int64 (g,)
        When the compute stream had done what was launched before the hook.
    work_ns : int64 (g,)
        Work of the compute stream since the gradient before in the pass, communication left out;
        what the GPU takes between kernels that are queued is in it. 0 for a pass's first.
    beside_ns : int64 (g,)
        The part of it that ran beside communication.
    """

    step: Int32s
    micro: Int32s
    nelems: Int64s
    start_ns: Int64s
    end_ns: Int64s
    ready_ns: Int64s
    work_ns: Int64s
    beside_ns: Int64s

    def __post_init__(self) -> None:
        _freeze(self)

    def __len__(self) -> int:
        return len(self.nelems)


def find_ready(trace: Trace, work: GpuWork, passes: Passes, stream: int) -> Ready:
    """When the gradients of all passes within steps were ready, by the work of one stream."""
    g = find_gradients(trace, 0, int(np.iinfo(np.int64).max))
    at = np.searchsorted(passes.start_ns, g.start_ns, "right") - 1
    inside = at >= 0
    inside[inside] = (passes.step >= 0)[at[inside]] & (
        g.start_ns[inside] < passes.end_ns[at[inside]]
    )
    at, start = at[inside], g.start_ns[inside]
    _, first, which = np.unique(passes.step, return_index=True, return_inverse=True)
    own = np.flatnonzero((work.stream == stream) & ~work.comm & (work.launch >= 0))
    own = own[np.argsort(work.launch_ns[own], kind="stable")]
    spent, shared = _spent(work, own)
    behind = np.searchsorted(work.launch_ns[own], start, "left")
    ends = np.concatenate(([0], np.maximum.accumulate(work.end_ns[own])))
    heads = np.concatenate(([True], at[1:] != at[:-1])) if len(at) else np.zeros(0, bool)

    def since(total: Int64s) -> Int64s:
        return np.where(heads, 0, np.diff(total[behind], prepend=0))

    return Ready(
        step=passes.step[at].astype(np.int32),
        micro=(at - first[which[at]]).astype(np.int32),
        nelems=g.nelems[inside],
        start_ns=start,
        end_ns=g.end_ns[inside],
        ready_ns=ends[behind],
        work_ns=since(spent),
        beside_ns=since(shared),
    )


def _spent(work: GpuWork, own: Int64s) -> tuple[Int64s, Int64s]:
    """Time of some rows in the order of their launches, summed up: all, and beside communication.

    Work that was launched before what it follows had ended, and starts soon after, was queued: the
    GPU takes that time whatever the host does.
    """
    start, end, launch = work.start_ns[own], work.end_ns[own], work.launch_ns[own]
    gap = np.zeros(len(own), np.int64)
    gap[1:] = start[1:] - end[:-1]
    queued = np.zeros(len(own), bool)
    queued[1:] = (launch[1:] < end[:-1]) & (gap[1:] >= 0) & (gap[1:] < LAUNCH_DELAY_NS)
    length = end - start + np.where(queued, gap, 0)
    comm = work.comm
    beside = clip_lengths(union(work.start_ns[comm], work.end_ns[comm]), start, end)
    return (
        np.concatenate(([0], np.cumsum(length))),
        np.concatenate(([0], np.cumsum(beside))),
    )


@dataclass(frozen=True, slots=True)
class Bucket:
    """Gradients that are reduced together: their positions, and the one at whose hook they are.

    `at` is the number of gradients: the end of the backward pass.
    """

    members: tuple[int, ...]
    at: int
    nelems: int


def fill(sizes: Sequence[int], limit: int) -> tuple[Bucket, ...]:
    """Buckets that DeepSpeed makes of gradients that become ready in this order.

    A bucket is reduced in the hook of the first gradient that would overfill it, and the last one
    at the end of the pass (0.19.8 runtime/zero/stage_1_and_2.py and stage3.py,
    reduce_independent_p_g_buckets_and_remove_grads). Larger gradients go alone.

    Examples
    --------
    >>> [(b.members, b.at) for b in fill([4, 4, 4, 20, 1], 10)]
    [((0, 1), 2), ((2,), 3), ((3,), 4), ((4,), 5)]
    """
    made: list[Bucket] = []
    members: list[int] = []
    held = 0
    for i, n in enumerate(sizes):
        if members and held + n > limit:
            made.append(Bucket(tuple(members), i, held))
            members, held = [], 0
        members.append(i)
        held += n
    if members:
        made.append(Bucket(tuple(members), len(sizes), held))
    return tuple(made)
