"""Gradients of a rank in the order in which they became ready, and DeepSpeed's flush rule."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tracelens.links import TrackSpans
from tracelens.operands import first_nelems
from tracelens.steps import ACCUMULATE, EVALUATE
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
